# SPDX-License-Identifier: Apache-2.0
"""Opens the steps of an engine with offline requests: room for online, a plan for the rest."""

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

from vllm.v1.request import Request

from hygen_vllm.config import HyGenConfig
from hygen_vllm.cost.learner import CostLearner
from hygen_vllm.engine.arrivals import Arrival, expected_arrivals, is_ready, ready_with_kv
from hygen_vllm.engine.hook import OpenStep
from hygen_vllm.engine.kv_reserve import KvReserve
from hygen_vllm.engine.make_room import Room, RoomMaker, room_of_decodes
from hygen_vllm.engine.requests import Follower
from hygen_vllm.engine.slo_control import SloControl
from hygen_vllm.engine.state import EngineState, lora_id, sum_over
from hygen_vllm.engine.waiting_queue import WaitingQueues
from hygen_vllm.kv.pace import Pace, pace_of
from hygen_vllm.lane.offline_queue import Start
from hygen_vllm.step.gate import BATCH_GATE, Gate
from hygen_vllm.step.online_share import OnlineShare
from hygen_vllm.step.plan import StepPlan

ORDERING_SHARE = 0.011
"""Share of the time of steps that putting a backlog in order may take by itself. With what it does
to caches and to the collector steps are 2 % longer at most (experiments/05-offline-lane)."""
SIZES_SEEN = 2
"""While step times are unknown, so many times the largest prefill that was measured may be tried:
what is learned of one size tells of the next, not of one ten times as large."""
NO_PACE = Pace()
UNKNOWN_STEP_S = 0.01
"""Taken for the seconds of a step before one has completed."""


