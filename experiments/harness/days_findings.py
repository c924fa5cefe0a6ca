# SPDX-License-Identifier: Apache-2.0
"""Targets, waits and memory over days; see days.py for what is served."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from harness.claims import KEPT_SHARE, WORST
from harness.experiment import Case, Claim, Config, Done, Findings, Row, by_labels
from harness.spread import Spread
from harness.tables import markdown

HEADER = (
    *("target", "windows kept", "worst window, of limit", "offline tokens/s"),
    *("longest wait of a tenant, h", "memory, last day over first"),
)
HOUR_S = 3600.0


def cases(config: Config) -> list[Case]:
    return [
        Case(
            {"target": target, "seed": seed},
            {**config["flags"], "days": config["days"], "slo": target.split(), "seed": seed},
            task="days",
            keeps=("hours",),
        )
        for target in config["targets"]
        for seed in config["seeds"]
    ]


def findings(config: Config, runs: Sequence[Done]) -> Findings:
    """Return the hours of each run as the summary; the table has a line for each target."""
    hours: list[Row] = [{**run.case.labels, **hour} for run in runs for hour in run.kept["hours"]]
    lines, claims = [], []
    for target in config["targets"]:
        some = by_labels(runs, target=target)
        windows, kept = (sum(r.figures[name] for r in some) for name in ("windows", "windows_kept"))
        worst = Spread.of([run.figures["worst_window"] or 0.0 for run in some])
        lines.append(
            [
                target,
                f"{kept:,} of {windows:,}",
                worst.text(".3f"),
                Spread.of([run.figures["offline_tokens_per_s"] for run in some]).text(),
                Spread.of([_longest_wait_h(run.figures) for run in some]).text(".1f"),
                _memory(some),
            ]
        )
        is_missed = kept < KEPT_SHARE * windows or worst.high > WORST
        claims.append(
            Claim(
                result=f"{_days(config)}, {target}: windows of 15 minutes kept within 2 %",
                ours=f"{kept:,} of {windows:,}, the worst at {worst.high:.3f} of its limit",
                note="below 99 %, or one above 1.10" if is_missed else "",
            )
        )
    return Findings(hours, markdown(HEADER, lines, num_texts=1), claims)


def _days(config: Config) -> str:
    days = config["days"]
    return {1: "a day", 7: "a week"}.get(days, f"{days} days")


def _longest_wait_h(figures: Row) -> float:
    return max(s for name, s in figures.items() if name.startswith("wait_")) / HOUR_S


def _memory(runs: Sequence[Done]) -> str:
    """Return the memory of the scheduler on the last day over that of the first."""
    shares = [
        run.figures["memory_last_day_bytes"] / run.figures["memory_first_day_bytes"]
        for run in runs
        if run.figures["memory_first_day_bytes"]
    ]
    return Spread.of(shares).text(".2f") if shares else ""


def draw(config: Config, summary: Sequence[Row]) -> Any:
    """Draw the first seed of each target: the worst window of each hour, and tokens/s."""
    figure, axes = plt.subplots(2, 1, figsize=(12, 6), sharex=True, layout="constrained")
    for target in config["targets"]:
        rows = [r for r in summary if (r["target"], r["seed"]) == (target, config["seeds"][0])]
        days = [row["hour"] / 24 for row in rows]
        worst = [float("nan") if r["worst_window"] is None else r["worst_window"] for r in rows]
        axes[0].plot(days, worst, label=target, lw=1)
        axes[1].plot(days, [r["offline_tokens_per_s"] for r in rows], label=f"offline, {target}")
    axes[1].plot(
        days, [r["online_tokens_per_s"] for r in rows], color="black", lw=1, label="online"
    )
    axes[0].axhline(1.0, color="black", lw=0.8)
    axes[0].axhline(WORST, color="black", lw=0.8, ls="--")
    axes[0].set(ylabel="worst window, of limit")
    axes[1].set(ylabel="tokens/s", xlabel="day")
    for ax in axes:
        ax.legend(fontsize=8, frameon=False)
    return figure
