# SPDX-License-Identifier: Apache-2.0
"""Makes room for the online class before vLLM builds a step, by preempting offline requests.

vLLM admits no waiting request in a step in which it had to preempt (:900), and under its priority
policy it may choose an online victim. So whatever online needs in this step is free before vLLM
looks: slots, LoRA adapters, encoder cache, KV blocks. Victims are those that lose least: tokens
to be computed again, where nobody else keeps their blocks cached, over the tokens that they have
still to make, for which they would hold their blocks. One that frees enough alone goes before
several that lose more. A request that waits with the KV that a connector loaded for it, which vLLM
would leave it, is a victim like one that runs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus

from hygen_vllm import vllm_view as view
from hygen_vllm.online_arrivals import Arrival

PATIENCE_TOKENS = 100.0
"""Beside so many, a few tokens less to make hardly matter."""


@dataclass(frozen=True, slots=True)
class Room:
    """What is left for offline after online's share is set aside."""

    num_preempted: int
    blocks_left: int
    adapters: frozenset[int]
    """LoRA adapters that running requests and arrivals hold."""
    encoder_is_reserved: bool
    """Whether online requests need the encoder, now or soon."""
    online_adapters: frozenset[int] = frozenset()
    """Those of them that online requests hold."""


class RoomMaker:
    """One step's preemptions.

    Args:
        scheduler: its `running` holds online requests before offline ones.
        arrivals: waiting online requests that could run in this step, in order.
        num_online: running online requests.
        most_tokens_each: vLLM's cap of a chunk.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        arrivals: Sequence[Arrival],
        num_online: int,
        most_tokens_each: int,
        now_s: float,
    ) -> None:
        self._scheduler = scheduler
        self._arrivals = arrivals
        self._now_s = now_s
        self._online = scheduler.running[:num_online]
        self._most_tokens_each = most_tokens_each
        self._encodes = [r for r in self._online if r.has_encoder_inputs and r.is_prefill_chunk] + [
            arrival.request for arrival in arrivals if arrival.request.has_encoder_inputs
        ]
        """Online requests that have tokens to compute which may be of images, say."""
        self._growth = self._running_growth(most_tokens_each)
        self._has_holding = len(scheduler.kv_holding_waiting.offline) > 0
        self.num_preempted = 0

    def make_room(self, offline_is_stuck: bool) -> Room:
        """Preempt what online needs and return what is left.

        Args:
            offline_is_stuck: a running offline request lacked KV blocks in the last step.
        """
        has_loras = self._scheduler.lora_config is not None
        if self._offline():
            if self._arrivals:
                self._free_slots()
            if has_loras:
                self._free_adapters()
        if self._holders():
            if self._encodes:
                self._free_encoder_cache()
            self._free_blocks()
        if offline_is_stuck and not self.num_preempted and len(self._holders()) > 1:
            self._preempt(min(self._holders(), key=self._loss))
        return Room(
            num_preempted=self.num_preempted,
            blocks_left=max(0, view.free_blocks(self._scheduler) - self._blocks_set_aside()),
            adapters=self._adapters(self._scheduler.running) if has_loras else frozenset(),
            encoder_is_reserved=bool(self._encodes),
            online_adapters=self._adapters(self._online) if has_loras else frozenset(),
        )

    def _offline(self) -> list[Request]:
        return self._scheduler.running[len(self._online) :]

    def _holders(self) -> list[Request]:
        """Return the offline requests whose KV blocks can be taken."""
        if not self._has_holding:
            return self._offline()
        waiting = self._scheduler.kv_holding_waiting.offline
        return [*self._offline(), *(r for r in waiting if view.has_loaded(self._scheduler, r))]

    def _loss(self, request: Request) -> tuple[float, int]:
        rest = self._scheduler.kv_reserve.remaining_tokens(request) + PATIENCE_TOKENS
        return view.num_unshared(self._scheduler, request) / rest, request.num_computed_tokens

    def _preempt(self, victim: Request) -> None:
        scheduler = self._scheduler
        if victim.status == RequestStatus.RUNNING:
            scheduler.running.remove(victim)
            scheduler._preempt_request(
                victim, self._now_s, drop_stale_output=scheduler.requires_kv_delivery
            )
        else:
            scheduler.wait_without_kv(victim)
        self.num_preempted += 1

    def _preempt_until(self, enough: Callable[[], bool], victims: Iterable[Request]) -> None:
        if not enough():
            for victim in sorted(victims, key=self._loss):
                self._preempt(victim)
                if enough():
                    return

    def _free_slots(self) -> None:
        scheduler = self._scheduler
        num_slots = scheduler.max_num_active_reqs - scheduler.num_waiting_for_streaming_input
        most_running = num_slots - len(self._arrivals)
        self._preempt_until(lambda: len(scheduler.running) <= most_running, self._offline())

    def _adapters(self, running: Iterable[Request]) -> frozenset[int]:
        """Adapters of running requests, then of arrivals in order while they fit."""
        adapters = {view.lora_id(request) for request in running} - {0}
        for arrival in self._arrivals:
            adapter = view.lora_id(arrival.request)
            if adapter and len(adapters) < self._scheduler.lora_config.max_loras:
                adapters.add(adapter)
        return frozenset(adapters)

    def _free_adapters(self) -> None:
        online = [r for r in self._online if view.holds_adapter(self._scheduler, r)]
        wanted = self._adapters(online)
        max_loras = self._scheduler.lora_config.max_loras
        self._preempt_until(
            lambda: len(wanted | ({view.lora_id(r) for r in self._offline()} - {0})) <= max_loras,
            [r for r in self._offline() if view.lora_id(r) not in wanted | {0}],
        )

    def _free_encoder_cache(self) -> None:
        scheduler = self._scheduler
        cache = scheduler.encoder_cache_manager
        wanted = 0
        for request in self._encodes:  # of one that runs, what it comes to in this step
            is_running = request.status == RequestStatus.RUNNING
            until = request.num_computed_tokens + self._most_tokens_each
            until = until if is_running else request.num_tokens
            wanted += view.missing_encoder_embeds(scheduler, request, until)
        self._preempt_until(
            lambda: cache.num_freeable_slots >= min(wanted, cache.cache_size),
            [r for r in self._holders() if view.holds_encoder_cache(scheduler, r)],
        )

    def _free_blocks(self) -> None:
        """Free blocks for running online requests, then for arrivals, in order.

        Stops at the first arrival for which preempting every offline request would not be enough:
        vLLM admits none behind it, so preempting for those would help nobody.
        """
        self._preempt_until_free(lambda: self._growth)
        before = self._growth, set[int]()
        for count, arrival in enumerate(self._arrivals, start=1):
            taken, adopted = before
            held = arrival.held(adopted, {})
            is_busy = count > 1 or bool(self._scheduler.running)
            needed = taken + max(0, arrival.all_blocks - sum(held))
            if view.free_blocks(self._scheduler) < needed + self._watermark_blocks(is_busy):
                if not self._would_have_blocks_for(count):
                    return
                num_preempted = self.num_preempted
                self._preempt_until_free(partial(self._blocks_wanted, count))
                if self.num_preempted > num_preempted:  # what was held by others is free now
                    taken, adopted = self._taken_by(count - 1, {})
                    held = arrival.held(adopted, {})
            before = taken + max(0, arrival.chunk_blocks - sum(held)), adopted
            arrival.adopt(adopted, held)

    def _preempt_until_free(self, wanted: Callable[[], int]) -> None:
        """Preempt until as many blocks are free as are wanted; victims may change how many."""
        scheduler = self._scheduler
        short = wanted() - view.free_blocks(scheduler)
        if short <= 0:
            return
        victims = sorted(self._holders(), key=self._loss)
        freed = {victim: view.num_unshared(scheduler, victim) for victim in victims}
        alone = next((victim for victim, blocks in freed.items() if blocks >= short), None)
        if alone is not None and freed[alone] <= _least_sum(freed.values(), short):
            self._preempt(alone)
        self._preempt_until(lambda: view.free_blocks(scheduler) >= wanted(), self._holders())

    def _blocks_wanted(self, count: int) -> int:
        """Free blocks with which vLLM would admit the first `count` arrivals now."""
        is_busy = count > 1 or bool(self._scheduler.running)
        return self._blocks_needed(count, offline_refs={}) + self._watermark_blocks(is_busy)

    def _would_have_blocks_for(self, count: int) -> bool:
        """Whether vLLM would admit them if no offline request ran."""
        scheduler = self._scheduler
        offline = self._holders()
        free = view.free_blocks(scheduler) - self._watermark_blocks(count > 1 or bool(self._online))
        most_freed = sum(view.num_held(scheduler, request) for request in offline)
        if free + most_freed < self._blocks_needed(count, offline_refs={}):
            return False  # the common case, told without looking at every block
        offline_refs = view.block_holders(scheduler, offline)
        freed = view.num_freed(scheduler, offline_refs)
        return free + freed >= self._blocks_needed(count, offline_refs)

    def _blocks_needed(self, count: int, offline_refs: Mapping[int, int]) -> int:
        """Free blocks with which the last of the first `count` arrivals passes vLLM's check.

        Those before it have taken the blocks of their chunks by then; it has to fit whole.
        """
        taken, adopted = self._taken_by(count - 1, offline_refs)
        last = self._arrivals[count - 1]
        return taken + max(0, last.all_blocks - sum(last.held(adopted, offline_refs)))

    def _taken_by(self, count: int, offline_refs: Mapping[int, int]) -> tuple[int, set[int]]:
        """Free blocks that the first `count` arrivals have taken, and the hits they adopted."""
        taken, adopted = self._growth, set[int]()
        for arrival in self._arrivals[:count]:
            held = arrival.held(adopted, offline_refs)
            taken += max(0, arrival.chunk_blocks - sum(held))
            arrival.adopt(adopted, held)
        return taken, adopted

    def _watermark_blocks(self, is_busy: bool) -> int:
        """Blocks vLLM keeps free when it admits a request while others run."""
        return self._scheduler.kv_cache_manager.watermark_blocks if is_busy else 0

    def _blocks_set_aside(self) -> int:
        """Blocks kept from offline: growth, and all that arrivals will need beyond this step."""
        if not self._arrivals:
            return self._growth
        taken = sum(max(0, a.all_blocks - sum(a.held(frozenset(), {}))) for a in self._arrivals)
        return self._growth + taken + self._watermark_blocks(is_busy=True)

    def _running_growth(self, most_tokens_each: int) -> int:
        """Blocks running online requests may take in this step; a bound where blocks are plenty."""
        scheduler = self._scheduler
        if not self._arrivals:
            rough = len(self._online) * scheduler.most_blocks_per_decode
            are_decodes = all(not request.is_prefill_chunk for request in self._online)
            if are_decodes and rough <= view.free_blocks(scheduler) // 8:
                return rough
        return sum(
            view.blocks_to_add(
                scheduler,
                request,
                request.num_computed_tokens
                + min(most_tokens_each, view.tokens_now(scheduler, request)),
            )
            for request in self._online
        )


def _least_sum(numbers: Iterable[int], enough: int) -> int:
    """Return the first sum of leading numbers that is enough, or the sum of all."""
    total = 0
    for number in numbers:
        total += number
        if total >= enough:
            break
    return total
