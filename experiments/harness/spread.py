# SPDX-License-Identifier: Apache-2.0
"""Medians over seeds, with their spread."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Spread:
    """Values of several seeds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))

    @classmethod
    def from_row(cls, row: Mapping[str, Any], name: str) -> "Spread":
        """Return what `columns` put into a row."""
        return cls(row[name], row[f"{name}_low"], row[f"{name}_high"])

    def columns(self, name: str) -> dict[str, float]:
        """Return the columns of a row."""
        return {name: self.median, f"{name}_low": self.low, f"{name}_high": self.high}

    def text(self, form: str = ",.0f", factor: float = 1.0) -> str:
        """Return "median (low to high)"."""
        median, low, high = (format(factor * v, form) for v in (self.median, self.low, self.high))
        return median if low == high else f"{median} ({low} to {high})"


def bars_of(rows: Sequence[Mapping[str, Any]], name: str, factor: float = 1.0) -> tuple[Any, Any]:
    """Return what is drawn of a column: medians and how far they reach down and up, as arrays."""
    spreads = [Spread.from_row(row, name) for row in rows]
    values = factor * np.array([float(spread.median) for spread in spreads])
    down = [float(spread.median) - float(spread.low) for spread in spreads]
    up = [float(spread.high) - float(spread.median) for spread in spreads]
    return values, factor * np.array([down, up])
