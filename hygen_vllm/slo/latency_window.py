# SPDX-License-Identifier: Apache-2.0
"""Latencies of the recent past: a histogram whose samples fade. Pure.

Bins are one percent wide, whatever the latency is, and a percentile is interpolated in its bin.
"""

import math
from itertools import accumulate

LEAST_S = 1e-5
MOST_S = 1e4
BIN_RATIO = 1.01
_BINS_PER_LOG = 1.0 / math.log(BIN_RATIO)
_NUM_BINS = 2 + int(math.log(MOST_S / LEAST_S) * _BINS_PER_LOG)
_MOST_HALF_LIVES = 30


class LatencyWindow:
    """Samples that lose half of their weight every `half_life_s` seconds.

    Old samples stay as they are; new ones weigh more. Times are monotonic seconds.
    """

    def __init__(self, half_life_s: float) -> None:
        self._half_life_s = half_life_s
        self._unit_from_s = 0.0
        self._unit = 1.0
        """Weight of one sample of the latest time."""
        self._weights = [0.0] * _NUM_BINS
        self._weight = 0.0
        self._sum_s = 0.0
        self.total_count = 0
        self.total_s = 0.0
        """Of all samples, which do not fade here."""

    def add(self, latency_s: float, count: int, now_s: float) -> None:
        """Add `count` samples of a latency >= 0; `now_s` does not fall from call to call."""
        half_lives = (now_s - self._unit_from_s) / self._half_life_s
        if half_lives > _MOST_HALF_LIVES:
            self._start_unit(now_s)
            half_lives = 0.0
        self._unit = 2.0**half_lives
        weight = self._unit * count
        self._weights[min(_NUM_BINS - 1, int(_place(latency_s)))] += weight
        self._weight += weight
        self._sum_s += weight * latency_s
        self.total_count += count
        self.total_s += count * latency_s

    def _start_unit(self, now_s: float) -> None:
        """Let a sample of `now_s` weigh 1, before the weights outgrow floating point."""
        fade = 0.5 ** ((now_s - self._unit_from_s) / self._half_life_s)
        self._weights = [weight * fade for weight in self._weights]
        self._weight = sum(self._weights)
        self._sum_s *= fade
        self._unit_from_s = now_s

    @property
    def num_samples(self) -> float:
        """Samples, each counted by what was left of it when the latest came."""
        return self._weight / self._unit

    @property
    def mean_s(self) -> float | None:
        """Mean latency; None without a sample."""
        return self._sum_s / self._weight if self._weight else None

    def percentile_s(self, share: float) -> float | None:
        """Return the latency that a share of the samples, 0 to 1, does not exceed.

        None without a sample. With few samples it is one of them: P99 of less than a hundred is
        the largest.
        """
        if not self._weight:
            return None
        wanted = share * self._weight
        below, last = 0.0, 0
        for index, reached in enumerate(accumulate(self._weights)):
            if reached > below:
                if reached >= wanted:
                    return _latency_s(index + max(0.0, (wanted - below) / (reached - below)))
                last = index
            below = reached
        return _latency_s(last + 1.0)  # all samples, but for rounding

    def share_above(self, latency_s: float) -> float:
        """Return the share of samples above a latency; 0 without a sample."""
        if not self._weight:
            return 0.0
        place = _place(latency_s)
        index = min(_NUM_BINS - 1, int(place))
        above = sum(self._weights[index + 1 :]) + self._weights[index] * (1.0 - place % 1.0)
        return above / self._weight


def _place(latency_s: float) -> float:
    """Return the bin of a latency, and how far into it."""
    if latency_s <= LEAST_S:
        return 0.0
    return 1.0 + math.log(latency_s / LEAST_S) * _BINS_PER_LOG


def _latency_s(place: float) -> float:
    return LEAST_S * BIN_RATIO ** (place - 1.0) if place >= 1.0 else LEAST_S * place
