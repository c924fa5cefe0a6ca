# SPDX-License-Identifier: Apache-2.0
"""Targets in every window of 15 minutes while load and offline work come and go."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from harness.claims import KEPT_SHARE, WORST
from harness.experiment import Case, Claim, Config, Done, Experiment, Findings, Row, by_labels
from harness.spread import Spread
from harness.tables import markdown

PROFILED, COLD = "profile", "cold"
HEADER = (
    *("engine and load", "target", "start", "windows kept", "worst window, of limit"),
    *("whole run, of limit", "offline tokens/s"),
)


def cases(config: Config) -> list[Case]:
    return [
        Case(
            {"engine": engine, "load": load, "target": target, "start": start, "seed": seed},
            {
                "policy": "slo",
                "offline": config["offline"],
                **config["engines"][engine]["flags"],
                **config["loads"][load]["flags"],
                "slo": target.split(),
                "seed": seed,
                **({"unprofiled": True} if start == COLD else {}),
            },
        )
        for engine, load in _engines_and_loads(config)
        for target, start in _targets(config)
        for seed in config["engines"][engine]["seeds"]
    ]


def _engines_and_loads(config: Config) -> list[tuple[str, str]]:
    return [
        (name, load)
        for name, engine in config["engines"].items()
        for load in engine.get("loads", config["loads"])
    ]


def _targets(config: Config) -> list[tuple[str, str]]:
    profiled = [(target, PROFILED) for target in config["targets"]]
    return profiled + [(target, COLD) for target in config["cold_targets"]]


def findings(config: Config, runs: Sequence[Done]) -> Findings:
    summary = [
        _row(
            {"engine": engine, "load": load, "target": target, "start": start},
            by_labels(runs, engine=engine, load=load, target=target, start=start),
        )
        for engine, load in _engines_and_loads(config)
        for target, start in _targets(config)
    ]
    lines = [
        [
            f"{row['engine']}, {config['loads'][row['load']]['title']}",
            row["target"],
            row["start"],
            f"{row['kept']} of {row['windows']}",
            _text(row, "worst", ".3f") if row["windows"] else "",
            _text(row, "of_limit", ".3f"),
            _text(row, "offline_tokens_per_s", ",.0f"),
        ]
        for row in summary
    ]
    return Findings(summary, markdown(HEADER, lines, num_texts=3), _claims(config, summary))


def _row(labels: Row, runs: Sequence[Done]) -> Row:
    row = {
        **labels,
        "windows": sum(run.figures["windows"] for run in runs),
        "kept": sum(run.figures["windows_kept"] for run in runs),
    }
    worst = [run.figures["worst_window"] or float("nan") for run in runs]
    of_limit = [run.figures["of_limit"] for run in runs]
    offline = [run.figures["offline_tokens_per_s"] for run in runs]
    row |= Spread.of(worst).columns("worst")
    row |= Spread.of(of_limit).columns("of_limit")
    return row | Spread.of(offline).columns("offline_tokens_per_s")


def _text(row: Row, name: str, form: str) -> str:
    return Spread.from_row(row, name).text(form)


def _claims(config: Config, summary: Sequence[Row]) -> list[Claim]:
    claims = []
    for name, load in config["loads"].items():
        rows = [row for row in summary if row["load"] == name and row["windows"]]
        if not rows:
            continue
        missed = [row for row in rows if row["kept"] < KEPT_SHARE * row["windows"]]
        missed += [row for row in rows if row["worst_high"] > WORST and row not in missed]
        kept, windows = (sum(row[what] for row in rows) for what in ("kept", "windows"))
        names = ", ".join(f"{row['engine']} {row['target']} ({row['start']})" for row in missed)
        worst = max(row["worst_high"] for row in rows)
        claims.append(
            Claim(
                result=f"{load['title']}: windows of 15 minutes with the target kept within 2 %",
                ours=f"{kept} of {windows}, the worst at {worst:.3f} of its limit",
                note=f"below 99 % or above 1.10: {names}" if missed else "",
            )
        )
    return claims


def draw(config: Config, summary: Sequence[Row]) -> Any:
    places = _engines_and_loads(config)
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    some = _targets(config)
    width = 0.8 / len(some)
    for number, (target, start) in enumerate(some):
        rows = [row for row in summary if (row["target"], row["start"]) == (target, start)]
        at = np.arange(len(places)) + width * (number - 0.5 * (len(some) - 1))
        label = target if start == PROFILED else f"{target}, cold start"
        axes[0].bar(at, [row["worst_high"] for row in rows], width, label=label)
        axes[1].bar(at, [row["offline_tokens_per_s"] for row in rows], width)
    axes[0].axhline(1.0, color="black", lw=0.8)
    axes[0].axhline(WORST, color="black", lw=0.8, ls="--")
    axes[0].set(ylabel="worst window of 15 minutes: measured / limit")
    axes[1].set(ylabel="offline tokens/s")
    titles = [f"{engine}, {config['loads'][load]['title']}" for engine, load in places]
    for ax in axes:
        ax.set_xticks(np.arange(len(places)), titles, fontsize=7, rotation=25, ha="right")
    figure.legend(loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    return figure


EXPERIMENT = Experiment(cases, findings, draw)
