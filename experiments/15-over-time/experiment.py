# SPDX-License-Identifier: Apache-2.0
"""Offline throughput from moment to moment: does it give way when online needs more?"""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from harness.comparison import common_flags
from harness.experiment import Case, Claim, Config, Done, Experiment, Findings, Row, by_labels
from harness.figures import COLOURS, LABELS
from harness.spread import Spread
from harness.tables import markdown

ONLINE = "#8a8f98"
HEADER = (
    "policy",
    "offline tokens/s",
    "correlation with online",
    "in the fullest quarter",
    "in the emptiest",
)


def cases(config: Config) -> list[Case]:
    flags = {**common_flags(config), **config["flags"]}
    return [
        Case({"policy": name, "seed": seed}, {**flags, **more, "seed": seed}, keeps=("series",))
        for name, more in config["policies"].items()
        for seed in config["seeds"]
    ]


def findings(config: Config, runs: Sequence[Done]) -> Findings:
    summary: list[Row] = []
    lines, found = [], {}
    for name in config["policies"]:
        of_seeds = [_breathing(config, run) for run in by_labels(runs, policy=name)]
        found[name] = {k: Spread.of([each[k] for each in of_seeds]) for k in of_seeds[0]}
        texts = [found[name]["mean"].text(), found[name]["correlation"].text(".2f")]
        texts += [found[name][quarter].text() for quarter in ("fullest", "emptiest")]
        lines.append([LABELS[name], *texts])
        (first, *_) = by_labels(runs, policy=name, seed=config["seeds"][0])
        series = first.kept["series"]
        online, offline = (_smooth(config, series, kind) for kind in ("online", "offline"))
        for time_s, *values in zip(series["time_s"], online, offline, strict=True):
            summary.append(
                dict(
                    zip(
                        ("policy", "time_s", "online", "offline"),
                        (name, time_s, *values),
                        strict=True,
                    )
                )
            )
    ours, fixed, rate = (found[name] for name in ("ours", "fixed", "rate"))
    swing = ours["emptiest"].median / ours["fullest"].median
    claim = Claim(
        result="Offline throughput follows the load (tbt_mean=+20%): correlation with online's",
        paper="falls when online rises",
        baseline=f"HyGen* {rate['correlation'].text('.2f')}",
        fixed=fixed["correlation"].text(".2f"),
        ours=f"{ours['correlation'].text('.2f')}; {swing:.1f} times as much in the emptiest "
        "quarter of the moments as in the fullest",
    )
    return Findings(summary, markdown(HEADER, lines), [claim])


def _breathing(config: Config, run: Done) -> dict[str, float]:
    online, offline = (_smooth(config, run.kept["series"], kind) for kind in ("online", "offline"))
    order = np.argsort(online)
    quarter = max(1, len(order) // 4)
    return {
        "mean": float(offline.mean()),
        "correlation": float(np.corrcoef(online, offline)[0, 1]),
        "fullest": float(offline[order[-quarter:]].mean()),
        "emptiest": float(offline[order[:quarter]].mean()),
    }


def _smooth(config: Config, series: Row, kind: str) -> Any:
    width = max(1, round(config["smoothed_s"] / series["bin_s"]))
    return np.convolve(series[f"{kind}_tokens_per_s"], np.ones(width) / width, mode="same")


def draw(config: Config, summary: Sequence[Row]) -> Any:
    names = [*config["policies"]]
    figure, axes = plt.subplots(
        len(names), 1, figsize=(9, 1.8 * len(names)), sharex=True, sharey=True, layout="constrained"
    )
    for ax, name in zip(axes, names, strict=True):
        rows = [row for row in summary if row["policy"] == name]
        time_s = [row["time_s"] for row in rows]
        ax.plot(time_s, [row["online"] for row in rows], color=ONLINE, lw=1, label="online")
        ax.plot(
            time_s, [row["offline"] for row in rows], color=COLOURS[name], lw=1, label="offline"
        )
        ax.set(title=LABELS[name], ylabel="tokens/s", ylim=(0, None))
        ax.legend(frameon=False, ncols=2, fontsize=8)
    axes[-1].set_xlabel("s")
    return figure


EXPERIMENT = Experiment(cases, findings, draw)
