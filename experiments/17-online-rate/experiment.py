# SPDX-License-Identifier: Apache-2.0
"""Offline throughput over the rate of online requests, against every baseline."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from harness.comparison import comparison_cases
from harness.comparison_findings import findings_of_comparison
from harness.experiment import Config, Experiment, Row
from harness.figures import COLOURS, LABELS
from harness.spread import bars_of


def draw(config: Config, summary: Sequence[Row]) -> Any:
    targets = config["targets"]
    figure, axes = plt.subplots(
        1, len(targets), figsize=(5 * len(targets), 3.6), layout="constrained", squeeze=False
    )
    for ax, target in zip(axes[0], targets, strict=True):
        rows = [row for row in summary if row["target"] == target]
        rates = [float(row["setup"]) for row in rows]
        for name in ("ours", "fixed", "rate", "priority"):
            values, errors = bars_of(rows, name)
            style = {"color": COLOURS[name], "label": LABELS[name], "capsize": 3}
            ax.errorbar(rates, values, errors, marker="o", ms=4, **style)
        ax.set(title=target, xlabel="online requests/s", ylim=(0, None))
    axes[0][0].set_ylabel("offline tokens/s")
    axes[0][0].legend(frameon=False, fontsize=8)
    return figure


EXPERIMENT = Experiment(comparison_cases, findings_of_comparison, draw)
