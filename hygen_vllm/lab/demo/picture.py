# SPDX-License-Identifier: Apache-2.0
"""Draws the demo's picture: how online TBT is distributed, and throughput over time."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hygen_vllm.files import replacing
from hygen_vllm.lab.demo.measure import Window
from hygen_vllm.lab.demo.report import BIN_S, PolicyRun, tbt_samples, throughput
from hygen_vllm.lab.demo.workload import OFFLINE, ONLINE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INSTALL_HINT = 'the picture needs matplotlib: pip install "hygen-vllm[lab]"'
HYGEN_STYLE = {"color": "#0b6e4f", "linewidth": 2.4, "zorder": 3}
BASELINE_STYLES: dict[str, dict[str, Any]] = {
    "fixed-budget": {"color": "#7a3e9d", "linewidth": 1.8, "zorder": 2},
    "online-only": {"color": "0.70", "linestyle": "-"},
    "offline-only": {"color": "0.70", "linestyle": "--"},
    "vllm-fcfs": {"color": "0.50", "linestyle": ":"},
    "vllm-priority": {"color": "0.20", "linestyle": "-"},
}
SLO_COLOUR = "#b3261e"


def draw(
    path: Path, title: str, runs: list[PolicyRun], window: Window, slo_tbt_p99_s: float
) -> None:
    """Write a PNG with two panels: online TBT with the SLO, and total throughput."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (latency, rate) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
    _draw_tbt(latency, runs, window, slo_tbt_p99_s)
    _draw_throughput(rate, runs, window)
    figure.suptitle(title)
    with replacing(path) as part:
        figure.savefig(part, dpi=130)
    plt.close(figure)


def _style(policy: str) -> dict[str, Any]:
    return BASELINE_STYLES.get(policy, HYGEN_STYLE)


def _draw_tbt(axes: "Axes", runs: list[PolicyRun], window: Window, slo_tbt_p99_s: float) -> None:
    """Draw the share of tokens that came later than x, which shows the tail that P99 is about."""
    for run in runs:
        gaps_ms = np.sort([gap_s * 1e3 for _, gap_s in tbt_samples(run, window)])
        later_percent = 100 * (1 - np.arange(gaps_ms.size) / max(1, gaps_ms.size))
        policy = run.figures.policy
        label = f"{policy} (n={gaps_ms.size})"
        if run.figures.online.arrived:
            axes.plot(gaps_ms, later_percent, drawstyle="steps-post", label=label, **_style(policy))
    axes.axhline(1, color="0.85", linewidth=0.8, zorder=0)
    axes.axvline(slo_tbt_p99_s * 1e3, color=SLO_COLOUR, linestyle="--", linewidth=1.2)
    axes.plot(slo_tbt_p99_s * 1e3, 1, "o", color=SLO_COLOUR, label="SLO: P99 TBT", zorder=4)
    axes.set(
        title="Online time between tokens",
        xlabel="TBT (ms)",
        ylabel="output tokens with a longer TBT (%)",
        yscale="log",
        ylim=(0.1, 100),
        yticks=(0.1, 1, 10, 100),
        yticklabels=("0.1", "1", "10", "100"),
    )
    axes.set_xlim(left=0)
    axes.legend(frameon=False)


def _draw_throughput(axes: "Axes", runs: list[PolicyRun], window: Window) -> None:
    for run in runs:
        policy = run.figures.policy
        online, offline = (
            np.array(throughput(run, slo_class, window)) for slo_class in (ONLINE, OFFLINE)
        )
        if not online.size:
            continue
        time_s, total = online[:, 0], online[:, 1] + offline[:, 1]
        label = f"{policy} (mean {run.figures.total_tokens_per_s:.0f})"
        axes.plot(time_s, total, label=label, **_style(policy))
    axes.set(
        title=f"Total throughput, prompt and output tokens, in bins of {BIN_S:g} s",
        xlabel="time in the measured window (s)",
        ylabel="tokens/s",
        ylim=(0, None),
        xlim=(0, window.duration_s),
    )
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3)
