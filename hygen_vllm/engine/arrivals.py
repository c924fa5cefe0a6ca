# SPDX-License-Identifier: Apache-2.0
"""The waiting online requests that vLLM could admit in the next step, and what each would take."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from vllm.v1.core.kv_cache_utils import KVCacheBlock
from vllm.v1.request import Request, RequestStatus

from hygen_vllm.engine.state import EngineState, PrefixProbe, lora_id


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


def ready_with_kv(state: EngineState, holding: Iterable[Request]) -> list[Request]:
    """Return those of the requests `holding` KV blocks while they wait that could run now."""
    return [r for r in holding if is_ready(state, r)] if state.can_admit_holding() else []


def expected_arrivals(
    state: EngineState,
    waiting: Iterable[Request],
    num_online: int,
    most_tokens_each: int,
    is_throttled: bool,
) -> Iterator[Arrival]:
    """Yield the requests vLLM would admit in this step if no offline request were here, in order.

    Those without a LoRA slot are passed over, as vLLM does (:906).

    Args:
        waiting: the online requests that vLLM walks through, in its order: `ready_with_kv` first.
        num_online: running online requests, the first of those that run.
        most_tokens_each: vLLM's cap of a chunk.
        is_throttled: vLLM stops at the first request that needs more than its last token (:1106).
    """
    online = state.running[:num_online]
    num_slots = state.slots - num_online
    num_tokens = state.max_step_tokens - sum(
        min(most_tokens_each, state.tokens_now(request)) for request in online
    )
    probe = PrefixProbe(state)
    adapters = {0}
    if state.max_loras is not None:
        adapters.update(lora_id(r) for r in online if state.holds_adapter(r))
    for request in waiting:
        if num_slots <= 0 or num_tokens <= 0:
            return
        if not is_ready(state, request):
            continue
        adapter = lora_id(request)
        if _has_no_slot(state, adapter, adapters):
            state.pass_over(request)
            continue
        arrival = _arrival(state, probe, request, min(num_tokens, most_tokens_each))
        if is_throttled and request.num_tokens - arrival.cached_tokens > 1:
            return
        num_slots -= 1
        num_tokens -= arrival.new_tokens
        adapters.add(adapter)
        yield arrival


def _has_no_slot(state: EngineState, adapter: int, adapters: AbstractSet[int]) -> bool:
    """Whether an adapter is not among those in use, which leave it no slot."""
    if state.max_loras is None or adapter in adapters:
        return False
    return len(adapters - {0}) >= state.max_loras


def is_ready(state: EngineState, request: Request) -> bool:
    """Whether a waiting request could run now (`_handle_blocked_waiting_request`)."""
    if request.num_stale_output_tokens and not request.drop_stale_output:
        return False
    if request.status == RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR:
        structured = request.structured_output_request
        return structured is not None and structured.grammar is not None
    if request.status == RequestStatus.WAITING_FOR_REMOTE_KVS:
        return state.has_loaded(request)
    return request.status in (RequestStatus.WAITING, RequestStatus.PREEMPTED)


def _arrival(state: EngineState, probe: PrefixProbe, request: Request, most_tokens: int) -> Arrival:
    hits, cached_tokens = probe.hit(request)
    cached_tokens = min(cached_tokens, request.num_tokens - 1)  # one is computed of all-loaded KV
    new_tokens = min(request.num_tokens - cached_tokens, most_tokens)
    return Arrival(
        request=request,
        new_tokens=new_tokens,
        cached_tokens=cached_tokens,
        all_blocks=state.all_blocks(request),
        chunk_blocks=state.blocks_to_add(request, cached_tokens + new_tokens),
        hits=tuple(map(Hits, hits, state.are_prefixes)),
    )
