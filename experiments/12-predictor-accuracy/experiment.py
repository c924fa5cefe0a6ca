# SPDX-License-Identifier: Apache-2.0
"""How far the predicted seconds of a step are off, ours and by the paper's formula."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from harness.experiment import Case, Claim, Config, Done, Experiment, Findings, Row, by_labels
from harness.spread import Spread, bars_of
from harness.tables import markdown

SPEED = Path(__file__).parents[1] / "02-latency-predictor" / "speed.csv"
COLOURS = {"ours": "#0b6e4f", "paper": "#2b6cb0"}
LABELS = {"ours": "ours", "paper": "the paper's formula, least squares"}
HEADER = ("engine", "source", "ours", "the paper's formula", "noise of the measurement")


def cases(config: Config) -> list[Case]:
    return [
        Case(
            {"profile": profile, "seed": seed},
            {"profile": profile, "seed": seed, "num_mixes": config["num_mixes"]},
            "accuracy",
        )
        for profile in config["profiles"]
        for seed in config["seeds"]
    ]


def findings(config: Config, runs: Sequence[Done]) -> Findings:
    summary: list[Row] = []
    lines, claims = [], []
    for profile, about in config["profiles"].items():
        figures = [run.figures for run in by_labels(runs, profile=profile)]
        found = {n: Spread.of([f[f"{n}_mape"] for f in figures]) for n in ("ours", "paper")}
        noise = Spread.of([each["noise"] for each in figures])
        row: Row = {"profile": profile, "title": about["title"], "source": figures[0]["source"]}
        for name, spread in found.items():
            row |= spread.columns(name)
        summary.append(row)
        texts = {name: spread.text(".2%") for name, spread in found.items()}
        lines.append(
            [about["title"], row["source"], texts["ours"], texts["paper"], noise.text(".2%")]
        )
        claims.append(
            Claim(
                result=f"Error (MAPE) of predicted step times: {about['title']} ({row['source']})",
                paper=about.get("paper", ""),
                fixed=f"{texts['paper']} (its formula)",
                ours=texts["ours"],
                ratio=f"{found['ours'].median / found['paper'].median:.2f}",
                note=f"noise between steps of one batch is {noise.text('.2%')}"
                if noise.median
                else "",
            )
        )
    return Findings(summary, markdown(HEADER, lines, num_texts=2), [*claims, *_speed()])


def _speed() -> list[Claim]:
    """Return what 02-latency-predictor measured."""
    with SPEED.open(encoding="utf-8", newline="") as file:
        medians = {row["what"]: row["median"] for row in csv.DictReader(file)}
    return [
        Claim(
            "Price of a whole step predicted", "18 us", ours=f"{medians['price a whole step']} us"
        ),
        Claim(
            "80,000 steps fitted",
            "15 ms",
            ours=f"{1e3 * float(medians['fit 80000 steps']):.0f} ms",
            note="longer than the paper's, outside the engine: it chooses among curves and lets no "
            "outlier decide",
        ),
    ]


def draw(_: Config, summary: Sequence[Row]) -> Any:
    figure, ax = plt.subplots(figsize=(8, 3.6), layout="constrained")
    places = np.arange(len(summary))
    for offset, name in ((-0.2, "ours"), (0.2, "paper")):
        values, errors = bars_of(summary, name, 100.0)
        style = {"color": COLOURS[name], "label": LABELS[name]}
        ax.barh(places + offset, values, 0.38, xerr=errors, **style)
    ax.set_yticks(places, [row["title"] for row in summary])
    ax.invert_yaxis()
    ax.set(xlabel="mean absolute error of held-out steps, %", xscale="log")
    ax.legend(frameon=False)
    return figure


EXPERIMENT = Experiment(cases, findings, draw)
