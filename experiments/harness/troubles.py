# SPDX-License-Identifier: Apache-2.0
"""Targets while something is wrong: a set-up is a trouble, the first one is none.

The fixed budget is the one that was best without trouble, as an operator would have tuned it. The
first of `starts` says what ours knows of online alone. `of_limit` is relative to online alone in
the same trouble.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from harness.claims import MISSED
from harness.comparison import ALONE, FIXED, OURS, PRIORITY, of_limit
from harness.experiment import Claim, Config, Done, Findings, Row, by_labels
from harness.figures import COLOURS, LABELS, LEGEND
from harness.spread import Spread, bars_of
from harness.tables import markdown

HEADER = (
    *("target", "trouble", "ours: of its limit", "offline tokens/s", "change"),
    *(
        "fixed budget: of the limit",
        "offline tokens/s",
        "priority: of the limit",
        "offline tokens/s",
    ),
)
NAMES = {"ours": OURS, "fixed": FIXED, "priority": PRIORITY}
TITLES = {**LABELS, "fixed": "fixed budget that was best without trouble"}
MOST_SHOWN = 2.0
"""Of the limit; bars end there."""


def findings_of_troubles(config: Config, runs: Sequence[Done]) -> Findings:
    """Return every target in every trouble."""
    summary = [
        _row(config, runs, target, trouble)
        for target in config["targets"]
        for trouble in config["setups"]
    ]
    return Findings(summary, _table(config, summary), _claims(config, summary))


def _row(config: Config, runs: Sequence[Done], target: str, trouble: str) -> Row:
    row: Row = {"target": target, "trouble": trouble}
    of_trouble = by_labels(runs, setup=trouble)
    budget = tuned(config, runs, target)
    labels = {
        "ours": {"setting": target, "start": config["starts"][0]},
        "fixed": {"setting": budget},
        "priority": {"setting": ""},
    }
    for name, which in labels.items():
        some = by_labels(of_trouble, policy=NAMES[name], **which)
        of_limits, tokens = _served(config, of_trouble, some, target)
        row |= {**of_limits.columns(f"{name}_of_limit"), **tokens.columns(name)}
    return {**row, "fixed_setting": budget}


def _served(
    config: Config, of_trouble: Sequence[Done], some: Sequence[Done], target: str
) -> tuple[Spread, Spread]:
    """Return measured / limit and offline tokens/s of the runs of one policy, over the seeds."""
    of_limits, tokens = [], []
    for seed in config["seeds"]:
        (alone,) = by_labels(of_trouble, policy=ALONE, seed=seed)
        (run,) = by_labels(some, seed=seed)
        of_limits.append(of_limit(target, run.figures, alone.figures))
        tokens.append(run.figures["offline_tokens_per_s"])
    return Spread.of(of_limits), Spread.of(tokens)


def tuned(config: Config, runs: Sequence[Done], target: str) -> str:
    """Return the fixed budget with most offline work that meets a target without trouble."""
    calm = by_labels(runs, setup=next(iter(config["setups"])))
    found = []
    for budget_ms in config["budgets_ms"]:
        setting = f"{budget_ms:g} ms"
        some = by_labels(calm, policy=FIXED, setting=setting)
        of_limits, tokens = _served(config, calm, some, target)
        found.append((of_limits.median <= 1.0, tokens.median, setting))
    return max(found)[2]


def _table(config: Config, summary: Sequence[Row]) -> str:
    lines = []
    for row in summary:
        calm = next(r for r in summary if r["target"] == row["target"])
        change = "" if row is calm else f"{row['ours'] / calm['ours'] - 1:+.0%}"
        title = config["setups"][row["trouble"]].get("title", row["trouble"])
        cells = [
            row["target"],
            title,
            _text(row, "ours_of_limit", ".3f"),
            _text(row, "ours"),
            change,
        ]
        for name in ("fixed", "priority"):
            cells += [_text(row, f"{name}_of_limit", ".2f"), _text(row, name)]
        lines.append(cells)
    return markdown(HEADER, lines, num_texts=2)


def _text(row: Row, name: str, form: str = ",.0f") -> str:
    return Spread.from_row(row, name).text(form)


def _claims(config: Config, summary: Sequence[Row]) -> list[Claim]:
    claims = []
    for row in summary:
        setup = config["setups"][row["trouble"]]
        if row["trouble"] == next(iter(config["setups"])):
            continue
        missed = row["ours_of_limit"] - 1.0
        is_kept = row["fixed"] and row["fixed_of_limit"] <= MISSED
        claims.append(
            Claim(
                result=f"{setup.get('title', row['trouble'])}: {row['target']}, of its limit",
                paper=setup.get("paper", ""),
                baseline=f"priority {_text(row, 'priority_of_limit', '.2f')}",
                fixed=f"{_text(row, 'fixed_of_limit', '.2f')} with {row['fixed']:,.0f} offline "
                f"tokens/s ({row['fixed_setting']})",
                ours=f"{_text(row, 'ours_of_limit', '.2f')} with {row['ours']:,.0f}",
                ratio=f"{row['ours'] / row['fixed']:.2f}" if is_kept else "",
                note=f"the target is missed by {missed:.1%}" if missed > MISSED - 1 else "",
            )
        )
    return claims


def draw_troubles(config: Config, summary: Sequence[Row]) -> Any:
    """Draw measured / limit over offline throughput, in every trouble."""
    targets = config["targets"]
    figure, grid = plt.subplots(
        2,
        len(targets),
        figsize=(4.6 * len(targets), 6.0),
        sharex="col",
        layout="constrained",
        squeeze=False,
    )
    for column, target in zip(grid.T, targets, strict=True):
        rows = [row for row in summary if row["target"] == target]
        places = np.arange(len(rows))
        for number, name in enumerate(NAMES):
            for ax, what in zip(column, (f"{name}_of_limit", name), strict=True):
                values, errors = bars_of(rows, what)
                at = places + 0.27 * (number - 1)
                ax.bar(at, values, 0.27, yerr=errors, color=COLOURS[name], label=TITLES[name])
        column[0].axhline(1.0, color="black", lw=0.8, ls="--")
        column[0].set(title=target, ylim=(0, MOST_SHOWN))
        titles = [config["setups"][row["trouble"]].get("title", row["trouble"]) for row in rows]
        column[1].set_xticks(places, titles, fontsize=7, rotation=30, ha="right")
    grid[0][0].set_ylabel("measured / limit")
    grid[1][0].set_ylabel("offline tokens/s")
    handles = grid[0][0].get_legend_handles_labels()
    figure.legend(*handles, ncols=3 if len(targets) > 1 else 1, **LEGEND)
    return figure
