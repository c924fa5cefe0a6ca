# SPDX-License-Identifier: Apache-2.0
"""KV blocks that online may want soon. Pure.

Online takes blocks, and offline requests that end give some back: how many are short in between has
a peak within the horizon. It is forecast by a straight line over what online holds now, fitted to
the recent past, plus a quantile of how far that was off: where much is held already, less more is
to be expected (conformal prediction). When demand changes such a quantile is too low for as long as
the past is remembered, so the headroom is stretched while it is missed more often than was asked,
and shrinks again when it is not (adaptive conformal inference, Gibbs and Candes, NeurIPS 2021).
"""

import math
from collections import deque

from sortedcontainers import SortedList

FIRST_HORIZON_S = 2.0
SAMPLE_S = 0.1
REMEMBERED = 600
STRETCH_RATE = 0.1
"""A miss stretches the headroom by so much more than a hit shrinks it."""
SMALLEST_SHARE = 1e-9
"""A variance that is less of the mean square is rounding."""
LEAST_STRETCH, MOST_STRETCH = 0.5, 4.0


class OnlineHeadroom:
    """The KV blocks that have to be free now, so that online finds what it wants within a horizon.

    What is not free then is taken from offline requests, which compute it again. Times are
    monotonic seconds. Samples are taken SAMPLE_S apart, REMEMBERED of them.

    Args: quantile: share of the moments after which what is free is to be enough, in (0, 1]; may
        be changed at any time, as `horizon_s` may.
    """

    def __init__(self, quantile: float) -> None:
        self.quantile = quantile
        self.horizon_s = FIRST_HORIZON_S
        self._next_sample_s = -math.inf
        self._samples: deque[tuple[float, float, float]] = deque()
        """(time, blocks held, blocks short) within the horizon."""
        self._peak = _Highest()
        """Of the blocks short."""
        self._line = _Line()
        self._errors: deque[float] = deque()
        """By how much peaks were higher than the line said."""
        self._sorted_errors: SortedList[float] = SortedList()
        self._stretch = 1.0
        self._least_promise = _Highest()
        """Of the negative of how short blocks could have been at recent moments."""

    def blocks(self, held: float, given_back: float, now_s: float) -> int:
        """Return the headroom. O(log samples).

        Args:
            held: blocks that online requests hold or wait for.
            given_back: blocks that offline requests have freed at their ends, in all.
        """
        is_due = now_s >= self._next_sample_s
        short = held - given_back
        if is_due:
            self._next_sample_s = now_s + SAMPLE_S
            self._sample(held, short, now_s)
        headroom = self._headroom(held)
        if is_due:
            self._least_promise.add(now_s, -(short + headroom))
        return headroom

    def _headroom(self, held: float) -> int:
        num_errors = len(self._sorted_errors)
        if not num_errors:
            return 0
        rank = math.ceil(self.quantile * (num_errors + 1))  # so that the next one is below it
        error: float = self._sorted_errors[min(rank, num_errors) - 1]
        return max(0, math.ceil(self._stretch * (self._line.at(held) + error - held)))

    def _sample(self, held: float, short: float, now_s: float) -> None:
        since_s = now_s - self.horizon_s
        while self._samples and self._samples[0][0] < since_s:
            then_s, held_then, short_then = self._samples.popleft()
            peak = held_then + self._peak.since(then_s) - short_then
            if self._line.is_known:
                self._remember(peak - self._line.at(held_then))
            self._line.add(held_then, peak)
        self._samples.append((now_s, held, short))
        self._peak.add(now_s, short)
        is_missed = short > -self._least_promise.since(since_s)
        rate = STRETCH_RATE * (is_missed - (1.0 - self.quantile))
        self._stretch = min(MOST_STRETCH, max(LEAST_STRETCH, self._stretch * math.exp(rate)))

    def _remember(self, error: float) -> None:
        self._errors.append(error)
        self._sorted_errors.add(error)
        if len(self._errors) > REMEMBERED:
            self._sorted_errors.remove(self._errors.popleft())


class _Highest:
    """The highest of the values since a time, which only moves forward."""

    def __init__(self) -> None:
        self._values: deque[tuple[float, float]] = deque()
        """(time, value) of those that none after them reaches; falling."""

    def add(self, now_s: float, value: float) -> None:
        while self._values and self._values[-1][1] <= value:
            self._values.pop()
        self._values.append((now_s, value))

    def since(self, time_s: float) -> float:
        """Forget what was before a time; return the highest since, -infinite if there is none."""
        while self._values and self._values[0][0] < time_s:
            self._values.popleft()
        return self._values[0][1] if self._values else -math.inf


class _Line:
    """Least squares of y over x, of the last REMEMBERED points, with a slope in [0, 1]."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, float]] = deque()
        self._x = self._y = self._xx = self._xy = 0.0
        """Sums."""

    def add(self, x: float, y: float) -> None:
        self._points.append((x, y))
        self._count(x, y, 1.0)
        if len(self._points) > REMEMBERED:
            self._count(*self._points.popleft(), -1.0)

    @property
    def is_known(self) -> bool:
        return bool(self._points)

    def at(self, x: float) -> float:
        """Return y at x."""
        num = len(self._points)
        mean_x, mean_y = self._x / num, self._y / num
        variance = self._xx / num - mean_x * mean_x
        slope = 1.0
        if variance > SMALLEST_SHARE * self._xx / num:
            slope = min(1.0, max(0.0, (self._xy / num - mean_x * mean_y) / variance))
        return mean_y + slope * (x - mean_x)

    def _count(self, x: float, y: float, times: float) -> None:
        self._x += times * x
        self._y += times * y
        self._xx += times * x * x
        self._xy += times * x * y
