# SPDX-License-Identifier: Apache-2.0
"""Mode `slo` against everything else under the same targets, in one or several set-ups.

For each set-up and seed: online alone, offline alone, vLLM's priority policy, fixed budgets and
rate caps from low to high, and ours for each target. A target's baselines are tuned with hindsight:
the fixed budget and the rate cap whose latency, in the very same run, is the target, or that of
ours where ours misses it, interpolated between the two runs around it. Ours is told the percentiles
that online has alone, without which nothing could be tuned to a relative target either; from a cold
start it is not even told that. Means it estimates while serving in any case.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from harness.experiment import Case, Config, Done, Row, by_labels
from harness.spread import Spread
from harness.tables import markdown
from harness.tasks import ALONE, limit_ms

OFFLINE_ALONE, PRIORITY, ONLINE_FIRST = "offline-only", "vllm-priority", "online-first"
FIXED, RATE, OURS = "fixed-budget", "rate-capped", "slo"
KNOWN, COLD = "known", "cold"
STARTS = (KNOWN, COLD)
"""Percentiles of online alone were measured before, as the baselines were tuned; or nothing was."""
UNTOLD = {"setup": "", "seed": 0, "policy": "", "setting": "", "start": ""}
"""Labels of a run, in their order."""
TUNED_FIGURES = ("tbt_mean_ms", "tbt_p99_ms", "offline_tokens_per_s", "online_tokens_per_s")
"""Of a baseline between two runs."""
OFFLINE_PER_S = 4
"""Offline requests that wait, for each second of a run: of arXiv's length more than any device here
can serve. Of shorter ones a set-up has more; see record.check_backlog."""


def comparison_cases(config: Config) -> list[Case]:
    """Return the runs of a comparison."""
    return [
        Case({**UNTOLD, "setup": name, "seed": seed, "policy": policy, **labels}, {**flags, **more})
        for name, setup in config["setups"].items()
        for seed in config["seeds"]
        for flags in [{**common_flags(config), **setup["flags"], "seed": seed}]
        for policy, labels, more in policies_of(config, setup)
    ]


def common_flags(config: Config) -> dict[str, Any]:
    """Return the flags that all runs of a config have."""
    seconds = config["seconds"]
    return {"seconds": seconds, "offline_requests": int(OFFLINE_PER_S * seconds)}


def policies_of(config: Config, setup: Config) -> Iterator[tuple[str, Row, Row]]:
    """Yield (policy, labels, flags); baselines get no targets, which would cost a run each.

    `hygen_flags` of a set-up are for HyGen's scheduler only.
    """
    own = setup.get("hygen_flags", {})
    for policy in config.get("policies", (ALONE, OFFLINE_ALONE, PRIORITY)):
        without = {"online": None, "online_rate": None} if policy == OFFLINE_ALONE else {}
        yield policy, {"setting": ""}, {"policy": policy, **without}
    for budget_ms in setup.get("budgets_ms", config.get("budgets_ms", ())):
        label = {"setting": f"{budget_ms:g} ms"}
        yield FIXED, label, {"policy": FIXED, "latency_budget_ms": budget_ms, **own}
    for rate in setup.get("rates", config.get("rates", ())):
        yield RATE, {"setting": f"{rate:g}/s"}, {"policy": RATE, "offline_rate": rate, **own}
    for target in setup.get("targets", config["targets"]):
        for start, flags in _starts(config, target).items():
            yield OURS, {"setting": target, "start": start}, {"policy": OURS, **flags, **own}


def _starts(config: Config, target: str) -> dict[str, Row]:
    """Return the flags of our policy by start. Means are estimated while serving in any case."""
    starts = config.get("starts", STARTS)
    # not --slo, which would serve online alone, too
    cold = {"setting": [f"slos={json.dumps(target.split())}"]}
    if all("_mean=" in part for part in target.split()):
        return {starts[0]: cold}
    found: dict[str, Row] = {KNOWN: {"known_targets": target.split()}, COLD: cold}
    if target not in config.get("cold_targets", [target]):
        del found[COLD]
    return {start: flags for start, flags in found.items() if start in starts}


@dataclass(frozen=True)
class SeedCell:
    """One target in one set-up with one seed. Tokens are those of a second.

    Args:
        of_limit: measured over limit, the largest over the parts of a target; ours.
        cold_of_limit, cold: ours from a cold start; NaN where there was no such run.
        priority_of_limit, online_first_of_limit: the same under these policies.
        fixed, rate: offline work of the best fixed budget and rate cap.
        whole: tokens of offline alone.
    """

    of_limit: float
    cold_of_limit: float
    priority_of_limit: float
    online_first_of_limit: float
    ours: float
    cold: float
    fixed: float
    rate: float
    priority: float
    online_first: float
    online: float
    alone: float
    whole: float

    @property
    def total_over_alone(self) -> float:
        """All tokens over those of online alone."""
        return (self.online + self.ours) / self.alone

    @property
    def share_of_whole(self) -> float:
        """All tokens over those of offline alone."""
        return (self.online + self.ours) / self.whole


@dataclass(frozen=True)
class Cell:
    """One target in one set-up, all seeds."""

    setup: str
    target: str
    seeds: Sequence[SeedCell]

    def spread(self, name: str) -> Spread:
        """Return a figure of SeedCell over the seeds."""
        return Spread.of([getattr(cell, name) for cell in self.seeds])

    def ratio(self, name: str) -> Spread | None:
        """Return ours over another's offline work; None if that has none with some seed."""
        others = [getattr(cell, name) for cell in self.seeds]
        if not all(others):
            return None
        return Spread.of([c.ours / other for c, other in zip(self.seeds, others, strict=True)])

    def row(self) -> Row:
        """Return the numbers, medians first."""
        found: Row = {"setup": self.setup, "target": self.target, "seeds": len(self.seeds)}
        names = ("total_over_alone", "share_of_whole", *asdict(self.seeds[0]))
        for name in names:
            found |= self.spread(name).columns(name)
        for name in ("fixed", "rate"):
            ratio = self.ratio(name)
            found[f"over_{name}"] = None if ratio is None else ratio.median
        return found


