# SPDX-License-Identifier: Apache-2.0
"""Slots of a trace, served in the simulator: alone, and with offline work beside them."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hygen_vllm.lab.plan.slot_job import SampledSlot, SlotJob
from hygen_vllm.lab.plan.slots import Slot
from hygen_vllm.lab.policies import find_policy
from hygen_vllm.lab.simulator.figures import Latencies, tokens_per_s
from hygen_vllm.lab.simulator.simulation import Requests, Run, simulate
from hygen_vllm.lab.workloads.arrivals import Arrival
from hygen_vllm.slo import Slo

FILLING = 1 / 6
"""Of a slot, whose work does not count: the engine begins empty, and prompts fill it faster than it
goes on."""
SOMEBODY = Arrival(0.0, 16, 2)
"""Comes in a slot without requests: an engine that has seen online requests expects more."""


def serve_slot(job: SlotJob) -> SampledSlot:
    """Serve a slot.

    Percentiles of online alone are measured first, as if they had long been known. The scheduler
    estimates means as it serves.
    """
    for name in ("vllm", "hygen_vllm"):
        logging.getLogger(name).setLevel(logging.ERROR)
    slot = job.slot
    if slot is None:
        run = _run(job, "offline-only", Requests([], job.offline), {}, job.slot_s)
        return _sampled(run, {})
    slos = [Slo.parse(text) for text in job.slos]
    alone = _serve_alone(job, slot, slos)
    settings = {**job.settings, "slos": [str(_known(slo, alone)) for slo in slos]}
    requests = Requests([*slot.requests] or [SOMEBODY], job.offline)
    run = _run(job, "slo", requests, settings, job.slot_s)
    of_limits = {str(slo): _of_limit(slo, run, alone, job.slot_s) for slo in slos}
    known = {name: ratio for name, ratio in of_limits.items() if ratio is not None}
    return _sampled(run, known if slot.requests else {})


def _serve_alone(job: SlotJob, slot: Slot, slos: Sequence[Slo]) -> Run:
    """Serve online alone. Percentiles need more requests than may be in a slot."""
    is_of_means = all(slo.share is None for slo in slos)
    some, until_s = (slot.requests, job.slot_s) if is_of_means else (slot.around, slot.around_s)
    return _run(job, "online-only", Requests([*some] or [SOMEBODY], []), {}, until_s)


def _known(slo: Slo, alone: Run) -> Slo:
    """Return a percentile with its limit in seconds, where online alone has one; else as it is."""
    limit_s = slo.resolved_s(Latencies.of(alone).stats()[slo.metric])
    return replace(slo, limit_s=limit_s, rise=None) if slo.share and limit_s else slo


def _of_limit(slo: Slo, run: Run, alone: Run, slot_s: float) -> float | None:
    """Return measured / limit: of a mean without the filling, of a percentile with all there is."""
    from_s = 0.0 if slo.share else FILLING * slot_s
    return slo.of_limit(Latencies.of(run, from_s).stats(), Latencies.of(alone, from_s).stats())


def _sampled(run: Run, of_limits: dict[str, float]) -> SampledSlot:
    offline = [record for record in run.log.records.values() if record.is_offline]
    ran_out = all(record.finished_s is not None for record in offline)
    return SampledSlot(*tokens_per_s(run, FILLING * run.virtual_s), of_limits, ran_out)


def _run(
    job: SlotJob, policy: str, requests: Requests, settings: dict[str, Any], until_s: float
) -> Run:
    fitted, _ = requests.fitted(job.engine.info.max_model_len)
    return simulate(
        job.engine, find_policy(policy), settings, fitted, seed=job.seed, until_s=until_s
    )
