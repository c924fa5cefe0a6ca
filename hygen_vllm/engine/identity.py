# SPDX-License-Identifier: Apache-2.0
"""Which engine this is, read from vLLM's configuration, and what is kept of its steps."""

import os
import platform
from pathlib import Path
from typing import Any

from vllm import __version__ as vllm_version
from vllm.platforms import current_platform

from hygen_vllm.config import ConfigError, HyGenConfig
from hygen_vllm.cost.engine_info import EngineInfo
from hygen_vllm.cost.profile import load_profile
from hygen_vllm.cost.step_cost import StepCost
from hygen_vllm.cost.trace import TraceWriter
from hygen_vllm.operate.log import engine_logger

logger = engine_logger()

_SHAPE = {
    "num_hidden_layers": "layers",
    "hidden_size": "hidden",
    "intermediate_size": "mlp",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv heads",
    "num_local_experts": "experts",
    "vocab_size": "vocabulary",
}


def engine_info(vllm_config: Any) -> EngineInfo:
    """Return what a profile or trace says about the engine of a VllmConfig."""
    model, parallel = vllm_config.model_config, vllm_config.parallel_config
    cache, scheduler = vllm_config.cache_config, vllm_config.scheduler_config
    return EngineInfo(
        model=Path(str(model.model)).name,
        architecture=_architecture(model),
        dtype=_dtype(model, cache),
        tensor_parallel=parallel.tensor_parallel_size,
        pipeline_parallel=parallel.pipeline_parallel_size,
        device=_device(),
        vllm_version=vllm_version,
        is_async=bool(scheduler.async_scheduling),
        max_num_batched_tokens=scheduler.max_num_batched_tokens,
        max_num_seqs=scheduler.max_num_seqs,
        max_model_len=model.max_model_len,
        block_size=cache.block_size or 0,
        num_kv_blocks=cache.num_gpu_blocks or 0,
    )


def given_cost(config: HyGenConfig, vllm_config: Any) -> StepCost | None:
    """Return the costs in the configured profile. Raises ConfigError if they are not for it."""
    if config.profile is None:
        return None
    profile = load_profile(config.profile)
    profile.check_engine(engine_info(vllm_config), config.profile)
    return profile.cost


def new_trace(config: HyGenConfig, vllm_config: Any, now_s: float) -> TraceWriter | None:
    """Return where the steps of an engine are to be recorded, None for nowhere.

    A full disk keeps no engine from starting: it then records nothing, and says so.
    """
    if config.trace is None:
        return None
    try:
        trace = TraceWriter(config.trace, engine_info(vllm_config), config.trace_max_steps, now_s)
    except ConfigError as error:
        logger.warning("HyGen records no steps: %s", error)
        return None
    logger.info("Recording up to %d steps in %s", config.trace_max_steps, trace.path)
    return trace


def _architecture(model: Any) -> str:
    config = model.hf_text_config
    names = getattr(model.hf_config, "architectures", None) or [type(model.hf_config).__name__]
    shape = [
        f"{getattr(config, key)} {word}" for key, word in _SHAPE.items() if getattr(config, key, 0)
    ]
    return ", ".join([names[0], *shape])


def _dtype(model: Any, cache: Any) -> str:
    parts = [str(model.dtype).removeprefix("torch.")]
    if model.quantization:
        parts.append(f"quantization {model.quantization}")
    if cache.cache_dtype != "auto":
        parts.append(f"KV cache {cache.cache_dtype}")
    return ", ".join(parts)


def _device() -> str:
    """Return the name of the accelerator, or of the processor and how many cores we may use."""
    if not current_platform.is_cpu():
        return str(current_platform.get_device_name())
    return f"{_processor()} x {len(os.sched_getaffinity(0))}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
