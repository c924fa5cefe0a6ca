# SPDX-License-Identifier: Apache-2.0
"""Offline and total throughput against every baseline, under each target of 10-slo-compliance."""

from collections.abc import Sequence
from math import isfinite
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from harness.claims import claim_of, largest
from harness.comparison import (
    ALONE,
    FIXED,
    OFFLINE_ALONE,
    OURS,
    PRIORITY,
    RATE,
    STARTS,
    Cell,
    cells_of,
    comparison_cases,
    just_within,
)
from harness.experiment import Claim, Config, Done, Experiment, Findings, Row, by_labels
from harness.figures import COLOURS, LABELS, LEGEND, METRICS
from harness.spread import Spread, bars_of
from harness.tables import markdown

HEADLINE = "tbt_p99=+5%"
HEADER = (
    *("target", "of its limit", "ours", "best fixed budget", "ratio", "best rate cap", "ratio"),
    *("cold start", "of the limit", "online first", "of the limit", "priority", "of the limit"),
)
HEADLINE_HEADER = (
    *("one A100, the same requests", "TBT mean / P99", "P99 over alone", "offline tokens/s"),
    "of the engine",
)


def findings(config: Config, runs: Sequence[Done]) -> Findings:
    cells = cells_of(config, runs)
    table = markdown(HEADER, [_line(cell) for cell in cells])
    summary = [cell.row() for cell in cells]
    return Findings(summary, table, _claims(cells), headline(config, runs))


def _line(cell: Cell) -> list[str]:
    ratios = [cell.ratio(name) for name in ("fixed", "rate")]
    fixed_ratio, rate_ratio = ("" if r is None else r.text(".2f") for r in ratios)
    line = [cell.target, cell.spread("of_limit").text(".3f"), cell.spread("ours").text()]
    line += [cell.spread("fixed").text(), fixed_ratio, cell.spread("rate").text(), rate_ratio]
    for name in ("cold", "online_first", "priority"):
        is_there = isfinite(cell.spread(name).median)
        texts = [cell.spread(name).text(), cell.spread(f"{name}_of_limit").text(".2f")]
        line += texts if is_there else ["", ""]
    return line


def _claims(cells: Sequence[Cell]) -> list[Claim]:
    over_rate, over_fixed = largest(cells, "rate"), largest(cells, "fixed")
    most = max(cells, key=lambda cell: cell.spread("total_over_alone").median)
    behind = min(cells, key=lambda cell: (cell.ratio("fixed") or Spread.of([9.0])).median)
    whole, alone = (most.spread(name).median for name in ("whole", "alone"))
    rate_ratio = over_rate.ratio("rate")
    times = "" if rate_ratio is None else f" {rate_ratio.text('.2f')} times"
    return [
        claim_of(
            over_rate,
            f"Offline throughput over HyGen*, most:{times} under {over_rate.target}",
            "up to 5.84 times",
        ),
        claim_of(
            over_fixed,
            f"Offline throughput over the best fixed budget, most: under {over_fixed.target}",
        ),
        claim_of(
            behind, f"Offline throughput over the best fixed budget, least: under {behind.target}"
        ),
        Claim(
            result=f"Total throughput over online alone, most: under {most.target}",
            paper="up to 3.87 times",
            ours=f"{most.spread('total_over_alone').text('.2f')} times",
            note=f"offline alone is {whole / alone:.2f} times online alone here",
        ),
        Claim(
            result=f"Total throughput of offline alone, most: under {most.target}",
            paper="84.3 %",
            ours=most.spread("share_of_whole").text(".1%"),
        ),
    ]


def headline(config: Config, runs: Sequence[Done]) -> str:
    """Return the table of the project's README: one target, medians over the seeds."""
    (setup,) = config["setups"]
    chosen: dict[str, list[Row]] = {}
    whole = []
    for seed in config["seeds"]:
        some = by_labels(runs, setup=setup, seed=seed)
        (offline_alone,) = by_labels(some, policy=OFFLINE_ALONE)
        whole.append(offline_alone.figures["offline_tokens_per_s"])
        of_target = by_labels(some, policy=OURS, setting=HEADLINE)
        (ours,), (cold,) = (by_labels(of_target, start=start) for start in STARTS)
        (alone,) = by_labels(some, policy=ALONE)
        (priority,) = by_labels(some, policy=PRIORITY)
        rows = {
            "online alone": alone.figures,
            "vLLM, priority policy": priority.figures,
            "best rate cap (the paper's HyGen*)": just_within(some, RATE, HEADLINE),
            "best fixed budget (the paper's HyGen)": just_within(some, FIXED, HEADLINE),
            f"HyGen on vLLM, `slos: [{HEADLINE}]`, cold start": cold.figures,
            f"**HyGen on vLLM**, `slos: [{HEADLINE}]`": ours.figures,
        }
        for name, figures in rows.items():
            chosen.setdefault(name, []).append(figures)
    alone_ms = [figures["tbt_p99_ms"] for figures in chosen["online alone"]]
    return markdown(
        HEADLINE_HEADER,
        [_headline_line(name, some, alone_ms, whole) for name, some in chosen.items()],
    )


def _headline_line(
    name: str, figures: Sequence[Row], alone_ms: Sequence[float], whole: Sequence[float]
) -> list[str]:
    mean, p99 = (Spread.of([f[f"tbt_{s}_ms"] for f in figures]).median for s in ("mean", "p99"))
    rise = Spread.of([f["tbt_p99_ms"] / ms - 1 for f, ms in zip(figures, alone_ms, strict=True)])
    offline = Spread.of([f["offline_tokens_per_s"] for f in figures])
    total = [f["offline_tokens_per_s"] + f["online_tokens_per_s"] for f in figures]
    share = Spread.of([t / w for t, w in zip(total, whole, strict=True)])
    cells = [f"{mean:.1f} / {p99:.1f} ms", f"{rise.median:+.0%}", f"{offline.median:,.0f}"]
    cells.append(f"{share.median:.0%}")
    return [name, *(f"**{cell}**" if name.startswith("**") else cell for cell in cells)]


def draw(_: Config, summary: Sequence[Row]) -> Any:
    """Draw offline throughput over the rise that is allowed, a panel a metric."""
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.6), sharey=True, layout="constrained")
    for ax, (metric, title) in zip(axes, METRICS.items(), strict=True):
        rows = [row for row in summary if row["target"].startswith(f"{metric}=+")]
        allowed = [float(row["target"].split("=+")[1].rstrip("%")) for row in rows]
        for name in ("cold", "ours", "fixed", "rate"):
            values, errors = bars_of(rows, name)
            style = {"color": COLOURS[name], "label": LABELS[name], "capsize": 3, "ms": 4}
            ax.errorbar(allowed, values, errors, fmt="o" if name == "cold" else "o-", **style)
        bound = np.median([row["whole"] - row["online"] for row in rows])
        ax.axhline(bound, color="black", lw=0.8, ls=":", label="offline alone less online's tokens")
        ax.set(title=title, xlabel="rise allowed over online alone, %", ylim=(0, 1.08 * bound))
    axes[0].set_ylabel("offline tokens/s")
    figure.legend(*axes[0].get_legend_handles_labels(), ncols=5, **LEGEND)
    return figure


EXPERIMENT = Experiment(comparison_cases, findings, draw)
