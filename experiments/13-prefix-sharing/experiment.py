# SPDX-License-Identifier: Apache-2.0
"""Offline requests that share prefixes: run together, or in the order in which they came."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from harness.experiment import Case, Claim, Config, Done, Experiment, Findings, Row, by_labels
from harness.spread import Spread, bars_of
from harness.tables import markdown

BLOCK_SIZE = 16
TITLES = {"alone": "offline alone", "beside": "beside online requests"}
HEADER = (
    *("", "KV cache, tokens", "as they came: tokens/s", "prefix hits"),
    *("by prefix: tokens/s", "prefix hits", "ratio"),
)


def cases(config: Config) -> list[Case]:
    return [
        Case(
            {"where": where, "kv_tokens": kv_tokens, "order": order, "seed": seed},
            {
                **config["flags"],
                **config[where],
                "seed": seed,
                "kv_blocks": kv_tokens // BLOCK_SIZE + 1,
                "setting": [f"offline_order={order}"],
            },
        )
        for where, sizes in (("alone", "kv_tokens"), ("beside", "beside_kv_tokens"))
        for kv_tokens in config[sizes]
        for order in config["orders"]
        for seed in config["seeds"]
    ]


def findings(config: Config, runs: Sequence[Done]) -> Findings:
    summary: list[Row] = []
    lines = []
    for where, kv_tokens in dict.fromkeys(
        (r.case.labels["where"], r.case.labels["kv_tokens"]) for r in runs
    ):
        found = {
            order: by_labels(runs, where=where, kv_tokens=kv_tokens, order=order)
            for order in config["orders"]
        }
        row: Row = {"where": where, "kv_tokens": kv_tokens}
        cells = []
        for order, of_seeds in found.items():
            speeds = Spread.of([run.figures["offline_tokens_per_s"] for run in of_seeds])
            hits = Spread.of([run.figures["offline_hit_rate"] for run in of_seeds])
            row |= speeds.columns(order)
            row[f"{order}_hits"] = hits.median
            cells += [speeds.text(), hits.text(".1%")]
        pairs = zip(found["prefix"], found["fcfs"], strict=True)
        ratio = Spread.of([_speed(ours) / _speed(other) for ours, other in pairs])
        row |= ratio.columns("ratio")
        summary.append(row)
        lines.append([TITLES[where], f"{kv_tokens:,}", *cells, ratio.text(".2f")])
    return Findings(summary, markdown(HEADER, lines), _claims(summary))


def _speed(run: Done) -> float:
    return float(run.figures["offline_tokens_per_s"])


def _claims(summary: Sequence[Row]) -> list[Claim]:
    claims = []
    for where, title in TITLES.items():
        best = max((row for row in summary if row["where"] == where), key=lambda row: row["ratio"])
        claims.append(
            Claim(
                result=f"Prefix sharing on MMLU, {title}, most: at {best['kv_tokens']:,} tokens "
                "of KV cache",
                paper="up to 4 times" if where == "alone" else "",
                baseline=f"as they came: {best['fcfs']:,.0f} tokens/s",
                ours=f"{best['prefix']:,.0f} tokens/s, {best['ratio']:.2f} times "
                f"({best['ratio_low']:.2f} to {best['ratio_high']:.2f})",
            )
        )
    return claims


def draw(_: Config, summary: Sequence[Row]) -> Any:
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for ax, (where, title) in zip(axes, TITLES.items(), strict=True):
        rows = [row for row in summary if row["where"] == where]
        places = np.arange(len(rows))
        for offset, (order, colour) in ((-0.2, ("fcfs", "#8a8f98")), (0.2, ("prefix", "#0b6e4f"))):
            values, errors = bars_of(rows, order)
            ax.bar(places + offset, values, 0.38, yerr=errors, color=colour, label=order)
        ax.set_xticks(places, [f"{row['kv_tokens']:,}" for row in rows])
        ax.set(title=title, xlabel="tokens the KV cache holds")
    axes[0].set_ylabel("offline tokens/s")
    axes[0].legend(["as they came", "by prefix"], frameon=False)
    return figure


EXPERIMENT = Experiment(cases, findings, draw)
