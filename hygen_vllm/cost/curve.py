# SPDX-License-Identifier: Apache-2.0
"""Seconds that depend on the total tokens of a step: rising, straight between knees. Pure.

A GPU's matrix products come in tiles: an A100 running a 7B model takes the same time for 1 to 64
tokens, a sixth more for 72, and so on. A curve that may bend either way, at enough knees, but never
falls follows such stairs; with few knees it misses them by 2 or 3 percent
(experiments/02-latency-predictor).
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

COARSE_KNEES = (0, 64, 128, 256, 512)
"""For learning from few steps."""


@dataclass(frozen=True, slots=True)
class TokenCurve:
    """0 up to the first knee; from each knee to the next so many seconds per token.

    Args:
        knees: total tokens, whole numbers >= 0, rising.
        slopes_s: seconds per token after each knee, all finite and >= 0 (else ValueError).
    """

    knees: tuple[int, ...] = ()
    slopes_s: tuple[float, ...] = ()
    at_knees_s: tuple[float, ...] = field(init=False, repr=False, compare=False)
    """Seconds at each knee."""
    slopes_before_s: tuple[float, ...] = field(init=False, repr=False, compare=False)
    """Seconds per token before each knee, and after the last."""

    def __post_init__(self) -> None:
        if len(self.knees) != len(self.slopes_s):
            raise ValueError(f"{len(self.knees)} knees have {len(self.slopes_s)} slopes")
        if any(isinstance(k, bool) or not isinstance(k, int) for k in self.knees):
            raise ValueError(f"knees must be whole numbers, got {list(self.knees)}")
        if any(b <= a for a, b in zip((-1, *self.knees), self.knees, strict=False)):
            raise ValueError(f"knees must be >= 0 and rise, got {list(self.knees)}")
        for slope in self.slopes_s:
            if isinstance(slope, bool) or not 0 <= slope < math.inf:
                raise ValueError(f"slopes must be finite and >= 0, got {slope}")
        seconds = [0.0]
        for i in range(1, len(self.knees)):
            width = self.knees[i] - self.knees[i - 1]
            seconds.append(seconds[-1] + self.slopes_s[i - 1] * width)
        object.__setattr__(self, "at_knees_s", tuple(seconds[: len(self.knees)]))
        object.__setattr__(self, "slopes_before_s", (0.0, *self.slopes_s))

    def seconds(self, total_tokens: int) -> float:
        """Return the seconds of a step of so many tokens. O(log(number of knees))."""
        i = bisect_right(self.knees, total_tokens) - 1
        if i < 0:
            return 0.0
        return self.at_knees_s[i] + self.slopes_s[i] * (total_tokens - self.knees[i])

    def seconds_of(self, total_tokens: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the seconds of each of many steps. total_tokens: float64 (num_steps,)."""
        seconds: NDArray[np.float64] = segments(total_tokens, self.knees) @ np.array(self.slopes_s)
        return seconds

    def scaled(self, factor: float) -> "TokenCurve":
        """Return the curve with all seconds multiplied."""
        return TokenCurve(self.knees, tuple(factor * slope for slope in self.slopes_s))

    def simplified(self) -> "TokenCurve":
        """Return the same curve without the knees at which it does not bend."""
        bends = [
            (knee, slope)
            for knee, slope, before in zip(
                self.knees, self.slopes_s, (0.0, *self.slopes_s), strict=False
            )
            if slope != before
        ]
        return TokenCurve(*map(tuple, zip(*bends, strict=True))) if bends else TokenCurve()


def segments(total_tokens: NDArray[np.float64], knees: Sequence[int]) -> NDArray[np.float64]:
    """Return how many tokens of each step lie between each knee and the next.

    Args: total_tokens: float64 (num_steps,). Returns: float64 (num_steps, num_knees).
    """
    starts = np.array(knees, dtype=np.float64)
    widths = np.append(np.diff(starts), np.inf)[: len(starts)]
    return np.clip(total_tokens[:, None] - starts, 0.0, widths)


def fine_knees(max_tokens: int) -> tuple[int, ...]:
    """Return knees that follow the stairs of tiled matrix products up to `max_tokens` tokens.

    Two knees, 8 tokens apart, at each multiple of 64: a jump just after it is a steep piece. The
    distance doubles from 1,024 tokens on, where a jump is a small part of the step.
    """
    knees = {0, 8, 16, 32}
    edge, distance = 64, 64
    while edge < max_tokens:
        knees |= {edge, edge + 8}
        if edge >= 16 * distance:
            distance *= 2
        edge += distance
    return tuple(sorted(knee for knee in knees if knee < max_tokens))
