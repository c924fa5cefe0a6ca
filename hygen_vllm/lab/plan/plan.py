# SPDX-License-Identifier: Apache-2.0
"""Says what a trace leaves for offline work, from a few slots of it that are simulated."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.isotonic import IsotonicRegression
from tqdm import tqdm

from hygen_vllm.cost.profile import load_profile
from hygen_vllm.lab.plan.report import write_plan
from hygen_vllm.lab.plan.slot_job import SampledSlot, SlotJob, serve
from hygen_vllm.lab.plan.slots import Slot, TokenPrices, choose, slot_seconds, slots_of
from hygen_vllm.lab.simulator.many_runs import import_for_processes, in_processes
from hygen_vllm.lab.simulator.options import SimulateOptions, load_engine, tokenizer_of
from hygen_vllm.lab.workloads.arrivals import Arrival, thin
from hygen_vllm.lab.workloads.sources import OnlineQuery, find_offline, find_online

OFFLINE_PER_S = 10
"""Offline requests that wait, for each second of a slot."""


@dataclass(frozen=True)
class PlanOptions:
    """What `hygen plan` was asked for.

    Args:
        simulation: engine, workloads, targets and seed.
        replicas: engines that share the trace.
        levels: slots that are simulated, at most.
        gpu_hour_price: in any currency; None if nobody asked.
    """

    simulation: SimulateOptions
    replicas: int
    levels: int
    out_dir: Path
    gpu_hour_price: float | None = None
    jobs: int | None = None


@dataclass(frozen=True)
class Plan:
    """What was found; rates are those of one engine.

    Args:
        sampled: the slots that were simulated, by load, and what came of them.
        offline_tokens_per_s: of every slot.
        alone: offline work alone on the engine.
        num_gpus: of one engine.
    """

    description: str
    slos: Sequence[str]
    slots: Sequence[Slot]
    slot_s: float
    sampled: Sequence[tuple[Slot, SampledSlot]]
    offline_tokens_per_s: Sequence[float]
    alone: SampledSlot
    num_gpus: int
    replicas: int

    @property
    def hours(self) -> float:
        """Hours of all slots."""
        return len(self.slots) * self.slot_s / 3600.0

    @property
    def capacity_tokens_per_s(self) -> float:
        """Offline tokens/s of an engine with nothing else to do."""
        return self.alone.offline_tokens_per_s

    @property
    def ran_out(self) -> bool:
        """Whether a piece, or offline work alone, had too few offline requests."""
        return any(served.ran_out for served in (self.alone, *(found for _, found in self.sampled)))

    @property
    def share(self) -> float:
        """Offline work over that of the same engines with nothing else to do."""
        return float(np.mean(self.offline_tokens_per_s)) / self.capacity_tokens_per_s

    @property
    def gpu_hours(self) -> float:
        """GPU-hours of all engines over the trace."""
        return self.hours * self.replicas * self.num_gpus

    @property
    def won_gpu_hours(self) -> float:
        """GPU-hours that the offline work would need on GPUs of its own."""
        return self.share * self.gpu_hours

    @property
    def offline_tokens(self) -> float:
        """Prompt and output tokens of offline work over the trace, all engines."""
        return float(np.sum(self.offline_tokens_per_s)) * self.slot_s * self.replicas


def run_plan(options: PlanOptions) -> str:
    """Simulate, write the folder, and return the report's text.

    Raises: ValueError or ConfigError, one line, for bad input; OSError.
    """
    options.out_dir.mkdir(parents=True, exist_ok=True)
    return write_plan(make_plan(options), options.out_dir, options.gpu_hour_price)


def make_plan(options: PlanOptions) -> Plan:
    """Return the plan. Raises as run_plan."""
    import_for_processes("hygen_vllm.lab.plan.sampled_slots")
    simulation = options.simulation
    engine = load_engine(simulation)
    cost = load_profile(simulation.profile).cost
    requests, description = find_trace(options)
    duration_s = simulation.seconds or requests[-1].time_s
    slot_s = slot_seconds(duration_s)
    slots = slots_of(requests, duration_s, TokenPrices.of(cost, engine.info))
    chosen = choose(slots, options.levels)[::-1]  # what takes longest is served first
    assert simulation.offline is not None
    count = int(OFFLINE_PER_S * slot_s)
    tokenizer = tokenizer_of(simulation)
    offline = find_offline(simulation.offline, count, simulation.seed, tokenizer)
    settings: dict[str, Any] = dict(simulation.setting)
    jobs = [
        SlotJob(engine, slot, slot_s, offline.requests, simulation.slo, settings, simulation.seed)
        for slot in (*chosen, None)
    ]
    ended = in_processes(serve, jobs, options.jobs)
    found = dict(tqdm(ended, total=len(jobs), unit="slot", file=sys.stderr))
    sampled = [(slot, found[number]) for number, slot in enumerate(chosen)][::-1]
    return Plan(
        description=f"{description}; {offline.source}; {simulation.profile}, simulated",
        slos=simulation.slo,
        slots=slots,
        slot_s=slot_s,
        sampled=sampled,
        offline_tokens_per_s=offline_rates(slots, sampled),
        alone=found[len(chosen)],
        num_gpus=engine.info.tensor_parallel * engine.info.pipeline_parallel,
        replicas=options.replicas,
    )


def find_trace(options: PlanOptions) -> tuple[list[Arrival], str]:
    """Return the requests of one engine and where they come from."""
    simulation = options.simulation
    assert simulation.online is not None
    query = OnlineQuery(
        simulation.online, simulation.online_rate, simulation.seconds, simulation.seed
    )
    trace = find_online(query, tokenizer_of(simulation))
    requests = trace.requests
    if not requests:
        raise ValueError(f"{simulation.online} has no requests in that time")
    duration_s = requests[-1].time_s
    if options.replicas > 1 and duration_s > 0:
        rate_per_s = len(requests) / duration_s / options.replicas
        requests = thin(requests, rate_per_s, duration_s, simulation.seed)
    return requests, trace.source


def offline_rates(
    slots: Sequence[Slot], sampled: Sequence[tuple[Slot, SampledSlot]]
) -> list[float]:
    """Return the offline tokens/s of every slot: more load leaves less."""
    loads = [slot.load for slot, _ in sampled]
    rates = [served.offline_tokens_per_s for _, served in sampled]
    falling = IsotonicRegression(increasing=False, out_of_bounds="clip").fit(loads, rates)
    found: list[float] = falling.predict([slot.load for slot in slots]).tolist()
    return found
