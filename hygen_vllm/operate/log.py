# SPDX-License-Identifier: Apache-2.0
"""What a scheduler says when it starts: what is in force, and what of the settings is not. Pure."""

import difflib
import logging
from collections.abc import Iterator

from hygen_vllm import __version__
from hygen_vllm.config import CONFIG_KEY, HyGenConfig
from hygen_vllm.json_types import Json
from hygen_vllm.labels import RequestClass

ENGINE_LOGGER = "vllm.hygen"
"""Below vLLM's own, which is the only one that its processes configure."""
LONG_STEP_S = 5.0
"""A step that somebody waits for is never so long: milliseconds were meant."""
SECONDS_OF_A_STEP = ("latency_budget_s", "idle_step_s")


def engine_logger() -> logging.Logger:
    """Return the logger of what runs inside an engine."""
    return logging.getLogger(ENGINE_LOGGER)


def start_line(
    config: HyGenConfig, vllm_release: str, scheduling_policy: str, alone_source: str | None
) -> str:
    """Return the line that says what is in force.

    Args:
        scheduling_policy: vLLM's, `fcfs` or `priority`.
        alone_source: where online alone is known from; None: it is estimated while serving.
    """
    parts = [f"HyGen {__version__} on vLLM {vllm_release}: mode {_mode(config)}"]
    if config.targets:
        source = alone_source or "estimated while serving"
        parts.append(f"online alone {source}")
    if config.gate_mode != "off":
        parts.append(f"step times {config.profile or 'learned while serving'}")
    parts.append(f"offline: {_labels(config, scheduling_policy)}")
    return "; ".join(parts)


def _mode(config: HyGenConfig) -> str:
    if config.targets:
        default = "" if config.slos else " (the default)"
        return f"slo, targets {', '.join(config.targets)}{default}"
    if config.gate_mode == "fixed":
        return f"fixed, {1e3 * (config.latency_budget_s or 0.0):g} ms a step"
    return config.gate_mode


def _labels(config: HyGenConfig, scheduling_policy: str) -> str:
    rule = config.class_rule(scheduling_policy)
    above = rule.offline_priority_above
    if rule.default_class is RequestClass.OFFLINE:
        return "all requests but those with slo_class online"
    if above is not None:
        return f"requests with slo_class offline or a priority above {above}"
    return (
        "requests with slo_class offline; priority is no label under vLLM's priority policy "
        "unless offline_priority_above is set"
    )


def remarks(config: HyGenConfig, additional_config: object) -> Iterator[str]:
    """Yield a line for each setting that has no effect, or another one than was meant.

    Args: additional_config: vLLM's, in which the settings are looked for.
    """
    if isinstance(additional_config, dict):
        yield from _misplaced(additional_config)
    for name in SECONDS_OF_A_STEP:
        seconds = getattr(config, name)
        if seconds is not None and seconds > LONG_STEP_S:
            yield (
                f"{name} = {seconds:g} lets a step take {seconds:g} seconds; "
                f"{seconds:g} ms are {seconds / 1e3:g}"
            )


def _misplaced(additional_config: Json) -> Iterator[str]:
    for key in additional_config:
        name = str(key)
        if name in HyGenConfig.model_fields:
            yield f'{name} beside "{CONFIG_KEY}" in additional_config has no effect; put it inside'
        elif name != CONFIG_KEY and difflib.get_close_matches(
            name.lower(), [CONFIG_KEY], cutoff=0.75
        ):
            yield f'additional_config["{name}"] has no effect; did you mean "{CONFIG_KEY}"?'
