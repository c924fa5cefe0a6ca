# SPDX-License-Identifier: Apache-2.0
"""A day of load that rises and falls: what share of a GPU's day becomes offline work?"""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from harness.comparison import OFFLINE_PER_S
from harness.experiment import Case, Claim, Config, Done, Experiment, Findings, Row, by_labels
from harness.spread import Spread
from harness.tables import markdown

PLANNED, SERVED = "planned", "served"
HEADER = (
    *("target", "share of a GPU's day", "GPU-hours of 24", "planned: offline tokens/s"),
    *("served as a whole in {} minutes", "difference", "of its limit"),
)


def cases(config: Config) -> list[Case]:
    found = []
    for target in config["targets"]:
        for seed in config["seeds"]:
            labels = {"target": target, "seed": seed}
            flags = {**config["simulation"], "seed": seed, "slo": [target]}
            day = {**flags, "seconds": config["day_s"]}
            plan = {"simulation": day, "replicas": 1, "levels": config["levels"]}
            found.append(Case({**labels, "how": PLANNED}, plan, "plan", keeps=("plan",)))
            if target in config["served_targets"]:
                seconds = config["served_s"]
                whole = {"policy": "slo", "offline_requests": OFFLINE_PER_S * seconds}
                whole |= {**flags, "seconds": seconds}
                found.append(Case({**labels, "how": SERVED}, whole))
    return found


def findings(config: Config, runs: Sequence[Done]) -> Findings:
    summary: list[Row] = []
    lines, claims = [], []
    minutes = config["served_s"] // 60
    for target in config["targets"]:
        of_day = by_labels(runs, target=target, how=PLANNED)
        share = Spread.of([run.figures["share"] for run in of_day])
        planned = [run.figures["offline_tokens_per_s"] for run in of_day]
        summary += [row for run in of_day for row in _slots(target, run)]
        line = [target, share.text(".1%"), share.text(".1f", 24.0), Spread.of(planned).text()]
        note = ""
        if target in config["served_targets"]:
            as_a_whole = by_labels(runs, target=target, how=SERVED)
            served = [run.figures["offline_tokens_per_s"] for run in as_a_whole]
            apart = Spread.of([a / b - 1 for a, b in zip(planned, served, strict=True)])
            of_limit = Spread.of([run.figures["of_limit"] for run in as_a_whole])
            line += [Spread.of(served).text(), apart.text("+.1%"), of_limit.text(".3f")]
            note = (
                f"`hygen plan` against a whole simulation of the day pressed into {minutes} "
                f"minutes: {apart.text('+.1%')}"
            )
        lines.append(line + [""] * (len(HEADER) - len(line)))
        claims.append(
            Claim(
                result=f"A day of diurnal load, {target}: share of a GPU's day for offline work",
                ours=f"{share.text('.1%')}: {share.text('.1f', 24.0)} of 24 GPU-hours",
                note=note,
            )
        )
    header = [title.format(minutes) for title in HEADER]
    return Findings(summary, markdown(header, lines), claims)


def _slots(target: str, run: Done) -> list[Row]:
    slots, capacity = run.kept["plan"]["slots"], run.kept["plan"]["capacity_tokens_per_s"]
    rows = zip(slots["requests_per_s"], slots["load"], slots["offline_tokens_per_s"], strict=True)
    return [
        {
            "target": target,
            "seed": run.case.labels["seed"],
            "hour": number * slots["seconds"] / 3600.0,
            "requests_per_s": rate,
            "load": load,
            "offline_tokens_per_s": offline,
            "of_capacity": offline / capacity,
        }
        for number, (rate, load, offline) in enumerate(rows)
    ]


def draw(config: Config, summary: Sequence[Row]) -> Any:
    targets, seed = config["targets"], config["seeds"][0]
    figure, axes = plt.subplots(
        1 + len(targets),
        1,
        figsize=(9, 2.0 + 1.9 * len(targets)),
        sharex=True,
        layout="constrained",
    )
    for ax, target in zip(axes[1:], targets, strict=True):
        rows = [row for row in summary if row["target"] == target and row["seed"] == seed]
        hours = [row["hour"] for row in rows]
        share = np.array([100 * row["of_capacity"] for row in rows])
        ax.fill_between(hours, share, color="#e0861a", step="post")
        ax.set(title=target, ylabel="% of the GPU", ylim=(0, 100))
    axes[0].plot(hours, [row["requests_per_s"] for row in rows], color="#2b6cb0", lw=1)
    axes[0].set(ylabel="online requests/s", ylim=(0, None))
    axes[-1].set_xlabel("hours")
    return figure


EXPERIMENT = Experiment(cases, findings, draw)
