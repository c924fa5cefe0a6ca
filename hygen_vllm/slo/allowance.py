# SPDX-License-Identifier: Apache-2.0
"""How much of what a target allows is left, and how freely to spend it. Pure.

What is saved or owed is counted in seconds of allowance: the time in which the target, at the rate
of the last moments, allows so much. A controller with a proportional and an integral part turns it
into a factor on what offline work may do: it is 1 to start with and settles where offline work
takes just what is allowed.
"""

import math

RESERVE_S = 5.0
"""What is kept in reserve."""
SPAN_S = 30.0
SETTLE_S = 150.0
"""The saving that multiplies the factor by e at once, and the time in which such a saving
multiplies it by e for good. The first is quick, so that a debt is paid back within a minute; the
second is slow, so that the two do not swing."""
MOST_AT_ONCE = 2.0
MOST_SETTLED = 4.0
FLOW_S = 20.0


class Allowance:
    """The balance of one target. Times are monotonic seconds.

    Both savings and debts fade, by half in a window. Where online alone is beyond its target
    nothing is allowed, and nothing can be owed either: that is nobody's debt.

    Args:
        window_s: time over which the target is kept, and the most that can be saved or owed.
        first_factor: the factor to start with.
        slowness: by how much longer both moves take, where there are few samples to go by.
    """

    def __init__(self, window_s: float, first_factor: float = 1.0, slowness: float = 1.0) -> None:
        self.saved_s = 0.0
        """Seconds of allowance that are saved; < 0: owed."""
        self.factor = first_factor
        self._window_s = window_s
        self._span_s, self._settle_s = slowness * SPAN_S, slowness * SETTLE_S
        self._settled = math.log(first_factor)
        self._balance = 0.0
        self._flow = 0.0
        self._flow_s = 0.0
        """The time that `_flow`, an average per second, has seen, at most FLOW_S."""
        self._settled_at_s: float | None = None

    def settle(self, allowed: float, taken: float, now_s: float) -> None:
        """Count what a target allowed and what was taken of it; both in any one unit.

        `allowed` may be negative, where online alone is beyond its target.
        """
        if self._settled_at_s is None:  # what is allowed in a second is known from the next on
            self._settled_at_s = now_s
            self._balance = allowed - taken
            return
        passed_s = self._passed_s(now_s)
        if passed_s > 0:
            self._flow_s = min(FLOW_S, self._flow_s + passed_s)
            share = min(1.0, passed_s / self._flow_s)
            self._flow += (max(0.0, allowed) / passed_s - self._flow) * share
        faded = self._balance * 0.5 ** (passed_s / self._window_s)
        most = self._window_s * self._flow
        self._balance = max(-most, min(most, faded + allowed - taken))
        saved_s = self._balance / self._flow if self._flow > 0 else -self._window_s
        self._adjust(saved_s, passed_s, now_s)

    def set_saved(self, saved_s: float, now_s: float) -> None:
        """Say what is saved, where that is known otherwise."""
        saved_s = max(-self._window_s, min(self._window_s, saved_s))
        self._adjust(saved_s, self._passed_s(now_s), now_s)

    def _passed_s(self, now_s: float) -> float:
        if self._settled_at_s is None:
            return 0.0
        return max(0.0, now_s - self._settled_at_s)

    def _adjust(self, saved_s: float, passed_s: float, now_s: float) -> None:
        self.saved_s = saved_s
        self._settled_at_s = now_s
        lead = max(-MOST_AT_ONCE, min(MOST_AT_ONCE, (saved_s - RESERVE_S) / self._span_s))
        if lead <= -MOST_AT_ONCE:
            passed_s = 0.0  # as low as it gets at once: what follows from that has yet to be seen
        settled = self._settled + lead * min(passed_s, FLOW_S) / self._settle_s
        self._settled = max(-MOST_SETTLED, min(MOST_SETTLED, settled))
        self.factor = math.exp(self._settled + lead)
