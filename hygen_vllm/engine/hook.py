# SPDX-License-Identifier: Apache-2.0
"""The step vLLM is building: asks the plan for each request that vLLM passes through the hook."""

import math
from collections.abc import Callable, Container, MutableMapping, Sequence
from dataclasses import InitVar, dataclass, field
from functools import partial

from vllm.v1.request import Request, RequestStatus

from hygen_vllm.engine.arrivals import Arrival
from hygen_vllm.engine.make_room import Room
from hygen_vllm.engine.state import EngineState, is_decode, lora_id
from hygen_vllm.engine.waiting_queue import TwoLaneQueue
from hygen_vllm.step.budget import OfflineBudget
from hygen_vllm.step.grant import ChunkView, Refusal, grant_chunk, grant_decode
from hygen_vllm.step.plan import StepPlan

RUNNING = RequestStatus.RUNNING
LACKS_ROOM = (Refusal.BLOCKS, Refusal.ENCODER, Refusal.ADAPTERS)
"""Reasons for which one request is refused, and others may fit."""
PATIENCE_S = 30.0
"""A running request that no step has the seconds for keeps newcomers out for so long."""


@dataclass(eq=False)
class OpenStep:
    """Lives from the plan of a step to the end of vLLM's schedule().

    Args:
        queue: of the requests that wait; its offline lane closes at the first that is refused.
        plan: what is left for offline; arrivals are charged to it at once, running online requests
            as they pass.
        room: what is left for offline after online's share is set aside.
        waiting_online: waiting online requests that can start.
        offline_ids: requests of the offline class.
        too_long: since when no step has had the seconds that a running one needs, by id.
        blocks_to_start: free KV blocks with which an offline request may start.
        num_online_running: running online requests.
        min_chunk_tokens, max_chunk_tokens: smallest offline chunk worth granting, largest allowed.
        is_throttled: prefills are to be deferred for the sake of other data-parallel ranks.
    """

    state: EngineState
    queue: TwoLaneQueue
    plan: StepPlan
    room: Room
    waiting_online: InitVar[Sequence[Arrival]]
    offline_ids: Container[str]
    too_long: MutableMapping[str, float]
    blocks_to_start: Callable[[Request], float]
    now_s: float
    num_online_running: int
    min_chunk_tokens: int
    max_chunk_tokens: int
    is_throttled: bool
    refused: list[Refusal] = field(default_factory=list)
    offline_is_stuck: bool = False
    """A running offline request lacked KV blocks."""
    granted: list[Request] = field(default_factory=list)
    """Offline requests that may start in this step, or load their KV."""

    def __post_init__(self, waiting_online: Sequence[Arrival]) -> None:
        self.num_preempted = self.room.num_preempted
        self._arrivals = {
            arrival.request.request_id: self._charge_arrival(arrival) for arrival in waiting_online
        }
        """Most tokens of each."""
        self._hits_in_danger = self.room.hits
        """Hits of arrivals that offline work could evict before vLLM comes to them."""
        self._adapters = set(self.room.adapters)
        self._counts_decode_blocks = not self._set_decode_blocks_aside()

    def _set_decode_blocks_aside(self) -> bool:
        """Where blocks are plenty, take those of a decode for each offline request; say if done."""
        num_offline = len(self.state.running) - self.num_online_running
        blocks = num_offline * self.state.most_blocks_per_decode
        if 4 * blocks > self.plan.blocks_left:
            return False
        self.plan.blocks_left -= blocks
        return True

    def limit(self, request: Request, computed: int, wanted: int) -> int:
        """Return the tokens a request gets in this step, 0 if it is refused.

        An online request that vLLM is scheduling gets what it wants, and is charged; only a prefill
        may get less, where a target for the tokens of others says so.
        """
        if wanted == 0:
            return 0
        request_id = request.request_id
        if request_id in self.offline_ids:
            if self._hits_in_danger:
                self._keep_hits()
            if request.status is RUNNING and not request.is_prefill_chunk:
                return self._limit_offline_decode(request, computed, wanted)
            return self._limit_offline_prefill(request, computed, wanted)
        if request_id in self._arrivals:
            return int(min(wanted, self._arrivals[request_id]))
        plan, share = self.plan, self.plan.share
        if request.status is RUNNING:
            is_prefill, cap = request.is_prefill_chunk, share.cap_prefill
        else:  # nobody expected that it could start in this step
            is_prefill, cap = not is_decode(request, computed), share.cap_arrival_prefill
        if is_prefill and self.state.can_split(request):
            wanted = cap(wanted)
            if not wanted:
                return 0
        if plan.budget is None:  # as in charge_online, with a call less
            share.charge(wanted, computed, not is_prefill)
        else:
            plan.charge_online(wanted, computed, not is_prefill)
        return wanted

    def may_load(self, request: Request) -> bool:
        """Whether the KV of an offline request may be loaded here and now.

        Its blocks could not be taken from it until that is done. It is charged as what it will be,
        a request whose last token is to be computed.
        """
        return self.limit(request, request.num_tokens - 1, 1) > 0

    def _charge_arrival(self, arrival: Arrival) -> float:
        """Charge a waiting online request; return the most tokens it may get."""
        request, computed, tokens = arrival.request, arrival.cached_tokens, arrival.new_tokens
        is_last, most = is_decode(request, computed), math.inf
        is_capped = self.plan.share.arrival_prefill_left < math.inf and not is_last
        if is_capped and self.state.can_split(request):
            tokens = most = self.plan.share.cap_arrival_prefill(tokens)
        if most:
            self.plan.charge_online(tokens, computed, is_last)
        return most

    def _limit_offline_decode(self, request: Request, computed: int, wanted: int) -> int:
        budget = self.plan.budget or self.plan.close()
        is_first = not budget.has_offline
        blocks = 0
        if self._counts_decode_blocks:
            blocks = self.state.blocks_to_add(request, computed + wanted)
        result = grant_decode(budget, wanted, computed, blocks)
        if isinstance(result, Refusal):
            return self._skip(request, result, is_first)
        if self.too_long:
            self.too_long.pop(request.request_id, None)
        return result

    def _limit_offline_prefill(self, request: Request, computed: int, wanted: int) -> int:
        budget = self.plan.budget or self.plan.close()
        is_running, is_first = request.status is RUNNING, not budget.has_offline
        result = self._grant_prefill(budget, request, computed, wanted)
        if not isinstance(result, Refusal):
            if not is_running:
                self.granted.append(request)
            self.too_long.pop(request.request_id, None)
            return result
        if is_running:
            return self._skip(request, result, is_first)
        self.refused.append(result)
        if request.num_computed_tokens > 0:
            # It holds KV blocks while it waits: only running can it finish or be preempted. So it
            # gets a little although it was refused, and nothing of the plan.
            if _is_padded(request, computed, wanted) or not self.state.can_chunk:
                return wanted
            least = min(wanted, self.min_chunk_tokens)
            return self.state.allowed_chunk(request, computed, least) or wanted
        self._do_not_start(request, result)
        return 0

    def _skip(self, request: Request, reason: Refusal, is_first: bool) -> int:
        """Note that a running request gets nothing in this step.

        Args: is_first: no other offline request has got anything.
        """
        self.refused.append(reason)
        self.offline_is_stuck |= reason is Refusal.BLOCKS
        if reason is Refusal.LATENCY and not self._is_too_long(request, is_first):
            # no newcomer takes the seconds that it waits for
            self.queue.offline_is_open = False
        return 0

    def _keep_hits(self) -> None:
        """Keep what arrivals share from the offline work that runs before them in this step.

        What online requests have evicted by now they would have evicted without it.
        """
        num_offline = len(self.state.running) - self.num_online_running
        most = num_offline * self.state.most_blocks_per_decode
        most += self.state.most_blocks_to_grow(self.plan.share.max_tokens)
        self.state.keep_cached(self._hits_in_danger, most)
        self._hits_in_danger = frozenset()

    def _is_too_long(self, request: Request, is_first: bool) -> bool:
        """Whether what a running request needs has long been more than all of a step's seconds.

        Args: is_first: no other offline request has taken any in this step.
        """
        if is_first:
            self.too_long.setdefault(request.request_id, self.now_s)
        since_s = self.too_long.get(request.request_id, self.now_s)
        return self.now_s - since_s >= PATIENCE_S

    def _do_not_start(self, request: Request, reason: Refusal) -> None:
        """Let no offline request start in this step after one that was refused."""
        if reason in LACKS_ROOM:
            self.queue.offline.no_room(request)
        self.queue.offline_is_open = False
        self.state.free_encoder_cache(request)

    def _grant_prefill(
        self, budget: OfflineBudget, request: Request, computed: int, wanted: int
    ) -> int | Refusal:
        if self.is_throttled and request.num_tokens - computed > 1:
            return Refusal.THROTTLED
        if self.room.encoder_is_reserved and request.has_encoder_inputs:
            return Refusal.ENCODER
        if not self._join_adapters(lora_id(request)):
            return Refusal.ADAPTERS
        is_padded = _is_padded(request, computed, wanted)
        can_split = self.state.can_chunk and wanted > 1
        chunk = ChunkView(
            wanted_tokens=wanted if is_padded else min(wanted, self.max_chunk_tokens),
            computed_tokens=computed,
            can_split=can_split and not is_padded,
            min_tokens=self.min_chunk_tokens,
            end_at=partial(self._end_of_chunk, budget, request, computed, wanted),
        )
        if request.status is RUNNING:
            return grant_chunk(budget, chunk, partial(self._blocks_to_grow, request, computed))
        return grant_chunk(budget, chunk, self._blocks_of_start(request))

    def _blocks_of_start(self, request: Request) -> Callable[[int], int]:
        """Return what counts the blocks a waiting request needs, however small its first chunk is.

        They are counted once, when first asked for.
        """
        counted: list[int] = []

        def blocks_needed(_: int) -> int:
            if not counted:
                counted.append(math.ceil(self.blocks_to_start(request)))
            return counted[0]

        return blocks_needed

    def _end_of_chunk(
        self, budget: OfflineBudget, request: Request, computed: int, wanted: int, tokens: int
    ) -> int:
        """Return the largest chunk of at most `tokens` that may end where it does, 0 for none."""
        if tokens == wanted:
            return tokens
        allowed = self.state.allowed_chunk(request, computed, tokens)
        return allowed or (wanted if budget.is_alone else 0)

    def _join_adapters(self, adapter: int) -> bool:
        """Count an adapter among those that running requests hold; False if there is no slot."""
        if not adapter or adapter in self._adapters:
            return True
        if len(self._adapters) >= (self.state.max_loras or 0):
            return False
        self._adapters.add(adapter)
        return True

    def _blocks_to_grow(self, request: Request, computed: int, new_tokens: int) -> int:
        return self.state.blocks_to_add(request, computed + new_tokens)


@dataclass(frozen=True)
class OnlineOnlyStep:
    """Stands for an OpenStep that could not be made, or not be finished: nothing for offline.

    Args:
        offline_ids: requests of the offline class.
        num_online_running: running online requests.
        granted: who may have started before.
        num_preempted: before.
    """

    offline_ids: Container[str]
    num_online_running: int
    granted: Sequence[Request]
    num_preempted: int
    plan: StepPlan | None = None
    offline_is_stuck: bool = False
    refused: Sequence[Refusal] = ()

    def limit(self, request: Request, _: int, wanted: int) -> int:
        """Return the tokens a request gets in this step, 0 if it is offline."""
        return 0 if request.request_id in self.offline_ids else wanted

    def may_load(self, _: Request) -> bool:
        """Whether the KV of an offline request may be loaded: not now."""
        return False


def _is_padded(request: Request, computed: int, wanted: int) -> bool:
    """Whether vLLM padded a last token to the size of a speculative decode: all of it or nothing.

    0.32.0, v1/core/sched/scheduler.py:1150.
    """
    return wanted > request.num_tokens - computed
