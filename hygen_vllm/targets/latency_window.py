# SPDX-License-Identifier: Apache-2.0
"""Latencies of the recent past: histograms of blocks of time, the old ones forgotten. Pure.

Bins are one percent wide, whatever the latency is, and a percentile is interpolated in its bin.
"""

import math
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

LEAST_S = 1e-5
"""Latencies up to it share a bin."""
MOST_S = 1e4
"""And from it on."""
BIN_RATIO = 1.01
"""Upper by lower bound of a bin: a percentile is off by half a percent at most."""
NUM_BLOCKS = 30
"""Blocks of a window: it is so much longer than it should be at most."""
_BINS_PER_LOG = 1.0 / math.log(BIN_RATIO)
_NUM_BINS = 2 + int(math.log(MOST_S / LEAST_S) * _BINS_PER_LOG)


@dataclass(slots=True)
class Block:
    """The samples of a thirtieth of a window.

    Args: number: of the block, from the beginning of time.
    """

    number: int
    count: int = 0
    sum_s: float = 0.0
    bins: Counter[int] = field(default_factory=Counter)
    """Samples by bin."""

    def count_above(self, latency_s: float) -> float:
        """Return how many samples are above a latency; one bin is divided."""
        index, share = _bin_of(latency_s)
        above = sum(count for bin_, count in self.bins.items() if bin_ > index)
        return above + self.bins[index] * (1.0 - share)


class LatencyWindow:
    """The samples of the last `window_s` seconds, and older ones while there are few.

    Times are monotonic seconds. Time passes with samples: without new ones none is forgotten.

    Args:
        window_s: > 0.
        least: samples that are kept, however old they are.
    """

    def __init__(self, window_s: float, least: int = 0) -> None:
        self._block_s = window_s / NUM_BLOCKS
        self._least = least
        self._blocks: deque[Block] = deque()
        self._counts = [0] * _NUM_BINS
        self._sum_s = 0.0
        self.num_samples = 0
        """In the window."""
        self.total_count = 0
        self.total_s = 0.0
        """Of all samples, forgotten ones too."""

    def add(self, latency_s: float, count: int, now_s: float) -> None:
        """Add `count` samples of a latency >= 0; `now_s` does not fall from call to call."""
        number = int(now_s // self._block_s)
        is_new = not self._blocks or number > self._blocks[-1].number
        if is_new:
            self._blocks.append(Block(number))
        block = self._blocks[-1]
        index = _bin_of(latency_s)[0]
        block.count += count
        block.sum_s += count * latency_s
        block.bins[index] += count
        self._counts[index] += count
        self._sum_s += count * latency_s
        self.num_samples += count
        self.total_count += count
        self.total_s += count * latency_s
        if is_new:
            self._forget(number - NUM_BLOCKS - 1)

    def _forget(self, last_number: int) -> None:
        """Forget blocks up to a number, as long as enough samples are left."""
        blocks = self._blocks
        while blocks[0].number <= last_number:
            if self.num_samples - blocks[0].count < self._least:
                break
            block = blocks.popleft()
            for index, count in block.bins.items():
                self._counts[index] -= count
            self.num_samples -= block.count
        self._sum_s = sum(block.sum_s for block in blocks)

    @property
    def mean_s(self) -> float | None:
        """Mean latency; None without a sample."""
        return self._sum_s / self.num_samples if self.num_samples else None

    def percentile_s(self, share: float) -> float | None:
        """Return the latency that a share of the samples, 0 to 1, does not exceed.

        None without a sample. With few samples it is one of them: P99 of less than a hundred is
        the largest.
        """
        if not self.num_samples:
            return None
        wanted = share * self.num_samples
        below, last = 0, 0
        for index, reached in enumerate(accumulate(self._counts)):
            if reached > below:
                if reached >= wanted:
                    return _latency_s(index + max(0.0, (wanted - below) / (reached - below)))
                last = index
            below = reached
        return _latency_s(last + 1.0)  # all samples, but for rounding

    def latest_blocks(self) -> Iterator[Block]:
        """Yield the blocks, the latest first."""
        return reversed(self._blocks)


def _bin_of(latency_s: float) -> tuple[int, float]:
    """Return the bin of a latency, and how far into it."""
    if latency_s <= LEAST_S:
        return 0, 0.0
    place = 1.0 + math.log(latency_s / LEAST_S) * _BINS_PER_LOG
    return min(_NUM_BINS - 1, int(place)), place % 1.0


def _latency_s(place: float) -> float:
    return LEAST_S * BIN_RATIO ** (place - 1.0) if place >= 1.0 else LEAST_S * place
