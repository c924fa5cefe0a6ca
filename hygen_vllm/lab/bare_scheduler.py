# SPDX-License-Identifier: Apache-2.0
"""Builds real vLLM scheduler objects without a model or a device, for benchmarks and tests.

The objects are vLLM's own; only the model behind them is missing, so whoever uses them plays the
worker: call schedule(), hand the tokens to update_from_output().
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from vllm.config import (
    CacheConfig,
    KVTransferConfig,
    LoRAConfig,
    ModelConfig,
    ParallelConfig,
    SchedulerConfig,
    SpeculativeConfig,
    VllmConfig,
)
from vllm.lora.request import LoRARequest
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.core.single_type_kv_cache_manager import register_all_kvcache_specs
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

Clock = Callable[[], float]

_TINY_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "vocab_size": 1024,
    "max_position_embeddings": 65536,
}


@dataclass(frozen=True)
class Limits:
    """The limits of an engine; the defaults are tiny, so that tests reach them."""

    max_num_seqs: int = 8
    max_num_batched_tokens: int = 64
    max_model_len: int = 512
    num_blocks: int = 200
    block_size: int = 4
    policy: str = "fcfs"
    prefix_caching: bool = True
    max_loras: int = 0
    num_speculative_tokens: int = 0
    v2_runner: bool = False
    pipeline_parallel: int = 1
    log_stats: bool = True
    scheduler_options: dict[str, Any] = field(default_factory=dict)
    """More fields of vLLM's SchedulerConfig."""
    kv_transfer: dict[str, Any] | None = None
    """Fields of vLLM's KVTransferConfig, None for no connector."""


def make_scheduler(
    cls: type[Scheduler], limits: Limits, hygen: dict[str, Any] | None = None, **clocks: Clock
) -> Scheduler:
    """Return a scheduler of class `cls`.

    Args:
        hygen: its section of --additional-config.
        clocks: `clock` and `wall_clock`, which only HyGen's classes take.
    """
    vllm_config = _vllm_config(limits, hygen)
    spec = FullAttentionSpec(
        block_size=limits.block_size, num_kv_heads=1, head_size=1, dtype=torch.float32
    )
    vllm_config.cache_config.num_gpu_blocks = limits.num_blocks
    # later than in life: where there is no GPU vLLM takes no asynchronous pipeline
    vllm_config.parallel_config.pipeline_parallel_size = limits.pipeline_parallel
    register_all_kvcache_specs(vllm_config)
    scheduler = cls(
        vllm_config=vllm_config,
        kv_cache_config=KVCacheConfig(
            num_blocks=limits.num_blocks,
            kv_cache_tensors=[],
            kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
        ),
        structured_output_manager=StructuredOutputManager(vllm_config),
        block_size=limits.block_size,
        log_stats=limits.log_stats,
        **clocks,
    )
    scheduler.use_v2_model_runner = limits.v2_runner
    return scheduler


def make_request(  # noqa: PLR0913 - mirrors vLLM's Request
    request_id: str,
    prompt: list[int],
    *,
    slo_class: str | None = None,
    max_tokens: int = 4,
    block_size: int = Limits.block_size,
    lora: int = 0,
    extra_args: dict[str, Any] | None = None,
    **options: Any,
) -> Request:
    """Return a request; `slo_class` travels as vllm_xargs do, `options` go to vLLM's Request."""
    if slo_class is not None:
        extra_args = {**(extra_args or {}), "slo_class": slo_class}
    return Request(
        request_id=request_id,
        prompt_token_ids=list(prompt),
        sampling_params=SamplingParams(
            max_tokens=max_tokens, ignore_eos=True, extra_args=extra_args
        ),
        pooling_params=None,
        lora_request=LoRARequest(f"lora-{lora}", lora, "/nowhere") if lora else None,
        block_hasher=block_hasher(block_size),
        **options,
    )


def _vllm_config(limits: Limits, hygen: dict[str, Any] | None) -> VllmConfig:
    speculative_config = None
    if limits.num_speculative_tokens:
        speculative_config = SpeculativeConfig(
            model="ngram",
            num_speculative_tokens=limits.num_speculative_tokens,
            prompt_lookup_max=2,
            prompt_lookup_min=1,
        )
    return VllmConfig(
        model_config=ModelConfig(
            model=_tiny_model_folder().name,
            skip_tokenizer_init=True,
            dtype="float16",
            max_model_len=limits.max_model_len,
        ),
        scheduler_config=SchedulerConfig(
            max_num_seqs=limits.max_num_seqs,
            max_num_batched_tokens=limits.max_num_batched_tokens,
            max_model_len=limits.max_model_len,
            is_encoder_decoder=False,
            policy=limits.policy,
            **{"enable_chunked_prefill": True, **limits.scheduler_options},
        ),
        cache_config=CacheConfig(
            block_size=limits.block_size, enable_prefix_caching=limits.prefix_caching
        ),
        parallel_config=ParallelConfig(),
        lora_config=LoRAConfig(max_loras=limits.max_loras) if limits.max_loras else None,
        speculative_config=speculative_config,
        kv_transfer_config=KVTransferConfig(**limits.kv_transfer) if limits.kv_transfer else None,
        additional_config={} if hygen is None else {"hygen": hygen},
    )


@cache
def _tiny_model_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder with the configuration of a one-layer Llama; it has no weights."""
    folder = tempfile.TemporaryDirectory(prefix="tiny-llama-")
    Path(folder.name, "config.json").write_text(json.dumps(_TINY_LLAMA), encoding="utf-8")
    return folder


@cache
def block_hasher(block_size: int, hash_function: Callable[[Any], bytes] = sha256) -> Any:
    """Return vLLM's function that hashes the full KV blocks of a request."""
    init_none_hash(sha256)
    return get_request_block_hasher(block_size, hash_function)
