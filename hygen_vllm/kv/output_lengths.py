# SPDX-License-Identifier: Apache-2.0
"""How many tokens offline requests go on to make, told from those that finished last. Pure."""

from bisect import bisect_right
from collections import deque
from itertools import accumulate

REMEMBERED = 256
"""Requests that tell the lengths: a mean of so many is off by a sixteenth of their spread."""
UNKNOWN = 256.0
"""Tokens expected of a request as long as none has finished."""


class OutputLengths:
    """The output lengths of the requests that finished last."""

    def __init__(self) -> None:
        self._lengths: deque[int] = deque(maxlen=REMEMBERED)
        self._sorted: list[int] | None = None
        self._sums: list[int] = []
        """Of so many of the shortest."""

    def add(self, num_tokens: int) -> None:
        """Note a request that ended by itself. O(1)."""
        self._lengths.append(num_tokens)
        self._sorted = None

    def expected(self, most: int, made: int = 0) -> float:
        """Return the mean of the tokens that a request goes on to make after `made`, up to `most`.

        That of those requests that made more; one that makes more than all others is expected to
        go on for as long again. Complexity: O(log n), O(n log n) after an `add`.
        """
        if self._sorted is None:
            self._sorted = sorted(self._lengths)
            self._sums = [0, *accumulate(self._sorted)]
        shorter = bisect_right(self._sorted, made)
        longer = len(self._sorted) - shorter
        if longer:
            rest = (self._sums[-1] - self._sums[shorter]) / longer - made
        else:
            rest = max(float(made), 0.0 if self._sorted else UNKNOWN)
        return min(float(most), rest)
