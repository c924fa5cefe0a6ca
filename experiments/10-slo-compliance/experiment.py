# SPDX-License-Identifier: Apache-2.0
"""Targets for the mean and P99 of TTFT and TBT at several tolerances: are they kept, how nearly?"""

from collections.abc import Sequence
from math import isfinite

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
    found = {
        name: [(cell.target, cell.spread(name).median) for cell in cells]
        for name in ("of_limit", "cold_of_limit", "priority_of_limit")
    }
    ours, cold, priority = (_range(of_limits) for of_limits in found.values())
    notes = [_missed(found["of_limit"], ""), _missed(found["cold_of_limit"], " from a cold start")]
    return Claim(
        result=f"{title} of its limit, targets {targets}",
        paper="kept at every tolerance",
        baseline=f"priority {priority}",
        fixed="1 by choice",
        ours=f"{ours}; cold start {cold}" if cold else ours,
        note="; ".join(filter(None, notes)),
    )


def _range(of_limits: Sequence[tuple[str, float]]) -> str:
    known = [value for _, value in of_limits if isfinite(value)]
    return f"{min(known):.3f} to {max(known):.3f}" if known else ""


def _missed(of_limits: Sequence[tuple[str, float]], how: str) -> str:
    missed = [f"{target} by {value - 1:.1%}" for target, value in of_limits if value > MISSED]
    return f"missed{how} (median): {', '.join(missed)}" if missed else ""


EXPERIMENT = Experiment(comparison_cases, findings, draw_compliance)
