# SPDX-License-Identifier: Apache-2.0
"""What each part of the policy is worth: one left out at a time."""

import json
import math
import statistics
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from harness.claims import MISSED
from harness.comparison import OFFLINE_PER_S
from harness.experiment import Case, Claim, Config, Done, Experiment, Findings, Row, by_labels
from harness.mechanisms import MECHANISMS
from harness.tables import markdown

PAYS = 0.99
"""Offline work without a part, over that with it, below which the part pays."""
HEADER = (
    *("left out", "what it is for", "offline work", "+-", "least", "most"),
    *("targets lost", "targets won", "pays"),
)


def cases(config: Config) -> list[Case]:
    return [
        Case(
            {"setup": name, "target": target, "seed": seed, "without": without},
            {
                "policy": "slo",
                "offline": "arxiv",
                "offline_requests": OFFLINE_PER_S * setup["flags"]["seconds"],
                **setup["flags"],
                **_start(target, name in config.get("cold", ())),
                "seed": seed,
                "target": target,
                "without": without,
            },
            task="ablation",
        )
        for name, setup in config["setups"].items()
        for target in setup["targets"]
        for seed in config["seeds"]
        for without in ("", *_acting(config, name, target))
    ]


def _acting(config: Config, setup: str, target: str) -> list[str]:
    is_cold = setup in config.get("cold", ())
    return [
        name for name, part in MECHANISMS.items() if part.can_act(setup, target, is_cold=is_cold)
    ]


def _start(target: str, is_cold: bool) -> Row:
    """Return the flags with which percentiles of online alone are known, or nothing is."""
    if is_cold:
        return {"setting": [f"slos={json.dumps(target.split())}"]}
    return {"known_targets": target.split()}


def findings(config: Config, runs: Sequence[Done]) -> Findings:
    summary = [
        _cell(by_labels(runs, setup=name, target=target), without, name, target)
        for without in MECHANISMS
        for name, setup in config["setups"].items()
        for target in setup["targets"]
        if without in _acting(config, name, target)
    ]
    rows = [_line(name, [row for row in summary if row["without"] == name]) for name in MECHANISMS]
    num_paying = sum(row[-1] == "yes" for row in rows)
    claim = Claim(
        result="Parts of the policy that pay: 1 % of the offline work on average, or a target kept",
        ours=f"{num_paying} of {len(rows)}",
    )
    return Findings(summary, markdown(HEADER, rows, num_texts=2), [claim])


def _cell(runs: Sequence[Done], without: str, setup: str, target: str) -> Row:
    """Return what leaving out a part comes to in a set-up; medians over the seeds."""
    whole, part = by_labels(runs, without=""), by_labels(runs, without=without)
    pairs = zip(part, whole, strict=True)
    ratios = [_tokens(mine) / _tokens(with_all) for mine, with_all in pairs]
    return {
        "without": without,
        "setup": setup,
        "target": target,
        "offline_work": statistics.median(ratios),
        "of_limit": statistics.median(run.figures["of_limit"] for run in part),
        "of_limit_with": statistics.median(run.figures["of_limit"] for run in whole),
    }


def _tokens(run: Done) -> float:
    return max(1e-9, float(run.figures["offline_tokens_per_s"]))


def _line(name: str, cells: Sequence[Row]) -> list[str]:
    works = [cell["offline_work"] for cell in cells]
    logs = [*map(math.log, works)]
    mean = math.exp(statistics.fmean(logs))
    error = statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else math.nan
    lost = sum(cell["of_limit"] > MISSED >= cell["of_limit_with"] for cell in cells)
    won = sum(cell["of_limit_with"] > MISSED >= cell["of_limit"] for cell in cells)
    return [
        name,
        MECHANISMS[name].does,
        f"{mean - 1:+.1%}",
        f"{error:.1%}",
        *(f"{value - 1:+.1%}" for value in (min(works), max(works))),
        *(str(lost), str(won)),
        "yes" if mean < PAYS or lost > won else "no",
    ]


def draw(_: Config, summary: Sequence[Row]) -> Any:
    names = [*MECHANISMS]
    figure, ax = plt.subplots(figsize=(8, 0.28 * len(names) + 1), layout="constrained")
    for row in summary:
        is_lost = row["of_limit"] > MISSED >= row["of_limit_with"]
        change = max(-50.0, min(50.0, 100 * (row["offline_work"] - 1)))
        colour = "#c0392b" if is_lost else "#0b6e4f"
        ax.plot(change, names.index(row["without"]), "o", ms=4, alpha=0.6, color=colour)
    ax.axvline(0, color="black", lw=0.8)
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.invert_yaxis()
    ax.set_xlabel("offline work without it, % (a dot is a set-up and target; red: target missed)")
    return figure


EXPERIMENT = Experiment(cases, findings, draw)
