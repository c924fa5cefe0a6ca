# SPDX-License-Identifier: Apache-2.0
"""What each named number of the policy is worth: halved and doubled, one at a time."""

import json
import math
import statistics
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from harness.claims import MISSED
from harness.comparison import OFFLINE_PER_S
from harness.constants import constants
from harness.experiment import Case, Claim, Config, Done, Experiment, Findings, Row, by_labels
from harness.tables import markdown

MOVES = 0.01
"""Change of the offline work, on average over the set-ups, from which a number moves something."""
HEADER = ("number", "value", "why", "halved", "doubled", "targets lost")


def cases(config: Config) -> list[Case]:
    return [
        Case(
            {"setup": name, "target": target, "seed": seed, "constant": place, "factor": factor},
            {
                "policy": "slo",
                "offline": "arxiv",
                "offline_requests": OFFLINE_PER_S * setup["flags"]["seconds"],
                **setup["flags"],
                **_start(target, name in config.get("cold", ())),
                "seed": seed,
                "target": target,
                "constant": place,
                "factor": factor,
            },
            task="ablation",
        )
        for name, setup in config["setups"].items()
        for target in setup["targets"]
        for seed in config["seeds"]
        for place, factor in _changes(config)
    ]


def _changes(config: Config) -> list[tuple[str, float]]:
    changed = [(each.place, factor) for each in constants() for factor in config["factors"]]
    return [("", 1.0), *changed]


def _start(target: str, is_cold: bool) -> Row:
    """Return the flags with which percentiles of online alone are known, or nothing is."""
    if is_cold:
        return {"setting": [f"slos={json.dumps(target.split())}"]}
    return {"known_targets": target.split()}


def findings(config: Config, runs: Sequence[Done]) -> Findings:
    whole = by_labels(runs, constant="")
    summary, rows = [], []
    for each in constants():
        changes, num_lost = [], 0
        for factor in config["factors"]:
            pairs = [*zip(by_labels(runs, constant=each.place, factor=factor), whole, strict=True)]
            logs = [math.log(_tokens(one) / _tokens(other)) for one, other in pairs]
            changes.append(math.exp(statistics.fmean(logs)) - 1.0)
            num_lost += sum(_of_limit(a) > MISSED >= _of_limit(b) for a, b in pairs)
            row = {"constant": each.place, "factor": factor, "offline_work": changes[-1]}
            summary.append({**row, "targets_lost": num_lost})
        shown = [f"{change:+.1%}" for change in changes]
        rows.append([f"`{each.place}`", f"{each.value:g}", each.why, *shown, str(num_lost)])
    num_moving = sum(
        abs(row["offline_work"]) >= MOVES or row["targets_lost"] > 0 for row in summary
    )
    claim = Claim(
        result="Halved or doubled numbers that move the offline work by 1 % or lose a target",
        ours=f"{num_moving} of {len(summary)}",
    )
    return Findings(summary, markdown(HEADER, rows, num_texts=3), [claim])


def _moves(row: Row) -> bool:
    return bool(abs(row["offline_work"]) >= MOVES or row["targets_lost"])


def draw(_: Config, summary: Sequence[Row]) -> Any:
    shown = [row for row in summary if _moves(row)]
    names = [*dict.fromkeys(row["constant"] for row in shown)]
    figure, ax = plt.subplots(figsize=(8, 0.28 * max(4, len(names)) + 1), layout="constrained")
    for row in shown:
        colour = "#c0392b" if row["targets_lost"] else "#0b6e4f"
        mark = "<" if row["factor"] < 1 else ">"
        ax.plot(100 * row["offline_work"], names.index(row["constant"]), mark, color=colour)
    ax.axvline(0, color="black", lw=0.8)
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.invert_yaxis()
    ax.set_xlabel("offline work with half (<) or twice (>) of it, % (red: a target is missed)")
    return figure


def _tokens(run: Done) -> float:
    return max(1e-9, float(run.figures["offline_tokens_per_s"]))


def _of_limit(run: Done) -> float:
    return float(run.figures["of_limit"])


EXPERIMENT = Experiment(cases, findings, draw)