def cells_of(config: Config, runs: Sequence[Done]) -> list[Cell]:
    """Return what came of the targets."""
    return [
        Cell(
            name,
            target,
            [_seed_cell(by_labels(runs, setup=name, seed=s), target) for s in config["seeds"]],
        )
        for name, setup in config["setups"].items()
        for target in setup.get("targets", config["targets"])
    ]


def _seed_cell(runs: Sequence[Done], target: str) -> SeedCell:
    def one(policy: str) -> Row:
        found = by_labels(runs, policy=policy)
        return found[0].figures if found else {}

    alone, priority, online_first = one(ALONE), one(PRIORITY), one(ONLINE_FIRST)
    (ours,) = by_labels(runs, policy=OURS, setting=target, start=KNOWN)
    cold_runs = by_labels(runs, policy=OURS, setting=target, start=COLD)
    cold = cold_runs[0].figures if cold_runs else {}

    return SeedCell(
        of_limit=of_limit(target, ours.figures, alone),
        cold_of_limit=of_limit(target, cold, alone),
        priority_of_limit=of_limit(target, priority, alone),
        online_first_of_limit=of_limit(target, online_first, alone),
        ours=ours.figures["offline_tokens_per_s"],
        cold=cold.get("offline_tokens_per_s", float("nan")),
        fixed=_offline_work(just_within(runs, FIXED, target)),
        rate=_offline_work(just_within(runs, RATE, target)),
        priority=priority.get("offline_tokens_per_s", 0.0),
        online_first=online_first.get("offline_tokens_per_s", 0.0),
        online=ours.figures["online_tokens_per_s"],
        alone=alone["online_tokens_per_s"],
        whole=one(OFFLINE_ALONE).get("offline_tokens_per_s", float("nan")),
    )


def just_within(runs: Sequence[Done], policy: str, target: str) -> Row:
    """Return the figures of a baseline that is tuned until it just meets a target, as ours does.

    They lie between those of the run with most offline work that is within the target, online
    alone if there is no other, and of the run with the next more.

    Args: runs: of one set-up and seed.
    """
    (alone,) = (run.figures for run in by_labels(runs, policy=ALONE))
    (ours,) = by_labels(runs, policy=OURS, setting=target, start=KNOWN)
    slack = max(1.0, of_limit(target, ours.figures, alone))
    tuned = [alone, *(run.figures for run in by_labels(runs, policy=policy))]
    tuned.sort(key=_offline_work)
    of_limits = [of_limit(target, figures, alone) for figures in tuned]
    last = max(number for number, value in enumerate(of_limits) if value <= slack)
    if last == len(tuned) - 1 or not isfinite(of_limits[last + 1]):
        return tuned[last]
    (low, high), (below, above) = of_limits[last : last + 2], tuned[last : last + 2]
    part = (slack - low) / (high - low)
    return {name: below[name] + part * (above[name] - below[name]) for name in TUNED_FIGURES}


def _offline_work(figures: Row) -> float:
    return float(figures["offline_tokens_per_s"])


def of_limit(target: str, figures: Row, alone: Row) -> float:
    """Return measured / limit of a target, like "ttft_p99=+8% tbt_mean=+10%": the largest.

    Args: figures: {} if there was no such run.
    """
    if not figures:
        return float("nan")
    return max(_part_of_limit(part, figures, alone) for part in target.split())


def _part_of_limit(part: str, figures: Row, alone: Row) -> float:
    measured_ms = figures[f"{part.partition('=')[0]}_ms"]
    return float("inf") if measured_ms is None else float(measured_ms / limit_ms(part, alone))


HEADER = (
    *("set-up", "target", "of its limit", "offline tokens/s", "best fixed budget", "ratio"),
    *("best rate cap", "ratio", "cold start: of its limit", "offline tokens/s"),
    *(
        "priority: of the limit",
        "offline tokens/s",
        "total / online alone",
        "total / offline alone",
    ),
)


def table_of(cells: Sequence[Cell]) -> str:
    """Return the comparison for people, without the columns of what was not run."""
    columns = [c for c in zip(HEADER, *map(_cells, cells), strict=True) if any(c[1:])]
    header, *rows = zip(*columns, strict=True)
    return markdown(header, rows, num_texts=2)


def _cells(cell: Cell) -> list[str]:
    found = [
        cell.setup,
        cell.target,
        cell.spread("of_limit").text(".3f"),
        cell.spread("ours").text(),
    ]
    for name in ("fixed", "rate"):
        ratio = cell.ratio(name)
        found += [cell.spread(name).text(), "" if ratio is None else ratio.text(".2f")]
    for name in ("cold", "priority"):
        is_there = isfinite(cell.spread(name).median)
        texts = [cell.spread(f"{name}_of_limit").text(".3f"), cell.spread(name).text()]
        found += texts if is_there else ["", ""]
    found += [
        cell.spread("total_over_alone").text(".2f"),
        cell.spread("share_of_whole").text(".1%"),
    ]
    return found
