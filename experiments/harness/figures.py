# SPDX-License-Identifier: Apache-2.0
"""Pictures of comparisons, drawn from their summaries."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from harness.claims import MISSED
from harness.experiment import Config, Row

COLOURS = {
    "ours": "#0b6e4f",
    "fixed": "#2b6cb0",
    "rate": "#c9a227",
    "priority": "#b3261e",
    "online_first": "#8a8f98",
}
LABELS = {
    "ours": "ours",
    "fixed": "best fixed budget (the paper's HyGen)",
    "rate": "best rate cap (HyGen*)",
    "priority": "vLLM, priority policy",
    "online_first": "online first, no gate (Sarathi++)",
}
METRICS = {
    "ttft_mean": "mean TTFT",
    "ttft_p99": "P99 TTFT",
    "tbt_mean": "mean TBT",
    "tbt_p99": "P99 TBT",
}
BAR = 0.8
TRANSPARENT = 0.35


def draw_compliance(_: Config, summary: Sequence[Row]) -> Any:
    """Draw the rise that was measured over the rise that was allowed, a panel a metric."""
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.4), layout="constrained")
    for ax, (metric, title) in zip(axes, METRICS.items(), strict=True):
        rows = [row for row in summary if row["target"].startswith(f"{metric}=+")]
        allowed = np.array([_rise(row) for row in rows])
        for name, of_limit in (("ours", "of_limit"), ("priority", "priority_of_limit")):
            values = [_measured(rows, allowed, f"{of_limit}{end}") for end in ("", "_low", "_high")]
            middle, low, high = values
            errors = [middle - low, high - middle]
            style = {"color": COLOURS[name], "label": LABELS[name], "capsize": 3}
            ax.errorbar(allowed, middle, errors, marker="o", ms=4, lw=1.2, **style)
        ax.plot([0, 55], [0, 55], color="black", lw=0.8, ls="--", label="the target")
        ax.set(title=title, xlabel="rise allowed, %", yscale="symlog", xlim=(0, 55), ylim=(0, None))
        ax.set_yticks([0, 5, 10, 20, 50, 100, 300])
        ax.set_yticklabels(["0", "5", "10", "20", "50", "100", "300"])
    axes[0].set_ylabel("rise over online alone, %")
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def _rise(row: Row) -> float:
    return float(row["target"].split("=+")[1].rstrip("%"))


def _measured(rows: Sequence[Row], allowed: Any, name: str) -> Any:
    of_limit = np.array([float(row[name]) for row in rows])
    return np.maximum(0.0, 100.0 * (of_limit * (1.0 + allowed / 100.0) - 1.0))


def draw_bars(config: Config, summary: Sequence[Row]) -> Any:
    """Draw offline throughput by target and policy, a panel a set-up."""
    setups = list(config["setups"])
    width = max(6.0, 2.0 + 1.1 * len(summary))
    figure, axes = plt.subplots(
        1, len(setups), figsize=(min(width, 14.0), 3.8), layout="constrained", squeeze=False
    )
    for ax, setup in zip(axes[0], setups, strict=True):
        _draw_setup(ax, [row for row in summary if row["setup"] == setup])
        ax.set_title(config["setups"][setup].get("title", setup))
    axes[0][0].set_ylabel("offline tokens/s")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return figure


def _draw_setup(ax: Any, rows: Sequence[Row]) -> None:
    places = np.arange(len(rows))
    names = [name for name in COLOURS if any(row[name] for row in rows)]
    width = BAR / len(names)
    for number, name in enumerate(names):
        values, lows, highs = (
            np.array([float(row[f"{name}{end}"]) for row in rows]) for end in ("", "_low", "_high")
        )
        keeps = [_keeps(row, name) for row in rows]
        bars = ax.bar(
            places + (number - 0.5 * len(names) + 0.5) * width,
            values,
            width,
            yerr=[values - lows, highs - values],
            color=COLOURS[name],
            label=LABELS[name],
            error_kw={"lw": 0.8},
        )
        for bar, kept in zip(bars, keeps, strict=True):
            bar.set_alpha(1.0 if kept else TRANSPARENT)
            bar.set_hatch("" if kept else "//")
    ax.set_xticks(places, [row["target"].replace(" ", "\n") for row in rows], fontsize=8)
    whole = float(rows[0]["whole"])
    if np.isfinite(whole):
        ax.axhline(whole, color="black", lw=0.8, ls=":", label="offline alone")


def _keeps(row: Row, name: str) -> bool:
    """Whether a policy keeps the target; those that do not are hatched."""
    if name in {"fixed", "rate"}:
        return True
    if name == "online_first":
        return float(row["online_first_of_limit"]) <= MISSED
    return float(row["of_limit" if name == "ours" else "priority_of_limit"]) <= MISSED
