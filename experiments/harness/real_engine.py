# SPDX-License-Identifier: Apache-2.0
"""vLLM's own schedulers and HyGen's, one after the other in one real engine, with traces as load.

Each run begins with a new scheduler, which has learned nothing unless it is given a profile, and
an empty prefix cache. Targets are relative to the same requests served by stock vLLM without
offline ones. Runs differ in their seeds. Needs nothing but vLLM, this package and tqdm.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")

import vllm
from tqdm import tqdm
from vllm.platforms import current_platform

from hygen_vllm.cost.learner import CostLearner
from hygen_vllm.cost.step_cost import StepCost
from hygen_vllm.lab.profile.engine_flags import parse_engine_flags
from hygen_vllm.lab.simulator.options import SimulateOptions
from hygen_vllm.lab.simulator.simulation import Requests
from hygen_vllm.lab.tune.engine_server import EngineServer
from hygen_vllm.lab.tune.simulated_server import find_requests
from hygen_vllm.slo import LatencyStats, Slo

HYGEN = "hygen_vllm.HyGenScheduler"
RATE_CAPPED = "hygen_vllm.lab.rate_capped.RateCappedScheduler"
STOCK = {
    "online-only": "fcfs",
    "offline-only": "fcfs",
    "vllm-fcfs": "fcfs",
    "vllm-priority": "priority",
}
"""Policies of stock vLLM."""
ONLINE_FIRST, FIXED, RATE = "online-first", "fixed-budget", "rate-capped"
KNOWN = ", known"
"""Ends the name of a target whose scheduler is told the percentile that online has alone."""
LOAD = ("online", "online_rate", "offline", "offline_requests", "seconds", "seed")
"""Options that say what is served."""


class ScheduleTimer:
    """Measures what a scheduler takes of a run: `schedule` and `update_from_output`."""

    def __init__(self, scheduler: Any) -> None:
        self.seconds = 0.0
        self.num_steps = 0
        for name in ("schedule", "update_from_output"):
            setattr(scheduler, name, self._timed(getattr(scheduler, name), name == "schedule"))

    def _timed(self, method: Any, is_step: bool) -> Any:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start_s = time.perf_counter()
            result = method(*args, **kwargs)
            self.seconds += time.perf_counter() - start_s
            self.num_steps += is_step
            return result

        return timed


def policies_of(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the settings of HyGen's scheduler by policy; {} for stock vLLM's."""
    found: dict[str, dict[str, Any]] = {name: {} for name in STOCK}
    found[ONLINE_FIRST] = {"mode": "off"}
    if options.offline_rate is not None:
        found[RATE] = {"mode": "off", "offline_rate_per_s": options.offline_rate}
    if options.latency_budget_ms is not None:
        found[FIXED] = {"mode": "fixed", "latency_budget_s": options.latency_budget_ms / 1e3}
    found.update({slo: {"slos": [slo]} for slo in options.slo})
    known = [slo for slo in options.slo if Slo.parse(slo).share is not None]
    found.update({f"{slo}{KNOWN}": {"slos": [slo]} for slo in known})
    if options.hygen_profile is not None:
        for name in found.keys() - STOCK.keys():
            found[name]["profile"] = str(options.hygen_profile)
    return found


def limit_of(policy: str, alone: Mapping[str, LatencyStats]) -> str:
    """Return the target of a policy that is told what online has alone: in milliseconds."""
    slo = Slo.parse(policy.removesuffix(KNOWN))
    limit_s = slo.resolved_s(alone[slo.metric])
    assert limit_s is not None
    return str(replace(slo, limit_s=limit_s, rise=None))


def prepare(server: EngineServer, policy: str, settings: Mapping[str, Any]) -> None:
    """Give the engine the scheduler of a policy."""
    if policy in STOCK:
        server.use_scheduler(None, STOCK[policy])
        return
    config = server.scheduler.vllm_config
    config.additional_config = {**config.additional_config, "hygen": dict(settings)}
    server.use_scheduler(RATE_CAPPED if policy == RATE else HYGEN)


def serve(server: EngineServer, policy: str, requests: Requests, seconds: float) -> dict[str, Any]:
    """Serve once; return the figures."""
    if policy == "online-only":
        requests = Requests(requests.online, [])
    elif policy == "offline-only":
        requests = Requests([], requests.offline)
    timer = ScheduleTimer(server.scheduler)
    with tqdm(total=100, desc=f"{policy:16}", file=sys.stderr, mininterval=5) as bar:
        served = server.serve_requests(requests, lambda share: bar.update(int(100 * share) - bar.n))
    return {
        "policy": policy,
        **{metric: asdict(stats) for metric, stats in served.stats.items()},
        "online_unserved": served.num_unserved,
        "online_tokens_per_s": served.online_tokens_per_s,
        "offline_tokens_per_s": served.offline_tokens_per_s,
        "steps": timer.num_steps,
        "scheduler_share": timer.seconds / seconds,
        "scheduler_us_per_step": 1e6 * timer.seconds / max(1, timer.num_steps),
        "served": served,
    }