@dataclass
class StepBuilder(Follower):
    """Opens one step after the other.

    Args:
        offline_ids: requests of the offline class.
        offline_is_stuck: a running offline request lacked KV blocks in the last step.
        too_long: since when no step has had the seconds that a running offline request needs, by
            its id.
    """

    state: EngineState
    config: HyGenConfig
    queues: WaitingQueues
    offline_ids: Collection[str]
    kv_reserve: KvReserve
    slo_control: SloControl | None
    offline_is_stuck: bool = False
    too_long: dict[str, float] = field(default_factory=dict)
    _in_order: tuple[int, int] | None = None
    """How many run, and how many of them are online, where all are decodes and in order; None if
    that may have changed."""

    def started(self, request: Request, is_offline: bool, computed_tokens: int) -> None:  # noqa: ARG002
        self._in_order = None

    def preempted(self, request: Request, is_offline: bool) -> None:  # noqa: ARG002
        self._in_order = None

    def left(self, request: Request, is_offline: bool) -> None:  # noqa: ARG002
        self._in_order = None
        self.too_long.pop(request.request_id, None)

    def open(
        self,
        gate: Gate,
        learner: CostLearner,
        *,
        expects_online: bool,
        is_throttled: bool,
        step_s: float,
        now_s: float,
    ) -> tuple[OpenStep, bool]:
        """Make room for the online class and plan the step; return it, and whether vLLM defers
        prefills in it.

        Args:
            expects_online: an online request may come at any moment.
            is_throttled: prefills are to be deferred for the sake of other data-parallel ranks.
            step_s: how long the last step took, 0 if none has completed.
        """
        state = self.state
        num_online, is_decoding = self._put_online_first()
        can_admit = state.can_admit_waiting()
        defers_prefills = is_throttled and self._defers_prefills(num_online)
        waiting, holding = self.queues.waiting, self.queues.holding
        num_waiting = self.queues.num_online(), self.queues.num_offline()
        cap, offline_cap = chunk_caps(state, num_online, *num_waiting)
        arrivals: list[Arrival] = []
        num_behind = 0
        if num_waiting[0]:
            with_kv = ready_with_kv(state, holding.online)
            if with_kv or (can_admit and waiting.online):
                coming = chain(with_kv, waiting.online if can_admit else ())
                arrivals = [*expected_arrivals(state, coming, num_online, cap, defers_prefills)]
            num_ready = len(with_kv) + sum_over(waiting.online, partial(is_ready, state))
            num_behind = max(0, num_ready - len(arrivals))
        room = None
        if is_decoding and not (arrivals or self.offline_is_stuck):
            room = room_of_decodes(state, num_online)
        if room is None:
            room = RoomMaker(
                state,
                holding.offline,
                arrivals,
                num_online=num_online,
                most_tokens_each=cap,
                remaining_tokens=self.kv_reserve.remaining_tokens,
                now_s=now_s,
            ).make_room(self.offline_is_stuck)
        num_behind += len(arrivals) - room.num_arrivals
        arrivals = arrivals[: room.num_arrivals]
        self.kv_reserve.start_step(num_online)
        state.forget_passed_over(self._is_offline)
        if len(holding.offline):
            self._offer_kv_holding(room.blocks_left, len(arrivals), now_s)
        is_open = can_admit and not room.num_preempted
        room_for = partial(self._room_for, room, num_online)
        waiting.start_step(is_open, now_s, *self._ordering(num_online, step_s), room_for)
        share = OnlineShare(
            cost=learner.cost if gate.mode != "off" else None,
            max_tokens=state.max_step_tokens,
            slots_per_request=state.draft_slots,
            has_online=bool(num_online or arrivals),
            num_behind=num_behind,
        )
        if self.slo_control is not None:
            arriving_tokens = sum(arrival.new_tokens for arrival in arrivals)
            self.slo_control.shorten_online(share, state.running[:num_online], arriving_tokens)
        plan = StepPlan(
            gate=gate if expects_online else BATCH_GATE,
            share=share,
            blocks_left=room.blocks_left,
            prefill_tokens_left=self._trusted_prefill(gate, learner, expects_online),
            pace=self._pace(gate, room.blocks_left),
        )
        step = OpenStep(
            state,
            waiting,
            plan,
            room,
            arrivals,
            offline_ids=self.offline_ids,
            too_long=self.too_long,
            blocks_to_start=self.kv_reserve.blocks_to_start,
            now_s=now_s,
            num_online_running=num_online,
            min_chunk_tokens=self.config.min_chunk_tokens,
            max_chunk_tokens=offline_cap,
            is_throttled=is_throttled if num_online or num_waiting[0] else defers_prefills,
        )
        return step, defers_prefills

    def _trusted_prefill(self, gate: Gate, learner: CostLearner, expects_online: bool) -> int:
        """Return the offline prefill tokens up to which the costs are trusted."""
        if gate.mode == "off" or not expects_online or learner.trusts_any_size:
            return self.state.max_step_tokens
        seen = learner.largest_prefill_tokens
        return int(max(self.config.min_chunk_tokens, SIZES_SEEN * seen))

    def _pace(self, gate: Gate, blocks_left: int) -> Pace:
        """Return what the KV blocks that are left make of offline work."""
        following = None if gate.mode == "off" else self.queues.waiting.offline.next_candidate()
        if following is None:
            return NO_PACE
        its_blocks = max(1.0, following.num_tokens / self.state.tokens_per_block)
        return pace_of(blocks_left, its_blocks, self.kv_reserve.num_running)

    def _put_online_first(self) -> tuple[int, bool]:
        """Order `running`: online, offline decodes, offline prefills.

        vLLM scans this list in order and, under fcfs, preempts its last member. Returns the number
        of those that are online, and whether all of these decode.
        """
        num_running = len(self.state.running)
        if self._in_order is not None and self._in_order[0] == num_running:
            return self._in_order[1], True
        offline_ids = self.offline_ids
        online: list[Request] = []
        decodes: list[Request] = []
        prefills: list[Request] = []
        for request in self.state.running:
            if request.request_id not in offline_ids:
                online.append(request)
            elif request.is_prefill_chunk:
                prefills.append(request)
            else:
                decodes.append(request)
        self.state.reorder_running(online + decodes + prefills)
        is_decoding = not any(request.is_prefill_chunk for request in online)
        is_lasting = is_decoding and not prefills and not self.state.may_compute_again
        self._in_order = (num_running, len(online)) if is_lasting else None
        return len(online), is_decoding

    def _offer_kv_holding(self, blocks_left: int, num_arrivals: int, now_s: float) -> None:
        """Offer offline requests that wait with KV blocks, unless that could hold up online ones.

        vLLM admits nobody behind one of them that cannot go on. One whose load failed has none and
        waits like any other.
        """
        queue = self.queues.holding
        for request in [*queue.offline]:
            if not request.num_computed_tokens and self.state.has_loaded(request):
                self.state.wait_without_kv(request)
        queue.start_step(True, now_s)
        head = queue.peek_offline()
        rest = 0 if head is None else head.num_tokens - head.num_computed_tokens
        chunk = max(1, min(self.config.min_chunk_tokens, rest))
        needed = self.state.most_blocks_to_grow(chunk)
        has_others = bool(self.state.running or num_arrivals)
        slots_left = self.state.slots - len(self.state.running) - num_arrivals
        queue.offline_is_open = slots_left > 0 and (blocks_left >= needed or not has_others)
        queue.closes_after_one = has_others  # room was looked for one of them

    def _room_for(self, room: Room, num_online: int, request: Request) -> Start:
        """Return whether an offline request could start now, or where no other one ran."""
        if room.encoder_is_reserved and request.has_encoder_inputs:
            return Start.NOT
        adapter = lora_id(request)
        is_later = False
        if adapter and adapter not in room.adapters:
            max_loras = self.state.max_loras or 0
            if len(room.online_adapters) >= max_loras:
                return Start.NOT
            is_later = len(room.adapters) >= max_loras
        blocks = self.kv_reserve.blocks_to_start(request)
        if blocks > room.blocks_left:
            is_later = True
            freed = sum(map(self.state.num_unshared, self.state.running[num_online:]))
            if self.kv_reserve.blocks_to_start_alone(request) > room.blocks_left + freed:
                return Start.NOT
        return Start.LATER if is_later else Start.NOW

    def _ordering(self, num_online: int, step_s: float) -> tuple[float, int]:
        """Return the seconds for putting a backlog in order, and how many have to be in order.

        Where no online request is here nobody waits for it: then every free slot gets a request.
        """
        order_s = ORDERING_SHARE * (step_s or UNKNOWN_STEP_S)
        if num_online or self.queues.num_online():
            return order_s, 1
        return order_s, max(1, self.state.max_running - len(self.state.running))

    def _defers_prefills(self, num_online: int) -> bool:
        """Whether a throttled step defers prefills (:636): online ones for online decodes only."""
        has_online = num_online or self.queues.num_online()
        return self.state.defers_prefills(num_online if has_online else len(self.state.running))

    def _is_offline(self, request: Request) -> bool:
        return request.request_id in self.offline_ids


def chunk_caps(
    state: EngineState, num_online: int, num_waiting_online: int, num_waiting_offline: int
) -> tuple[int, int]:
    """Return vLLM's caps of a chunk: counting online requests only, and counting all."""
    if not state.has_chunk_cap():
        return state.max_step_tokens, state.max_step_tokens
    online_cap = state.chunk_cap(num_online + num_waiting_online)
    num_waiting = num_waiting_online + num_waiting_offline
    return online_cap, state.chunk_cap(len(state.running) + num_waiting)
