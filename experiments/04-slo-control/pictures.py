# SPDX-License-Identifier: Apache-2.0
"""Pictures: what is left to gain at each target, and offline work that breathes with the load.

    python experiments/04-slo-control/pictures.py

Reads cells-WORKLOAD.csv and draws frontier-WORKLOAD.png; simulates ten minutes and draws
breathing.png.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from cells import FIXED, RATE, RISES, WORKLOADS
from runs import HERE, METRICS, STATISTICS, Case, Row, options_of, read_rows

from hygen_vllm.simulator.command import simulated_result

LOOKS = {FIXED: ("fixed budget", "#8a8f98"), RATE: ("rate cap", "#c9a227")}
OURS, BOUND, ONLINE, OFFLINE = "#0b6e4f", "#b3261e", "#2b6cb0", "#e0861a"
SMOOTHED_S = 5.0
TARGETS = ("tbt_mean=+10%", "tbt_p99=+20%")
MOST_RISE = 65.0


def draw_frontiers(workload: str, rows: Sequence[Row]) -> None:
    """Draw offline tokens/s over the rise that online has to bear for them, a panel a statistic."""
    alone = next(row for row in rows if row.policy == "online-only")
    whole = next(row for row in rows if row.policy == "offline-only").offline_tokens_per_s
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.4), sharey=True, layout="constrained")
    panels = [(metric, statistic) for metric in METRICS for statistic in STATISTICS]
    for ax, (metric, statistic) in zip(axes, panels, strict=True):
        _draw_frontier(ax, rows, alone, (metric, statistic))
        bound = whole - alone.online_tokens_per_s
        ax.axhline(bound, color=BOUND, lw=1, ls=":")
        ax.set_ylim(0, 1.08 * bound)
        ax.set(title=f"{statistic} {metric.upper()}", xlabel="rise over online alone, %")
    axes[0].set_ylabel("offline tokens/s")
    labels = [label for label, _ in LOOKS.values()]
    labels += ["HyGen, by target", "targets", "offline alone less online's tokens"]
    first, last = axes[-1].lines[:4], axes[-1].lines[-1]
    figure.legend([*first, last], labels, loc="outside lower center", ncols=5, frameon=False)
    figure.suptitle(f"{workload} at {WORKLOADS[workload]} requests/s, simulated A100, Llama-2-7B")
    figure.savefig(HERE / f"frontier-{workload}.png", dpi=110)
    plt.close(figure)


def _draw_frontier(ax: Any, rows: Sequence[Row], alone: Row, what: tuple[str, str]) -> None:
    def rise(row: Row) -> float:
        return 100.0 * (row.latency_ms(*what) / alone.latency_ms(*what) - 1.0)

    for policy, (_, colour) in LOOKS.items():
        points = sorted((rise(r), r.offline_tokens_per_s) for r in rows if r.policy == policy)
        ax.plot(*zip(*points, strict=True), color=colour, lw=1.5, marker=".", ms=4)
    name = f"{what[0]}_{what[1]}="
    ours = [row for row in rows if row.policy == "slo" and row.slos.startswith(name)]
    ax.plot([rise(r) for r in ours], [r.offline_tokens_per_s for r in ours], "D", color=OURS, ms=5)
    for target in RISES:
        ax.axvline(target, color=OURS, lw=0.6, ls="--", zorder=0)
    ax.set_xlim(-2, MOST_RISE)


def draw_breathing(slos: Sequence[str]) -> None:
    """Draw the online load, the offline throughput, and what each step costs and may take."""
    flags = {"online": "azure", "online_rate": 1.1, "offline_requests": 3000, "seconds": 600.0}
    figure, grid = plt.subplots(
        3, len(slos), figsize=(13, 6), sharex=True, sharey="row", layout="constrained"
    )
    for column, slo in zip(grid.T, slos, strict=True):
        case = Case(slo, "slo", {**flags, "seed": 9, "slo": [slo]})
        result = simulated_result(options_of(case))
        _draw_run(column, result)
        (row,) = result["slo"]
        column[0].set_title(f"{slo}: {100 * row['measured_s'] / row['limit_s']:.1f} % of its limit")
    for ax, label in zip(grid[:, 0], ("online requests", "tokens/s", ""), strict=True):
        ax.set_ylabel(label)
    figure.savefig(HERE / "breathing.png", dpi=110)
    plt.close(figure)


def _draw_run(column: Any, result: dict[str, Any]) -> None:
    series = result["details"]["series"]
    time_s, bin_s = np.array(series["time_s"]), float(series["bin_s"])
    load, work, terms = column
    samples = series["samples"]
    load.plot(samples["time_s"], samples["online_running"], color=ONLINE, lw=1)
    load.plot(samples["time_s"], samples["online_waiting"], color=BOUND, lw=1)
    load.legend(["running", "waiting"], loc="upper left", frameon=False, ncols=2)
    for name, colour in (("online", ONLINE), ("offline", OFFLINE)):
        work.plot(time_s, _smooth(series[f"{name}_tokens_per_s"], bin_s), color=colour, lw=1)
    work.legend(["online", "offline"], loc="upper left", frameon=False, ncols=2)
    names = {"limit_s": ("a step may take, 0.1 s", 10.0), "price": ("price of a second", 1.0)}
    for (name, (label, factor)), colour in zip(names.items(), (OURS, OFFLINE), strict=True):
        terms.plot(time_s, factor * _smooth(series[name], bin_s), color=colour, lw=1, label=label)
    terms.legend(loc="upper left", frameon=False, ncols=2)
    terms.set(xlabel="s", xlim=(0, time_s[-1]))


def _smooth(values: Sequence[float | None], bin_s: float) -> Any:
    """Return running means; bins without a value count as the last one."""
    width = max(1, round(SMOOTHED_S / bin_s))
    found = np.array([np.nan if value is None else value for value in values], dtype=float)
    kept = np.maximum.accumulate(np.where(np.isfinite(found), np.arange(len(found)), 0))
    return np.convolve(np.nan_to_num(found[kept]), np.ones(width) / width, mode="same")


def main() -> None:
    for workload in WORKLOADS:
        path = HERE / f"cells-{workload}.csv"
        if path.exists():
            draw_frontiers(workload, read_rows(path))
    draw_breathing(TARGETS)


if __name__ == "__main__":
    main()
