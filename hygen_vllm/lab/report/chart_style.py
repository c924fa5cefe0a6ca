# SPDX-License-Identifier: Apache-2.0
"""One look for one thing on the whole page: classes, policies, limits, reasons of refusals."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, cycle
from typing import Any

from hygen_vllm.lab.report.comparison import BASELINES

ONLINE_COLOUR, OFFLINE_COLOUR = "#1f6fb4", "#e58a1f"
SLO_COLOUR = "#c62828"
STEP_COLOUR, LIMIT_COLOUR = "#8d99a6", "#1d2733"
REASON_COLOURS = {
    "latency": "#6a4c93",
    "price": "#e07a5f",
    "tokens": "#2a9d8f",
    "blocks": "#a1765a",
    "rate": "#d45087",
    "adapters": "#5c7c2f",
    "encoder": "#3d5a80",
    "throttled": "#c9ae22",
}
UNKNOWN_COLOUR = "#9aa3ad"
DASHED, DOTTED, DASH_DOTTED = (5.0, 2.5), (1.2, 2.0), (6.0, 2.0, 1.5, 2.0)


@dataclass(frozen=True)
class Line:
    """How a line looks.

    Args:
        dashes: points on and off, none for a solid line.
    """

    colour: str
    width: float = 1.4
    dashes: tuple[float, ...] = ()

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of matplotlib's plotting functions."""
        style: Any = (0, self.dashes) if self.dashes else "-"
        return {"color": self.colour, "linewidth": self.width, "linestyle": style}


@dataclass(frozen=True)
class LegendEntry:
    """A line of a legend; with a plain colour as look, an area."""

    look: Line | str
    text: str


SLO_LINE = Line(SLO_COLOUR, 1.3, DASHED)
STEP_LIMIT_LINE = Line(LIMIT_COLOUR, 1.2)
ONLINE_LINE, OFFLINE_LINE = Line(ONLINE_COLOUR, 1.3), Line(OFFLINE_COLOUR, 1.3)
_PREFERRED = {
    "online-only": Line("#9aa3ad"),
    "offline-only": Line("#9aa3ad", dashes=DASHED),
    "vllm-fcfs": Line("#6b7480", dashes=DOTTED),
    "vllm-priority": Line("#3a424c"),
    "slo": Line("#0b6e4f", 2.2),
    "hygen": Line("#0b6e4f", 2.2),
    "fixed-budget": Line("#7a3e9d", 2.0, DASHED),
    "rate-capped": Line("#c2407f", 2.0, DASH_DOTTED),
    "online-first": Line("#1496a6", 2.0, DOTTED),
}
_SPARE_GREYS = tuple(Line(grey, 1.4, DASH_DOTTED) for grey in ("#3a424c", "#6b7480", "#9aa3ad"))
_SPARE_COLOURS = tuple(
    Line(colour, 2.0, dashes)
    for dashes in ((), DASHED, DASH_DOTTED)
    for colour in ("#5c8a00", "#8a5a00", "#4a4ec9", "#b3446c", "#0b6e4f")
)


def policy_lines(policies: Sequence[str]) -> list[Line]:
    """Return a line for each result: greys for baselines, colours for HyGen, none twice."""
    spare = {True: cycle(_SPARE_GREYS), False: cycle(_SPARE_COLOURS)}
    used: set[Line] = set()
    lines = []
    for policy in policies:
        first = [_PREFERRED[policy]] if policy in _PREFERRED else []
        line = _unused(chain(first, spare[policy in BASELINES]), used)
        used.add(line)
        lines.append(line)
    return lines


def _unused(lines: Iterator[Line], used: set[Line]) -> Line:
    """Return the first line that is not used yet; after many, one that is."""
    tried: list[Line] = []
    for line in lines:
        if line not in used or len(tried) > len(_SPARE_COLOURS):
            return line
        tried.append(line)
    raise AssertionError("spare lines go on for ever")


def reason_colour(reason: str) -> str:
    return REASON_COLOURS.get(reason, UNKNOWN_COLOUR)
