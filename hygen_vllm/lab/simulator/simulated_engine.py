# SPDX-License-Identifier: Apache-2.0
"""The engine that is simulated: its limits, its device, and how well its step times are known."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hygen_vllm.cost.engine_info import EngineInfo
from hygen_vllm.cost.profile import load_profile
from hygen_vllm.lab.simulator.step_time import Device, Disturbance, load_step_times

SHORTEST = 2
"""Tokens of the shortest request: one of prompt, one of output."""


@dataclass(frozen=True)
class SimulatedEngine:
    """What is simulated: an engine, its device, and how well its step times are known.

    Args:
        info: model and limits; `is_async` says how it is stepped.
        knees: where costs fitted to the device may bend.
        predictor_error: MAPE of a systematic error of the scheduler's predictions.
        is_profiled: the scheduler starts with costs fitted to the device, else with none.
    """

    info: EngineInfo
    device: Device
    knees: tuple[int, ...]
    disturbance: Disturbance = field(default_factory=Disturbance)
    predictor_error: float = 0.0
    is_profiled: bool = True

    @classmethod
    def load(cls, profile: str, **limits: Any) -> "SimulatedEngine":
        """Return the engine of a profile; `limits` are other fields of EngineInfo, None its own.

        Raises: ConfigError, one line, if there is no such profile; ValueError as vLLM would if the
        KV blocks cannot hold a request of `max_model_len` that was asked for.
        """
        loaded = load_profile(profile)
        given = {name: value for name, value in limits.items() if value is not None}
        info = _fitting(replace(loaded.engine, **given), given)
        return cls(info, load_step_times(profile), loaded.cost.curve.knees)


def _fitting(info: EngineInfo, given: Mapping[str, Any]) -> EngineInfo:
    """Return the engine with limits that fit together; those that were `given` stay or are refused.

    vLLM would not start with more tokens a request than its KV blocks hold, nor with more requests
    than tokens in a step.
    """
    capacity = info.block_size * (info.num_kv_blocks - 1)
    if min(capacity, info.max_model_len) < SHORTEST:
        raise ValueError(
            f"a request has {SHORTEST} tokens at least, got {info.num_kv_blocks} KV blocks "
            f"that hold {max(0, capacity)} and max_model_len {info.max_model_len}"
        )
    if info.max_model_len > capacity and "max_model_len" in given:
        raise ValueError(
            f"{info.num_kv_blocks} KV blocks hold {capacity} tokens, fewer than "
            f"max_model_len {info.max_model_len}"
        )
    if info.max_num_seqs > info.max_num_batched_tokens and "max_num_seqs" in given:
        raise ValueError(
            f"a step of {info.max_num_batched_tokens} tokens holds no more requests, got "
            f"{info.max_num_seqs}"
        )
    return replace(
        info,
        max_model_len=min(info.max_model_len, capacity),
        max_num_seqs=min(info.max_num_seqs, info.max_num_batched_tokens),
    )
