# SPDX-License-Identifier: Apache-2.0
"""Slots of a trace, served in the simulator: alone, and with offline work beside them."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hygen_vllm.planner.slots import Slot
from hygen_vllm.simulator.figures import Latencies, tokens_per_s
from hygen_vllm.simulator.policies import find_policy
from hygen_vllm.simulator.simulation import Requests, Run, SimulatedEngine, simulate
from hygen_vllm.slo.slo import LatencyStats, Slo
from hygen_vllm.workloads.arrivals import Arrival

SOMEBODY = Arrival(0.0, 16, 2)
"""Comes in a slot without requests: an engine that has seen online requests expects more."""


@dataclass(frozen=True)
class SlotJob:
    """What is to be simulated.

    Args:
        slot: None for the offline requests alone.
        settings: of HyGen's scheduler, but for `slos` and `slo_reference`.
    """

    engine: SimulatedEngine
    slot: Slot | None
    slot_s: float
    offline: Sequence[Arrival]
    slos: Sequence[str]
    settings: dict[str, Any]
    seed: int


@dataclass(frozen=True)
class SampledSlot:
    """What came of it. Tokens are prompt and output tokens of a second.

    Args:
        of_limits: measured over limit by target; none where nothing was measured.
    """

    online_tokens_per_s: float
    offline_tokens_per_s: float
    of_limits: dict[str, float]


def serve_slot(job: SlotJob) -> SampledSlot:
    """Serve a slot. What online has alone is measured first, as if it had long been known."""
    for name in ("vllm", "hygen_vllm"):
        logging.getLogger(name).setLevel(logging.ERROR)
    slot = job.slot
    if slot is None:
        run = _run(job, "offline-only", Requests([], job.offline), {}, job.slot_s)
        return SampledSlot(*tokens_per_s(run), {})
    around = Requests([*slot.around] or [SOMEBODY], [])
    alone = Latencies.of(_run(job, "online-only", around, {}, slot.around_s)).stats()
    requests = Requests([*slot.requests] or [SOMEBODY], job.offline)
    slos = [Slo.parse(text) for text in job.slos]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "online-alone.json"
        online_s = {f"{metric}_s": asdict(stats) for metric, stats in alone.items()}
        path.write_text(json.dumps({"online": online_s}), encoding="utf-8")
        settings = {**job.settings, "slos": [str(slo) for slo in slos]}
        if _are_known(slos, alone):
            settings["slo_reference"] = str(path)
        run = _run(job, "slo", requests, settings, job.slot_s)
    stats = Latencies.of(run).stats()
    of_limits = {str(slo): _of_limit(slo, stats, alone) for slo in slos}
    known = {name: ratio for name, ratio in of_limits.items() if ratio is not None}
    return SampledSlot(*tokens_per_s(run), known if slot.requests else {})


def _run(
    job: SlotJob, policy: str, requests: Requests, settings: dict[str, Any], until_s: float
) -> Run:
    fitted, _ = requests.fitted(job.engine.info.max_model_len)
    return simulate(
        job.engine, find_policy(policy), settings, fitted, seed=job.seed, until_s=until_s
    )


def _are_known(slos: Sequence[Slo], alone: dict[str, LatencyStats]) -> bool:
    return all(slo.resolved_s(alone[slo.metric]) for slo in slos)


def _of_limit(
    slo: Slo, stats: dict[str, LatencyStats], alone: dict[str, LatencyStats]
) -> float | None:
    limit_s = slo.resolved_s(alone[slo.metric])
    measured_s = getattr(stats[slo.metric], slo.statistic)
    return measured_s / limit_s if limit_s and measured_s is not None else None
