# SPDX-License-Identifier: Apache-2.0
"""Targets for the mean and P99 of TTFT and TBT at several tolerances: are they kept, how nearly?"""

from collections.abc import Sequence

from harness.claims import MISSED
from harness.comparison import Cell, cells_of, comparison_cases, table_of
from harness.experiment import Claim, Config, Done, Experiment, Findings
from harness.figures import METRICS, draw_compliance


def findings(config: Config, runs: Sequence[Done]) -> Findings:
    cells = cells_of(config, runs)
    claims = [
        _claim(title, [cell for cell in cells if cell.target.startswith(f"{metric}=")])
        for metric, title in METRICS.items()
    ]
    return Findings([cell.row() for cell in cells], table_of(cells), claims)


def _claim(title: str, cells: Sequence[Cell]) -> Claim:
    targets = ", ".join(cell.target.partition("=")[2] for cell in cells)
    of_limit = [cell.spread("of_limit").median for cell in cells]
    priority = [cell.spread("priority_of_limit").median for cell in cells]
    missed = [
        f"{c.target} by {v - 1:.1%}" for c, v in zip(cells, of_limit, strict=True) if v > MISSED
    ]
    return Claim(
        result=f"{title} of its limit, targets {targets}",
        paper="kept at every tolerance",
        baseline=f"priority {min(priority):.2f} to {max(priority):.2f}",
        fixed="1 by choice",
        ours=f"{min(of_limit):.3f} to {max(of_limit):.3f}",
        note=f"missed (median): {', '.join(missed)}" if missed else "",
    )


EXPERIMENT = Experiment(comparison_cases, findings, draw_compliance)
