# SPDX-License-Identifier: Apache-2.0
"""Medians over seeds, with their spread."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Values of several seeds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))

    def text(self, form: str = ",.0f", factor: float = 1.0) -> str:
        """Return "median (low to high)"."""
        median, low, high = (format(factor * v, form) for v in (self.median, self.low, self.high))
        return median if low == high else f"{median} ({low} to {high})"
