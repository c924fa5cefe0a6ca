# SPDX-License-Identifier: Apache-2.0
"""KV blocks that offline leaves free for online, and how fast it fills the others. Pure."""

import math
from collections import deque

from sortedcontainers import SortedList

FIRST_HORIZON_S = 2.0
SAMPLE_S = 0.1
REMEMBERED = 600
NO_ROOM_PRICE = 1.3
CHEAPER_PER_REQUEST = 0.2


class OnlineHeadroom:
    """KV blocks that online may want soon: a quantile of what it wanted more within a horizon.

    Later than that, running offline requests have ended and given back as much; what online wants
    sooner has to be free, or offline prefills are preempted for it and computed again. Times are
    monotonic seconds. Samples are taken SAMPLE_S apart, REMEMBERED of them.

    Args: quantile: share of the moments after which what is free was enough, in (0, 1].
    """

    def __init__(self, quantile: float) -> None:
        self._quantile = quantile
        self.horizon_s = FIRST_HORIZON_S
        self._next_sample_s = float("-inf")
        self._held: deque[tuple[float, float]] = deque()
        """(time, blocks held) within the horizon."""
        self._peaks: deque[tuple[float, float]] = deque()
        """Those of them that none after them reaches; falling."""
        self._rises: deque[float] = deque()
        self._sorted_rises: SortedList[float] = SortedList()

    def blocks(self, held: float, now_s: float) -> int:
        """Return the headroom, given the blocks that online holds or waits for. O(log samples)."""
        if now_s >= self._next_sample_s:
            self._next_sample_s = now_s + SAMPLE_S
            self._sample(held, now_s)
        if not self._sorted_rises:
            return 0
        num_rises = len(self._sorted_rises)
        rank = math.ceil(self._quantile * (num_rises + 1))  # so that the next one is below it
        rise: float = self._sorted_rises[min(rank, num_rises) - 1]
        return math.ceil(rise)

    def _sample(self, held: float, now_s: float) -> None:
        while self._held and self._held[0][0] < now_s - self.horizon_s:
            then_s, held_then = self._held.popleft()
            self._remember(self._peaks[0][1] - held_then)
            if self._peaks[0][0] <= then_s:
                self._peaks.popleft()
        while self._peaks and self._peaks[-1][1] <= held:
            self._peaks.pop()
        self._held.append((now_s, held))
        self._peaks.append((now_s, held))

    def _remember(self, rise: float) -> None:
        self._rises.append(rise)
        self._sorted_rises.add(rise)
        if len(self._rises) > REMEMBERED:
            self._sorted_rises.remove(self._rises.popleft())


def prefill_price(free_blocks: int, next_blocks: float) -> float:
    """Return the price of an offline prefill second, >= 0, given the room that is left.

    Where KV blocks are plenty, prefill brings in requests that decode: it is worth more than its
    seconds. Where there is no room for the next request, it only hastens the time at which nothing
    is left to prefill; spread over the steps until then it costs less, since every step has some
    tokens that are nearly free.

    Args:
        free_blocks: KV blocks that offline may still take.
        next_blocks: those that the next waiting offline request needs, > 0.
    """
    room = max(0.0, free_blocks / next_blocks)
    return max(0.0, NO_ROOM_PRICE - CHEAPER_PER_REQUEST * room)
