# SPDX-License-Identifier: Apache-2.0
"""Offline and total throughput against every baseline, under each target of 10-slo-compliance."""

from collections.abc import Sequence

from harness.claims import claim_of, largest
from harness.comparison import cells_of, comparison_cases
from harness.experiment import Claim, Config, Done, Experiment, Findings
from harness.figures import draw_bars
from harness.spread import Spread
from harness.tables import markdown

HEADER = (
    *("target", "of its limit", "ours", "best fixed budget", "ratio", "best rate cap", "ratio"),
    *("online first", "of the limit", "priority", "of the limit"),
)


def findings(config: Config, runs: Sequence[Done]) -> Findings:
    cells = cells_of(config, runs)
    rows = []
    for cell in cells:
        ratios = [cell.ratio(name) for name in ("fixed", "rate")]
        fixed_ratio, rate_ratio = ("" if r is None else r.text(".2f") for r in ratios)
        rows.append(
            [
                *(cell.target, cell.spread("of_limit").text(".3f"), cell.spread("ours").text()),
                *(cell.spread("fixed").text(), fixed_ratio),
                *(cell.spread("rate").text(), rate_ratio),
                *(
                    cell.spread("online_first").text(),
                    cell.spread("online_first_of_limit").text(".2f"),
                ),
                *(cell.spread("priority").text(), cell.spread("priority_of_limit").text(".2f")),
            ]
        )
    over_rate, over_fixed = largest(cells, "rate"), largest(cells, "fixed")
    most = max(cells, key=lambda cell: cell.spread("total_over_alone").median)
    behind = min(cells, key=lambda cell: (cell.ratio("fixed") or Spread(9.0, 9.0, 9.0)).median)
    whole, alone = (most.spread(name).median for name in ("whole", "alone"))
    claims = [
        claim_of(
            over_rate,
            f"Offline throughput over HyGen*, most: {_over(over_rate, 'rate')} times "
            f"under {over_rate.target}",
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
    return Findings([cell.row() for cell in cells], markdown(HEADER, rows), claims)


def _over(cell, name: str) -> str:
    ratio = cell.ratio(name)
    return "" if ratio is None else ratio.text(".2f")


EXPERIMENT = Experiment(comparison_cases, findings, draw_bars)
