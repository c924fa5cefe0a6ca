# SPDX-License-Identifier: Apache-2.0
"""Pictures of comparisons, drawn from their summaries."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from harness.claims import MISSED
from harness.experiment import Config, Row
from harness.spread import bars_of

COLOURS = {
    "ours": "#0b6e4f",
    "cold": "#7fb8a4",
    "fixed": "#2b6cb0",
    "rate": "#c9a227",
    "priority": "#b3261e",
    "online_first": "#8a8f98",
}
LABELS = {
    "ours": "ours",
    "cold": "ours, cold start",
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
MOST_RISE = 58.0
LEGEND = {"loc": "outside lower center", "frameon": False, "fontsize": 8}
WIDE = 9.0
"""Inches from which a legend has all its entries in a line."""


def draw_compliance(_: Config, summary: Sequence[Row]) -> Any:
    """Draw the rise that was measured over the rise that was allowed, a panel a metric."""
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.4), sharey=True, layout="constrained")
    for ax, (metric, title) in zip(axes, METRICS.items(), strict=True):
        rows = [row for row in summary if row["target"].startswith(f"{metric}=+")]
        allowed = np.array([_rise(row) for row in rows])
        for name, of_limit in (("cold", "cold_of_limit"), ("ours", "of_limit")):
            middle, low, high = (
                _measured(rows, allowed, f"{of_limit}{end}") for end in ("", "_low", "_high")
            )
            style = {"color": COLOURS[name], "label": LABELS[name], "capsize": 3, "ms": 4}
            ax.errorbar(allowed, middle, [middle - low, high - middle], fmt="o", **style)
        ax.plot([0, MOST_RISE], [0, MOST_RISE], color="black", lw=0.8, ls="--", label="the target")
        priority = _measured(rows, allowed, "priority_of_limit").max()
        text = f"vLLM, priority policy: +{priority:.0f} %"
        ax.text(1, MOST_RISE - 1, text, color=COLOURS["priority"], fontsize=9, va="top")
        ax.set(title=title, xlabel="rise allowed, %", xlim=(0, MOST_RISE), ylim=(0, MOST_RISE))
    axes[0].set_ylabel("rise over online alone, %")
    axes[-1].legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def _rise(row: Row) -> float:
    return float(row["target"].split("=+")[1].rstrip("%"))


def _measured(rows: Sequence[Row], allowed: Any, name: str) -> Any:
    of_limit = np.array([float(row[name]) for row in rows])
    return np.maximum(0.0, 100.0 * (of_limit * (1.0 + allowed / 100.0) - 1.0))


def draw_bars(config: Config, summary: Sequence[Row]) -> Any:
    """Draw offline throughput by target and policy, a panel a set-up."""
    setups = list(config["setups"])
    width = min(max(7.0, 2.0 + 1.1 * len(summary)), 14.0)
    figure, axes = plt.subplots(
        1, len(setups), figsize=(width, 3.8), layout="constrained", squeeze=False
    )
    for ax, setup in zip(axes[0], setups, strict=True):
        _draw_setup(ax, [row for row in summary if row["setup"] == setup])
        ax.set_title(config["setups"][setup].get("title", setup))
    axes[0][0].set_ylabel("offline tokens/s")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=5 if width > WIDE else 2, **LEGEND)
    return figure


def _draw_setup(ax: Any, rows: Sequence[Row]) -> None:
    places = np.arange(len(rows))
    names = [name for name in COLOURS if any(row[name] > 0 for row in rows)]
    width = BAR / len(names)
    for number, name in enumerate(names):
        values, errors = bars_of(rows, name)
        keeps = [_keeps(row, name) for row in rows]
        bars = ax.bar(
            places + (number - 0.5 * len(names) + 0.5) * width,
            values,
            width,
            yerr=errors,
            color=COLOURS[name],
            label=LABELS[name],
            error_kw={"lw": 0.8},
        )
        for bar, kept in zip(bars, keeps, strict=True):
            if not kept and np.isfinite(bar.get_height()):
                bar.set_alpha(TRANSPARENT)
                bar.set_hatch("//")
    ax.set_xticks(places, [row["target"].replace(" ", "\n") for row in rows], fontsize=8)
    whole = float(rows[0]["whole"])
    if np.isfinite(whole):
        ax.axhline(whole, color="black", lw=0.8, ls=":", label="offline alone")


def _keeps(row: Row, name: str) -> bool:
    """Whether a policy keeps the target; those that do not are hatched."""
    if name in {"fixed", "rate"}:
        return True
    return float(row["of_limit" if name == "ours" else f"{name}_of_limit"]) <= MISSED
