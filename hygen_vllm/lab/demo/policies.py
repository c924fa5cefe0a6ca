# SPDX-License-Identifier: Apache-2.0
"""What the demo compares: six policies on four engines that differ only in their scheduler."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any


class EngineKind(Enum):
    """Which scheduler an engine runs."""

    STOCK = "stock vLLM"
    PRIORITY = "vLLM with its priority policy"
    FIXED = "vLLM with HyGenScheduler and a fixed latency budget"
    SLO = "vLLM with HyGenScheduler and the SLO as its target"


@dataclass(frozen=True)
class Policy:
    """A row of the demo: an engine and the classes of requests it is given."""

    name: str
    engine: EngineKind
    has_online: bool = True
    has_offline: bool = True


POLICIES = (
    Policy("online-only", EngineKind.STOCK, has_offline=False),
    Policy("offline-only", EngineKind.STOCK, has_online=False),
    Policy("vllm-fcfs", EngineKind.STOCK),
    Policy("vllm-priority", EngineKind.PRIORITY),
    Policy("fixed-budget", EngineKind.FIXED),
    Policy("slo", EngineKind.SLO),
)


def number_format(cpuinfo: str) -> str:
    """Return bfloat16, or float32 on an x86 processor that has to emulate it.

    A step then takes seconds. Args: cpuinfo: text of /proc/cpuinfo, empty where there is none.
    """
    must_emulate = re.search(r"^flags\s*:", cpuinfo, re.MULTILINE) and "avx512" not in cpuinfo
    return "float32" if must_emulate else "bfloat16"


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""


# The same for every policy. 512 tokens a step favour stock vLLM's latency: its default on this
# device is several thousand, and a long step is what online requests suffer from.
ENGINE_SETTINGS: dict[str, Any] = {
    "dtype": number_format(_cpuinfo()),
    "enforce_eager": True,
    "max_model_len": 2048,
    "max_num_seqs": 32,
    "max_num_batched_tokens": 512,
    "disable_log_stats": True,
}
# Lower is more urgent in vLLM's priority policy; its fcfs policy ignores it.
ONLINE_PRIORITY, OFFLINE_PRIORITY = 0, 1


def scheduler_settings(
    engine: EngineKind, hygen: Mapping[EngineKind, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the engine arguments that choose the scheduler; all that differs between engines.

    Args: hygen: fields of HyGenConfig, by the engine that has our scheduler.
    """
    if engine is EngineKind.PRIORITY:
        return {"scheduling_policy": "priority"}
    if engine in hygen:
        return {
            "scheduler_cls": "hygen_vllm.HyGenScheduler",
            "additional_config": {"hygen": dict(hygen[engine])},
        }
    return {}


def find_policies(names: str) -> list[Policy]:
    """Return the policies named in a comma-separated list, in the demo's own order.

    Raises: ValueError that lists the choices if a name is unknown or none is given.
    """
    wanted = {name.strip() for name in names.split(",") if name.strip()}
    known = [policy.name for policy in POLICIES]
    unknown = sorted(wanted.difference(known))
    if unknown or not wanted:
        got = ", ".join(unknown) or "none"
        raise ValueError(f"policies must be among {', '.join(known)}; got {got}")
    return [policy for policy in POLICIES if policy.name in wanted]
