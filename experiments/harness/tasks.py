# SPDX-License-Identifier: Apache-2.0
"""What a run can be. Each task takes a case's flags and returns (figures, what it may keep)."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from harness.experiment import Row
from harness.store import path_of, read, write

from hygen_vllm.slo import Slo

Outcome = tuple[Row, Mapping[str, Any]]
ONLINE_FLAGS = (
    *("profile", "online", "online_rate", "seconds", "seed", "noise", "slowdown", "max_model_len"),
    "kv_blocks",
)
"""On which online alone depends."""
ALONE = "online-only"
METRICS, STATISTICS = ("ttft", "tbt"), ("mean", "p50", "p99")


def simulate_task(flags: Mapping[str, Any]) -> Outcome:
    """Run `hygen simulate`.

    Percentiles among `known_targets`, like "tbt_p99=+10%", become limits in milliseconds: what
    online has alone was measured before, in the run of online alone, which is made but once.
    """
    from hygen_vllm.lab.simulator.many_runs import simulate

    flags = dict(flags)
    if flags["policy"] == ALONE:
        return _alone(flags), {}
    known = flags.pop("known_targets", None)
    if known is not None:
        alone = _alone(flags)
        slos = [_limit(target, alone) for target in known]
        flags["setting"] = [*flags.get("setting", []), f"slos={json.dumps(slos)}"]
    result = simulate(flags)
    return figures_of(result), result["details"]


def _alone(flags: Mapping[str, Any]) -> Row:
    """Return the figures of online alone, which are the same whatever offline work there is."""
    from hygen_vllm.lab.simulator.many_runs import simulate

    online = {name: flags.get(name) for name in ONLINE_FLAGS}
    path = path_of("alone", online)
    if not path.exists():
        write(path, figures_of(simulate({**online, "policy": ALONE})))
    found: Row = read(path)
    return found


def _limit(target: str, alone: Row) -> str:
    name = target.partition("=")[0]
    return target if name.endswith("_mean") else f"{name}={limit_ms(target, alone):.6f}ms"


def limit_ms(target: str, alone: Row) -> float:
    """Return the limit of a relative target, given the figures of online alone."""
    slo = Slo.parse(target)
    assert slo.rise is not None
    return float(alone[f"{slo.metric}_{slo.statistic}_ms"] * (1.0 + slo.rise))


def figures_of(result: Mapping[str, Any]) -> Row:
    """Return the numbers of a simulated run; latencies in milliseconds, or None."""
    online, offline, details = result["online"], result["offline"], result["details"]
    latencies = {
        f"{metric}_{statistic}_ms": _milliseconds(online[f"{metric}_s"][statistic])
        for metric in METRICS
        for statistic in STATISTICS
    }
    slos = [row for row in result["slo"] if row["limit_s"] and row["measured_s"] is not None]
    return {
        "steps": result["steps"],
        "virtual_s": result["virtual_s"],
        "online_finished": online["finished"],
        "online_tokens_per_s": online["tokens_per_s"],
        **latencies,
        "offline_finished": offline["finished"],
        "offline_tokens_per_s": offline["tokens_per_s"],
        "offline_hit_rate": offline["prefix_hit_rate"],
        "preemptions": offline["preemptions"],
        "recomputed_tokens": details["recomputed_tokens"],
        "predictor_mape": details["predictor_mape"],
        "of_limit": max((row["measured_s"] / row["limit_s"] for row in slos), default=None),
        **windows_row([row["windows"] for row in slos]),
    }


def windows_row(windows: Sequence[Mapping[str, Any]]) -> Row:
    """Return how many sliding windows there were of all targets, those kept, and the worst."""
    worst = [each["worst_of_limit"] for each in windows if each["worst_of_limit"] is not None]
    return {
        "windows": sum(each["count"] for each in windows),
        "windows_kept": sum(each["kept"] for each in windows),
        "worst_window": max(worst, default=None),
    }


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def accuracy_task(flags: Mapping[str, Any]) -> Outcome:
    """Fit predictors to the batches of a profile and to steps served; see predictors.py."""
    from harness.predictors import accuracy

    return accuracy(**flags), {}


def plan_task(flags: Mapping[str, Any]) -> Outcome:
    """Make a plan as `hygen plan` does, one slot at a time."""
    from hygen_vllm.lab.plan.plan import PlanOptions, make_plan
    from hygen_vllm.lab.plan.report import as_json
    from hygen_vllm.lab.simulator.options import SimulateOptions

    simulation = SimulateOptions(**{"policy": "slo", **flags["simulation"]})
    options = PlanOptions(simulation, flags["replicas"], flags["levels"], Path(), jobs=1)
    found = as_json(make_plan(options))
    names = ("share", "hours", "gpu_hours", "won_gpu_hours", "capacity_tokens_per_s")
    figures: Row = {name: found[name] for name in names}
    figures["offline_tokens_per_s"] = found["offline_tokens"] / (3600.0 * found["hours"])
    return figures, {"plan": found}


def days_task(flags: Mapping[str, Any]) -> Outcome:
    """Serve days with all that happens in them, online alone and with offline work; see days.py."""
    from harness.days import days_figures

    figures, hours = days_figures(flags)
    return figures, {"hours": hours}


def ablation_task(flags: Mapping[str, Any]) -> Outcome:
    """Run `hygen simulate` without a part of the policy, or with another constant.

    `without` names the part, "" for none, see mechanisms.py; `constant` and `factor` a constant and
    what it is multiplied by, see constants.py. `of_limit` is measured / limit over all parts of
    `target`.
    """
    from harness.constants import scaled
    from harness.mechanisms import without

    flags = dict(flags)
    name, targets = flags.pop("without", ""), flags.pop("target").split()
    constant, factor = flags.pop("constant", ""), flags.pop("factor", 1.0)
    alone = _alone({**flags, "policy": ALONE})
    with without(name) as settings, scaled(constant, factor) if constant else nullcontext():
        flags["setting"] = [*flags.get("setting", []), *settings]
        figures, kept = simulate_task(flags)
    parts = {target: f"{target.partition('=')[0]}_ms" for target in targets}
    of_limits = [figures[part] / limit_ms(target, alone) for target, part in parts.items()]
    return {**figures, "of_limit": max(of_limits)}, kept


TASKS: dict[str, Callable[[Mapping[str, Any]], Outcome]] = {
    "simulate": simulate_task,
    "ablation": ablation_task,
    "accuracy": accuracy_task,
    "plan": plan_task,
    "days": days_task,
}
