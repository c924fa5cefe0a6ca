# SPDX-License-Identifier: Apache-2.0
"""What HyGen reads of vLLM's private scheduler state, and the little it changes.

One function a question. Line numbers are those of vLLM 0.32.0, v1/core/sched/scheduler.py.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Any

from vllm import __version__ as vllm_version
from vllm.v1.core.kv_cache_utils import BlockHash, KVCacheBlock
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.request_queue import RequestQueue
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.request import Request, RequestStatus

from hygen_vllm.cost.composition import StepComposition
from hygen_vllm.engine.release import release_of
from hygen_vllm.targets.online_alone import EngineLimits

MOST_LOOKED_AT = 256
"""Requests of a queue that are asked."""
COUNTS_IDLE_ADAPTERS = release_of(vllm_version) >= (0, 33)
ADMITS_HOLDING_WHILE_PAUSED = release_of(vllm_version) >= (0, 32)


def is_decode(request: Request, num_computed_tokens: int) -> bool:
    """Whether only sampled tokens are left to compute."""
    return num_computed_tokens >= request.num_tokens - 1


def extra_args(request: Request) -> dict[str, Any] | None:
    """Return the labels of a request (vllm_xargs); of a pooling request its extra_kwargs."""
    if request.sampling_params is not None:
        return request.sampling_params.extra_args
    return getattr(request.pooling_params, "extra_kwargs", None)


def sum_over(queue: RequestQueue, value: Callable[[Request], int]) -> int:
    """Return the sum of a value over a queue; of a long one a part tells of the others.

    vLLM's priority queue sorts itself to be walked through, so it is looked at in any order.
    """
    some = [*islice(getattr(queue, "_heap", queue), MOST_LOOKED_AT)]
    return sum(map(value, some)) * len(queue) // len(some) if some else 0


def tokens_waiting(queue: RequestQueue) -> int:
    """Return the tokens of the requests of a queue, about."""
    return sum_over(queue, lambda request: request.num_tokens)


def num_coming_free(blocks: Iterable[KVCacheBlock]) -> int:
    """How many blocks come free when one holder lets go of them: those that no other one holds."""
    return sum(block.ref_cnt == 1 for block in blocks)


def lora_id(request: Request) -> int:
    """The LoRA adapter of a request, 0 for none."""
    return request.lora_request.lora_int_id if request.lora_request else 0


def _is_kept(block: KVCacheBlock) -> bool:
    return not block.is_null


def _waits_without_kv(request: Request) -> bool:
    is_ready = request.status in (RequestStatus.WAITING, RequestStatus.PREEMPTED)
    return is_ready and not request.num_computed_tokens


class EngineState:
    """One engine's requests, blocks and limits, as vLLM's scheduler keeps them.

    Args: scheduler: one whose constructor has run.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._managers = scheduler.kv_cache_manager.coordinator.single_type_managers
        """Of each group of layers."""
        self._pool = scheduler.kv_cache_manager.block_pool
        specs = [manager.kv_cache_spec for manager in self._managers]
        self.are_prefixes = [isinstance(spec, FullAttentionSpec) for spec in specs]
        """Whether each group of layers keeps all blocks of a context, from the first on."""
        self.hash_block_size: int = self._pool.hash_block_size
        self.looks_up_block_by_block = bool(
            scheduler.kv_cache_manager.enable_caching
            and self.are_prefixes == [True]
            and self._managers[0].block_size == self.hash_block_size
            and not getattr(scheduler.kv_cache_manager.coordinator, "eagle_group_ids", ())
        )
        whole = [
            m for m, is_whole in zip(self._managers, self.are_prefixes, strict=True) if is_whole
        ]
        blocks_per_token = sum(1.0 / each.block_size for each in whole or self._managers[:1])
        self.tokens_per_block = 1.0 / blocks_per_token
        """Tokens of context for one KV block, with a block in each group that keeps all of them."""
        self.num_blocks = self.free_blocks_now()
        """Of the KV cache, all free as yet."""
        self.max_step_tokens: int = scheduler.max_num_scheduled_tokens
        self.max_running: int = scheduler.max_num_running_reqs
        lora = scheduler.lora_config
        self.max_loras: int | None = None if lora is None else lora.max_loras
        """LoRA adapters that running requests may hold; None without LoRA."""
        self.can_chunk: bool = scheduler.scheduler_config.enable_chunked_prefill
        speculative = scheduler.vllm_config.speculative_config
        self.draft_slots: int = speculative.max_num_new_slots_for_drafting if speculative else 0
        """Input slots that a request takes beside its tokens."""
        self.most_blocks_per_decode = self.most_blocks_to_grow(1)
        """Upper bound of the KV blocks that one decode may take in one step."""

    @property
    def running(self) -> list[Request]:
        """Running requests; from the opening of a step on in the order online, offline decodes,
        offline prefills.
        """
        return self._scheduler.running

    @property
    def frees_blocks_late(self) -> bool:
        """Whether what is preempted comes free in the next step only."""
        return self._scheduler.defer_block_free

    @property
    def may_compute_again(self) -> bool:
        """Whether running requests may lose tokens that were computed: a load may fail (:3236)."""
        return self._scheduler.connector is not None

    @property
    def step_number(self) -> int:
        return self._scheduler.current_step

    @property
    def slots(self) -> int:
        """Requests that may run at once."""
        scheduler = self._scheduler
        return scheduler.max_num_active_reqs - scheduler.num_waiting_for_streaming_input

    @property
    def blocks(self) -> Sequence[KVCacheBlock]:
        """All KV blocks, by their ids."""
        return self._pool.blocks

    @property
    def freed_later(self) -> Sequence[tuple[Any, Sequence[KVCacheBlock]]]:
        """Blocks of requests that let go of them, which steps in flight still use (:2777)."""
        return self._scheduler.deferred_frees

    def free_blocks_now(self) -> int:
        return self._pool.get_num_free_blocks()

    def watermark(self, is_busy: bool) -> int:
        """Blocks vLLM keeps free when it admits a request, while others run."""
        return self._scheduler.kv_cache_manager.watermark_blocks if is_busy else 0

    def all_blocks(self, request: Request) -> int:
        """Blocks a waiting request takes until all its tokens are computed, hits included."""
        return self._scheduler._request_remaining_blocks(request)

    def free_encoder_embeds(self) -> tuple[int, int]:
        """Return how many embeddings the encoder cache could take in, and how many it is for."""
        cache = self._scheduler.encoder_cache_manager
        return cache.num_freeable_slots, cache.cache_size

    def limits(self) -> EngineLimits:
        """Return what an engine can hold and compute at once, before it has any request."""
        scheduler = self._scheduler
        return EngineLimits(
            max_step_tokens=self.max_step_tokens,
            max_requests=self.max_running,
            kv_tokens=int(self.free_blocks_now() * self.tokens_per_block),
            is_async=isinstance(scheduler, AsyncScheduler),
            num_stages=scheduler.parallel_config.pipeline_parallel_size,
        )

    # --- what is changed -----------------------------------------------------------------------

    def preempt(self, request: Request, now_s: float) -> None:
        """Take a running request's KV blocks, or those of one that waits with what was loaded."""
        scheduler = self._scheduler
        if request.status != RequestStatus.RUNNING:
            self.wait_without_kv(request)
            return
        is_stale = scheduler.requires_kv_delivery
        scheduler._preempt_request(request, now_s, drop_stale_output=is_stale)
        scheduler.running.remove(request)

    def wait_without_kv(self, request: Request) -> None:
        """Let a request that waits with loaded KV wait as before its load.

        It needs no preemption: the worker has not seen it run since.
        """
        scheduler = self._scheduler
        if request.request_id in scheduler.failed_recving_kv_req_ids:
            request.num_computed_tokens = 0  # else vLLM would zero blocks that others have then
        # what was loaded goes into the prefix cache
        scheduler._handle_blocked_waiting_request(request)
        if getattr(scheduler, "aux_output_connector", None) is not None:
            scheduler.aux_output_connector.request_finished(request)
        scheduler._free_request_blocks(request)
        scheduler.encoder_cache_manager.free(request)
        scheduler._inflight_prefills.discard(request)
        request.num_computed_tokens = 0
        scheduler.kv_holding_waiting.remove_request(request)
        scheduler.waiting.prepend_request(request)

    def pass_over(self, request: Request) -> None:
        """Count an online request among those that vLLM passes over in this step (:906)."""
        self._scheduler.deferred_waiting.add(request)

    def forget_passed_over(self, is_gone: Callable[[Request], bool]) -> None:
        """Take requests out of those that vLLM has passed over."""
        deferred = self._scheduler.deferred_waiting
        if deferred:
            deferred -= set(filter(is_gone, deferred))

    def forget_failed_loads(self, is_offline: Callable[[Request], bool]) -> None:
        """Take offline requests whose load failed out of those that vLLM keeps blocks for.

        It keeps them there while they wait without KV; elsewhere in the lane they would keep others
        out.
        """
        scheduler = self._scheduler
        if scheduler.connector is not None and scheduler._inflight_prefills:
            without_kv = filter(_waits_without_kv, scheduler._inflight_prefills)
            scheduler._inflight_prefills -= set(filter(is_offline, without_kv))

    def reorder_running(self, running: list[Request]) -> None:
        """Put the running requests in another order."""
        self._scheduler.running = running

    def free_encoder_cache(self, request: Request) -> None:
        self._scheduler.encoder_cache_manager.free(request)

    def forget_unshared(self, request: Request, first_token: int) -> None:
        """Take blocks that only one request holds out of the prefix cache, from a token on."""
        manager = self._scheduler.kv_cache_manager
        held = (
            each.req_to_blocks.get(request.request_id, ())[-(-first_token // each.block_size) :]
            for each in self._managers
        )
        ids = {block.block_id for blocks in held for block in blocks if block.ref_cnt == 1}
        manager.evict_blocks(ids)

    def keep_cached(self, block_ids: AbstractSet[int], num_taken: int) -> None:
        """Put those of the next `num_taken` free blocks that are in `block_ids` behind all others.

        vLLM takes free blocks from the front, cached or not.
        """
        queue = self._pool.free_block_queue
        block = queue.fake_free_list_head.next_free_block
        for _ in range(min(num_taken, queue.num_free_blocks)):
            following = block.next_free_block
            if block.block_id in block_ids:
                queue.remove(block)
                queue.append(block)
            block = following

    # --- what is asked -------------------------------------------------------------------------

    def can_admit_waiting(self) -> bool:
        """Whether vLLM looks at the waiting queue in this step (:900)."""
        return self._scheduler._pause_state == PauseState.UNPAUSED

    def can_admit_holding(self) -> bool:
        """Whether vLLM looks at requests that wait with KV in this step (:900).

        Since 0.32 those in flight go on while new ones are paused.
        """
        is_paused = self._scheduler._pause_state == PauseState.PAUSED_NEW
        return self.can_admit_waiting() or (ADMITS_HOLDING_WHILE_PAUSED and is_paused)

    def defers_prefills(self, num_running: int) -> bool:
        """Whether a throttled step defers prefills for the first `num_running` (:636)."""
        running = self._scheduler.running[:num_running]
        return not self._scheduler.prefill_capacity_bound and any(
            not r.is_prefill_chunk for r in running
        )

    def has_chunk_cap(self) -> bool:
        """Whether vLLM caps the chunks of long prefills (:645)."""
        threshold: int = self._scheduler.scheduler_config.long_prefill_token_threshold
        return threshold > 0

    def chunk_cap(self, num_requests: int) -> int:
        """Most prefill tokens vLLM gives one of so many requests, if it `has_chunk_cap`."""
        config = self._scheduler.scheduler_config
        threshold: int = config.long_prefill_token_threshold
        if num_requests <= 1:
            return self._scheduler.max_num_scheduled_tokens
        if config.long_prefill_token_threshold_adaptive:
            return max(threshold, config.max_num_batched_tokens // num_requests)
        return threshold

    def tokens_now(self, request: Request) -> int:
        """Tokens a running request still has to compute, 0 if vLLM passes it over (:660-:712)."""
        placeholders = request.num_output_placeholders
        computed = request.num_computed_tokens
        most_tokens = request.num_prompt_tokens + request.max_tokens
        if placeholders and computed + 2 - placeholders >= most_tokens:
            return 0
        if self._scheduler.current_step + 1 < request.next_decode_eligible_step:
            return 0
        return request.num_tokens_with_spec + placeholders - computed

    def prefix_hit(self, request: Request) -> tuple[list[Sequence[KVCacheBlock]], int]:
        """Return the cached blocks a waiting request would share, and the tokens computed in all.

        The blocks are those of each group of layers; () where there are none at all.
        """
        if request.num_computed_tokens > 0:
            return [], request.num_computed_tokens
        if getattr(request, "kv_cache_report_mode", None) == "full":
            return [], 0  # the probe would publish cache events
        blocks, num_tokens, *_ = self._scheduler.kv_cache_manager.get_computed_blocks(request)
        return [
            group if is_full else [block for block in group if not block.is_null]
            for group, is_full in zip(blocks.blocks, self.are_prefixes, strict=True)
        ], num_tokens

    def is_cached(self, block_hash: BlockHash) -> bool:
        """Whether the KV cache of the first group of layers holds a block."""
        return self._pool.get_cached_block(block_hash, [0]) is not None

    def blocks_to_admit(self, request: Request) -> int:
        """Free blocks that a waiting request takes once it holds all its tokens."""
        hits, _ = self.prefix_hit(request)
        held = sum(hit.ref_cnt > 0 for group in hits for hit in group)
        return max(0, self.all_blocks(request) - held)

    def composition(self, output: SchedulerOutput) -> StepComposition:
        """Return what is in a step that was just scheduled."""
        step = StepComposition()
        for request_id, num_tokens in output.num_scheduled_tokens.items():
            request = self._scheduler.requests[request_id]
            computed = request.num_computed_tokens - num_tokens
            if computed < request.num_tokens - 1:
                step.add_prefill(num_tokens, computed)
            else:
                step.decode_tokens += num_tokens
                step.decode_context_tokens += computed
        return step

    def can_split(self, request: Request) -> bool:
        """Whether a prefill may end at any token: chunked, and nothing in it has to stay whole."""
        return (
            self.can_chunk
            and not self._scheduler.need_mamba_block_aligned_split
            and not request.has_encoder_inputs
        )

    def free_blocks(self) -> int:
        """Blocks free now, and those that come free once steps in flight have completed (:2777)."""
        num_free = self.free_blocks_now()
        if self._scheduler.deferred_frees:
            num_free += sum(num_coming_free(blocks) for _, blocks in self._scheduler.deferred_frees)
        return num_free

    def blocks_to_add(self, request: Request, num_tokens: int) -> int:
        """Upper bound of the blocks a request lacks to hold so many tokens in all."""
        scheduler = self._scheduler
        num_tokens = min(num_tokens + scheduler.num_lookahead_tokens, scheduler.max_model_len)
        request_id = request.request_id
        added = 0
        for manager in self._managers:
            held = len(manager.req_to_blocks.get(request_id, ()))
            added += max(0, -(-num_tokens // manager.block_size) - held)
        return added

    def most_blocks_to_grow(self, num_new_tokens: int) -> int:
        """Upper bound of the blocks that a request may take for so many tokens more."""
        scheduler = self._scheduler
        num_tokens = num_new_tokens + scheduler.num_spec_tokens + scheduler.num_lookahead_tokens
        return sum(1 + num_tokens // manager.block_size for manager in self._managers)

    def has_loaded(self, request: Request) -> bool:
        """Whether no load is under way into the blocks of a request that waits with KV (:3175)."""
        is_loading = request.status == RequestStatus.WAITING_FOR_REMOTE_KVS
        return not is_loading or request.request_id in self._scheduler.finished_recving_kv_req_ids

    def num_held(self, request: Request) -> int:
        """Blocks a request holds, shared ones included."""
        return sum(len(blocks) - first for blocks, first in self._held(request))

    def num_unshared(self, request: Request) -> int:
        """Blocks that come free with a request. O(log blocks): prefixes are shared."""
        return sum(len(blocks) - first for blocks, first in self._first_unshared(request))

    def last_shared(self, request: Request) -> list[int]:
        """Return the id of the last block in each group of layers that others hold as well."""
        unshared = self._first_unshared(request)
        last = [blocks[first - 1] for blocks, first in unshared if first]
        return [block.block_id for block in last if not block.is_null]

    def _held(self, request: Request) -> Iterator[tuple[Sequence[KVCacheBlock], int]]:
        """Yield the blocks of each group of layers, and where those begin that are kept.

        Before them stand null blocks, for tokens that a sliding window or a state needs no more.
        """
        for manager, is_prefix in zip(self._managers, self.are_prefixes, strict=True):
            blocks = manager.req_to_blocks.get(request.request_id, ())
            yield blocks, 0 if is_prefix else bisect_left(blocks, True, key=_is_kept)

    def _first_unshared(self, request: Request) -> Iterator[tuple[Sequence[KVCacheBlock], int]]:
        """Yield the blocks of each group of layers, and where the unshared ones begin."""
        for blocks, first in self._held(request):
            yield blocks, bisect_left(blocks, True, lo=first, key=lambda b: b.ref_cnt <= 1)

    def block_holders(self, requests: Iterable[Request]) -> dict[int, int]:
        """How many of `requests` hold each block, by block id."""
        holders: Counter[int] = Counter()
        for request in requests:
            holders.update(self.block_ids(request))
        return holders

    def block_ids(self, request: Request) -> list[int]:
        """Return the id of each block that a request holds, shared ones included."""
        held = (manager.req_to_blocks.get(request.request_id, ()) for manager in self._managers)
        return [block.block_id for blocks in held for block in blocks if not block.is_null]

    def holds_adapter(self, request: Request) -> bool:
        """Whether vLLM counts the adapter of a running request among those in use (:876).

        Until 0.32 those of requests in the step count; since 0.33 those of all running requests.
        """
        return COUNTS_IDLE_ADAPTERS or self.tokens_now(request) > 0

    def missing_encoder_embeds(self, request: Request, computed: int, until: int) -> int:
        """Encoder embeddings that are not cached, for the tokens from `computed` to `until`."""
        cached = self._scheduler.encoder_cache_manager.cached
        positions = [
            feature.mm_position
            for feature in request.mm_features
            if feature.identifier not in cached
        ]
        return sum(
            position.get_num_embeds()
            for position in positions
            if position.offset < until and position.offset + position.length > computed
        )

    def holds_encoder_cache(self, request: Request) -> bool:
        """Whether a request keeps entries of the encoder cache from being reclaimed."""
        return bool(self._scheduler.encoder_cache_manager.get_cached_input_ids(request))

    def allowed_chunk(self, request: Request, computed: int, granted: int) -> int:
        """Return the most tokens <= `granted` where vLLM lets a prefill chunk end; 0 if nowhere.

        vLLM applied its own rules to the chunk it asked for; a shorter one has to pass them again:
        Mamba state is kept at block boundaries only (:442), and some multimodal items must not be
        split (disable_chunked_mm_input, :1860).
        """
        if self._scheduler.need_mamba_block_aligned_split:
            granted = self._scheduler._mamba_block_aligned_split(
                request, granted, computed - request.num_computed_tokens
            )
        if self._scheduler.scheduler_config.disable_chunked_mm_input:
            for feature in request.mm_features:
                start = feature.mm_position.offset
                if start < computed + granted < start + feature.mm_position.length:
                    granted = max(0, start - computed)
        return granted


class PrefixProbe:
    """Asks for prefix hits request by request; those of a burst that share one cost it once.

    Hashes are chained: where a block's is that of the request asked for before, so are all before
    it, and only the next block has to be looked up. Only where vLLM itself looks up block by block:
    one group of full attention, its blocks those that are hashed, no draft model's layers.
    """

    def __init__(self, state: EngineState) -> None:
        self._state = state
        self._block_size = state.hash_block_size
        self._is_plain = state.looks_up_block_by_block
        self._last_hash: BlockHash | None = None
        self._last: Sequence[KVCacheBlock] = ()
        """The hit that was found last, and the hash of its last block."""

    def hit(self, request: Request) -> tuple[list[Sequence[KVCacheBlock]], int]:
        """Return what `prefix_hit` does."""
        if self._is_plain and self._last and self._has_the_last(request):
            return [self._last], len(self._last) * self._block_size
        hits, num_tokens = self._state.prefix_hit(request)
        if self._is_plain and hits and hits[0]:
            self._last, self._last_hash = hits[0], request.block_hashes[len(hits[0]) - 1]
        return hits, num_tokens

    def _has_the_last(self, request: Request) -> bool:
        """Whether a request's hit is the one that was found last, no longer and no shorter."""
        length, hashes = len(self._last), request.block_hashes
        most = min(len(hashes), (request.num_tokens - 1) // self._block_size)
        if (
            request.num_computed_tokens > 0
            or request.skip_reading_prefix_cache
            or getattr(request, "kv_cache_report_mode", None) == "full"
            or most < length
            or hashes[length - 1] != self._last_hash
        ):
            return False
        return most == length or not self._state.is_cached(hashes[length])