def measure(server: EngineServer, options: argparse.Namespace) -> dict[str, Any]:
    """Serve all runs under all policies, and write what is there after each."""
    rows: list[dict[str, Any]] = []
    result = {"meta": meta(server, options), "rows": rows}
    cost: StepCost | None = None
    for run in range(options.runs):
        requests = find_requests(load_of(options), run)
        alone: Any = None
        for policy, settings in policies_of(options).items():
            if policy.endswith(KNOWN):
                settings["slos"] = [limit_of(policy, alone.stats)]
            prepare(server, policy, settings)
            if options.carry_learned and settings and cost is not None:
                server.scheduler.hygen.learner = CostLearner(cost)
            row = {"run": run, **serve(server, policy, requests, options.seconds)}
            served = row.pop("served")
            alone = alone or served
            cost = server.scheduler.hygen.learner.cost if settings else cost
            slos = [] if policy == "offline-only" else options.slo
            row["of_limit"] = {slo: served.ratio_of(Slo.parse(slo), alone.stats) for slo in slos}
            rows.append(row)
            options.out.write_text(json.dumps(result, indent=1) + "\n")
    return result


def load_of(options: argparse.Namespace) -> SimulateOptions:
    """Return what is served, as `hygen simulate` would be told."""
    load = {name: getattr(options, name) for name in LOAD}
    return SimulateOptions(profile="", policy="slo", **load)


def meta(server: EngineServer, options: argparse.Namespace) -> dict[str, Any]:
    """Return what was measured on."""
    config = server.scheduler.vllm_config
    return {
        "kind": "measured",
        "vllm": vllm.__version__,
        "device": current_platform.get_device_name(),
        "model": _name(config.model_config.model),
        "asynchronous": config.scheduler_config.async_scheduling,
        "options": {name: _name(value) for name, value in vars(options).items() if name != "out"},
    }


def _name(value: Any) -> str:
    """Return a value as text; of a file or folder here, its name."""
    text = str(value)
    return Path(text).name if Path(text).exists() else text


def median_of(rows: Sequence[Mapping[str, Any]], policy: str, *names: str) -> float:
    """Return the median over runs of a figure, by its way in a row; NaN if it was not measured."""
    values = []
    for row in rows:
        value: Any = row
        for name in names:
            value = None if value is None else value.get(name)
        if row["policy"] == policy and value is not None:
            values.append(value)
    return statistics.median(values) if values else float("nan")


def table(rows: Sequence[Mapping[str, Any]], slos: Sequence[str]) -> str:
    """Return medians over runs as a Markdown table."""
    header = ["policy", "TTFT mean / P99, ms", "TBT mean / P99, ms", *(f"of {slo}" for slo in slos)]
    header += ["offline tokens/s", "of offline alone", "scheduler, us a step", "of the time"]
    lines = [f"| {' | '.join(header)} |", f"|---|{'---:|' * (len(header) - 1)}"]
    full = median_of(rows, "offline-only", "offline_tokens_per_s")
    for policy in dict.fromkeys(row["policy"] for row in rows):
        cells = [policy]
        for metric in ("ttft", "tbt"):
            mean, p99 = (1e3 * median_of(rows, policy, metric, name) for name in ("mean", "p99"))
            cells.append(f"{mean:.1f} / {p99:.1f}")
        cells += [f"{median_of(rows, policy, 'of_limit', slo):.3f}" for slo in slos]
        offline = median_of(rows, policy, "offline_tokens_per_s")
        cells += [f"{offline:,.0f}", f"{offline / full:.1%}"]
        cells.append(f"{median_of(rows, policy, 'scheduler_us_per_step'):.0f}")
        cells.append(f"{median_of(rows, policy, 'scheduler_share'):.1%}")
        lines.append(f"| {' | '.join(cells).replace('nan / nan', '').replace('nan', '')} |")
    return "\n".join(lines)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is served, under which policies."""
    parser.add_argument("--model", required=True, help="as in vllm serve; its flags may follow")
    parser.add_argument("--online", default="azure")
    parser.add_argument("--online-rate", type=float, default=5.0)
    parser.add_argument("--offline", default="arxiv")
    parser.add_argument("--offline-requests", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each run")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=61)
    parser.add_argument("--slo", action="append", default=[])
    parser.add_argument("--latency-budget-ms", type=float, help="also a fixed budget of so much")
    parser.add_argument("--offline-rate", type=float, help="also a cap of so many starts a second")
    parser.add_argument("--hygen-profile", type=Path, help="that HyGen's scheduler starts with")
    parser.add_argument(
        "--carry-learned",
        action="store_true",
        help="let each run of HyGen's scheduler begin with the step times learned before",
    )
    parser.add_argument("--out", type=Path, required=True)


def run_engine(options: argparse.Namespace, flags: list[str]) -> dict[str, Any]:
    """Start the engine, measure, and end it."""
    engine_args = parse_engine_flags(["--model", options.model, *flags])
    server = EngineServer(engine_args, lambda _: Requests([], []), options.seconds)
    try:
        return measure(server, options)
    finally:
        server.close()
