# SPDX-License-Identifier: Apache-2.0
"""The waiting online requests that vLLM could admit in the next step, and what each would take."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from vllm.v1.core.kv_cache_utils import KVCacheBlock
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus

from hygen_vllm.engine import state


@dataclass(frozen=True, slots=True)
class Hits:
    """Cached blocks of one group of layers.

    Args: are_prefix: all blocks from the first on, so that whoever holds one holds those before it.
    """

    blocks: Sequence[KVCacheBlock]
    are_prefix: bool

    def num_held(self, adopted: AbstractSet[int]) -> int:
        """Return how many are held; see Arrival.num_held. O(log blocks) for a prefix."""
        blocks = self.blocks
        if not blocks:
            return 0

        def is_free(hit: KVCacheBlock) -> bool:
            return hit.ref_cnt == 0 and hit.block_id not in adopted

        if not self.are_prefix:
            return sum(not is_free(hit) for hit in blocks)
        if not is_free(blocks[-1]):  # mostly all are; copies of a block may be held one by one
            return sum(not is_free(hit) for hit in blocks) if is_free(blocks[0]) else len(blocks)
        return bisect_left(blocks, True, key=is_free)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A waiting online request.

    Args:
        new_tokens: tokens it can get in this step.
        cached_tokens: tokens computed before, prefix hits included.
        all_blocks: blocks it takes until all its tokens are computed, hits included. vLLM admits it
            only if they fit (scheduler_reserve_full_isl), but takes those of its chunk.
        chunk_blocks: blocks it takes until this step's tokens are computed, hits included.
        hits: cached blocks it shares, by group of layers; none of one that waits with KV.
    """

    request: Request
    new_tokens: int
    cached_tokens: int
    all_blocks: int
    chunk_blocks: int
    hits: tuple[Hits, ...]

    def num_held(self, adopted: AbstractSet[int]) -> int:
        """Return how many hits are not free: others hold them, or arrivals before `adopted` them.

        Args: adopted: block ids.
        """
        return sum(hits.num_held(adopted) for hits in self.hits)

    def adopts(self, adopted: AbstractSet[int]) -> list[int]:
        """Return the ids of its hits that are none of arrivals before. O(their number)."""
        block_ids = []
        for hits in self.hits:
            for hit in reversed(hits.blocks):
                if hit.block_id not in adopted:
                    block_ids.append(hit.block_id)
                elif hits.are_prefix:
                    break
        return block_ids


def ready_with_kv(scheduler: Any) -> list[Request]:
    """Return the online requests that wait with KV blocks and could run now, in vLLM's order."""
    if not state.can_admit_holding(scheduler):
        return []
    return [r for r in scheduler.kv_holding_waiting.online if is_ready(scheduler, r)]


def expected_arrivals(
    scheduler: Scheduler,
    waiting: Iterable[Request],
    num_online: int,
    most_tokens_each: int,
    is_throttled: bool,
) -> Iterator[Arrival]:
    """Yield the requests vLLM would admit in this step if no offline request were here, in order.

    Those without a LoRA slot are passed over, and counted as deferred, as vLLM does (:906).

    Args:
        waiting: the online requests that vLLM walks through, in its order: `ready_with_kv` first.
        num_online: running online requests, the first of `scheduler.running`.
        most_tokens_each: vLLM's cap of a chunk.
        is_throttled: vLLM stops at the first request that needs more than its last token (:1106).
    """
    num_slots = (
        scheduler.max_num_active_reqs - num_online - scheduler.num_waiting_for_streaming_input
    )
    num_tokens = scheduler.max_num_scheduled_tokens - sum(
        min(most_tokens_each, state.tokens_now(scheduler, request))
        for request in scheduler.running[:num_online]
    )
    probe, are_prefixes = state.PrefixProbe(scheduler), state.are_prefixes(scheduler)
    adapters = _online_adapters(scheduler, num_online)
    for request in waiting:
        if num_slots <= 0 or num_tokens <= 0:
            return
        if not is_ready(scheduler, request):
            continue
        adapter = state.lora_id(request)
        if _has_no_slot(scheduler, adapter, adapters):
            scheduler.deferred_waiting.add(request)
            continue
        most_tokens = min(num_tokens, most_tokens_each)
        arrival = _arrival(scheduler, probe, are_prefixes, request, most_tokens)
        if is_throttled and request.num_tokens - arrival.cached_tokens > 1:
            return
        num_slots -= 1
        num_tokens -= arrival.new_tokens
        adapters.add(adapter)
        yield arrival


def _online_adapters(scheduler: Scheduler, num_online: int) -> set[int]:
    """Return the LoRA adapters that running online requests hold, and 0 for none."""
    running = scheduler.running[:num_online] if scheduler.lora_config else []
    return {0, *(state.lora_id(r) for r in running if state.holds_adapter(scheduler, r))}


def _has_no_slot(scheduler: Scheduler, adapter: int, adapters: AbstractSet[int]) -> bool:
    """Whether an adapter is not among those in use, which leave it no slot."""
    if scheduler.lora_config is None or adapter in adapters:
        return False
    return len(adapters - {0}) >= scheduler.lora_config.max_loras


def is_ready(scheduler: Scheduler, request: Request) -> bool:
    """Whether a waiting request could run now (`_handle_blocked_waiting_request`)."""
    if request.num_stale_output_tokens and not request.drop_stale_output:
        return False
    if request.status == RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR:
        structured = request.structured_output_request
        return structured is not None and structured.grammar is not None
    if request.status == RequestStatus.WAITING_FOR_REMOTE_KVS:
        return state.has_loaded(scheduler, request)
    return request.status in (RequestStatus.WAITING, RequestStatus.PREEMPTED)


def _arrival(
    scheduler: Scheduler,
    probe: state.PrefixProbe,
    are_prefixes: Sequence[bool],
    request: Request,
    most_tokens: int,
) -> Arrival:
    hits, cached_tokens = probe.hit(request)
    cached_tokens = min(cached_tokens, request.num_tokens - 1)  # one is computed of all-loaded KV
    new_tokens = min(request.num_tokens - cached_tokens, most_tokens)
    return Arrival(
        request=request,
        new_tokens=new_tokens,
        cached_tokens=cached_tokens,
        all_blocks=scheduler._request_remaining_blocks(request),
        chunk_blocks=state.blocks_to_add(scheduler, request, cached_tokens + new_tokens),
        hits=tuple(map(Hits, hits, are_prefixes)),
    )
