# SPDX-License-Identifier: Apache-2.0
"""Claims from cells of a comparison; what is not ahead says so by itself."""

from collections.abc import Sequence
from math import isfinite

from harness.comparison import Cell
from harness.experiment import Claim

MISSED = 1.005
"""Of its limit, from which a target counts as missed."""
BEHIND = 0.995
KEPT_SHARE, WORST = 0.99, 1.10
"""The aim for windows of a run: the share that is kept at least, and the worst, of its limit."""


def claim_of(cell: Cell, result: str, paper: str = "") -> Claim:
    """Return what is claimed of a cell: offline tokens/s under its target."""
    ratio, over_rate = cell.ratio("fixed"), cell.ratio("rate")
    rate = cell.spread("rate").text() if over_rate else "none meets it"
    priority = cell.spread("priority").text()
    misses = cell.spread("priority_of_limit").text(".2f")
    kept = cell.spread("of_limit").text(".2f")
    return Claim(
        result=result,
        paper=paper,
        baseline=f"priority {priority} at {misses} of the limit; HyGen* {rate}",
        fixed=cell.spread("fixed").text() if ratio else "none meets it",
        ours=f"{cell.spread('ours').text()} at {kept} of the limit{_cold(cell)}",
        ratio=ratio.text(".2f") if ratio else "",
        note="; ".join(plain_words(cell)),
    )


def _cold(cell: Cell) -> str:
    """Return what a cold start comes to."""
    if not isfinite(cell.spread("cold").median):
        return ""
    kept = cell.spread("cold_of_limit").text(".2f")
    return f"; cold start {cell.spread('cold').text()} at {kept}"


def plain_words(cell: Cell) -> list[str]:
    """Return where ours is not ahead, in words."""
    words = []
    missed = cell.spread("of_limit").median
    if missed > MISSED:
        words.append(f"the target is missed by {missed - 1:.1%}")
    missed = cell.spread("cold_of_limit").median
    if missed > MISSED:
        words.append(f"from a cold start by {missed - 1:.1%}")
    others = {"fixed": "the best fixed budget", "rate": "the best rate cap"}
    if cell.spread("priority_of_limit").median <= MISSED:
        others["priority"] = "vLLM's priority policy, which keeps the target too"
    for name, title in others.items():
        ratio = cell.ratio(name)
        if ratio is not None and ratio.median < BEHIND:
            words.append(f"{1 - ratio.median:.1%} behind {title}")
    return words


def largest(cells: Sequence[Cell], other: str) -> Cell:
    """Return the cell in which ours is furthest ahead of another, among targets that are kept."""
    kept = [c for c in cells if c.ratio(other) and c.spread("of_limit").median <= MISSED]
    return max(
        kept or cells, key=lambda cell: (cell.ratio(other) or cell.spread("of_limit")).median
    )
