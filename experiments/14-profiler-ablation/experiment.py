# SPDX-License-Identifier: Apache-2.0
"""A fixed budget with and without the search for it, and ours, which needs none.

Without a search the best an operator knows for a target of TBT is the target itself: no step may
take longer than a token may. Runs are those of 10-slo-compliance.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from harness.comparison import ALONE, FIXED, cells_of, comparison_cases, of_limit
from harness.experiment import Claim, Config, Done, Experiment, Findings, Row, by_labels
from harness.spread import Spread
from harness.tables import markdown
from harness.tasks import limit_ms

HEADER = (
    *(
        "target",
        "budget = target",
        "of its limit",
        "offline tokens/s",
        "searched: offline tokens/s",
    ),
    *("ours: of its limit", "offline tokens/s"),
)


def findings(config: Config, runs: Sequence[Done]) -> Findings:
    cells = [cell for cell in cells_of(config, runs) if cell.target.startswith("tbt")]
    summary: list[Row] = []
    lines = []
    for cell in cells:
        naive = [
            _naive(config, by_labels(runs, seed=seed), cell.target) for seed in config["seeds"]
        ]
        row = cell.row()
        for name in ("budget_ms", "naive_of_limit", "naive"):
            spread = Spread.of([each[name] for each in naive])
            row |= spread.columns(name)
        summary.append(row)
        texts = [
            Spread.of([each[name] for each in naive]) for name in ("budget_ms", "naive_of_limit")
        ]
        lines.append(
            [
                cell.target,
                texts[0].text("g") + " ms",
                texts[1].text(".2f"),
                Spread.of([each["naive"] for each in naive]).text(),
                cell.spread("fixed").text(),
                cell.spread("of_limit").text(".3f"),
                cell.spread("ours").text(),
            ]
        )
    return Findings(summary, markdown(HEADER, lines), _claims(summary))


def _naive(config: Config, runs: Sequence[Done], target: str) -> Row:
    """Return what the largest budget of the grid below a target comes to."""
    (alone,) = (run.figures for run in by_labels(runs, policy=ALONE))
    most_ms = limit_ms(target, alone)
    budgets = [ms for ms in config["budgets_ms"] if ms <= most_ms] or config["budgets_ms"][:1]
    (run,) = by_labels(runs, policy=FIXED, setting=f"{budgets[-1]:g} ms")
    return {
        "budget_ms": float(budgets[-1]),
        "naive_of_limit": of_limit(target, run.figures, alone),
        "naive": run.figures["offline_tokens_per_s"],
    }


def _claims(summary: Sequence[Row]) -> list[Claim]:
    return [
        Claim(
            result=f"Without a search: P99 or mean of its limit under {row['target']}",
            paper="met with the profiler, not without",
            fixed=f"budget = target: {row['naive_of_limit']:.2f} with {row['naive']:,.0f} offline "
            f"tokens/s; searched: {row['fixed']:,.0f}",
            ours=f"{row['of_limit']:.2f} with {row['ours']:,.0f}, without any search",
            ratio=f"{row['ours'] / row['fixed']:.2f}" if row["fixed"] else "",
        )
        for row in summary
        if row["target"].endswith(("=+10%", "=+20%"))
    ]


def draw(_: Config, summary: Sequence[Row]) -> Any:
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    places = np.arange(len(summary))
    bars = {
        "naive": ("budget = target", "#c9a227"),
        "fixed": ("budget searched", "#2b6cb0"),
        "ours": ("ours, no search", "#0b6e4f"),
    }
    for number, (name, (label, colour)) in enumerate(bars.items()):
        of = {"naive": "naive_of_limit", "fixed": None, "ours": "of_limit"}[name]
        at = places + 0.27 * (number - 1)
        axes[1].bar(at, [row[name] for row in summary], 0.27, color=colour, label=label)
        if of is not None:
            axes[0].bar(at, [row[of] for row in summary], 0.27, color=colour)
    axes[0].axhline(1.0, color="black", lw=0.8, ls="--")
    axes[0].set_ylabel("measured / limit")
    axes[1].set_ylabel("offline tokens/s")
    axes[1].legend(frameon=False, fontsize=8)
    for ax in axes:
        targets = [row["target"] for row in summary]
        ax.set_xticks(places, targets, fontsize=7, rotation=45, ha="right")
    return figure


EXPERIMENT = Experiment(comparison_cases, findings, draw)
