# SPDX-License-Identifier: Apache-2.0
"""How much of what a target allows is left, and how freely to spend it. Pure.

What is saved or owed is counted in seconds of allowance: the time in which the target, at the rate
of the last moments, allows so much. It is an account with two bounds. No more is ever saved than a
fifteenth of the window, and a debt makes offline work ever more careful, until it stops where twice
that is owed. So in any window offline work takes at most what the target allows there, plus what
was saved before, plus what is still owed after: a fifth more than is allowed.

The factor on what offline work may do is that of a PI controller, in its logarithm:

    ln factor = lead + settled,  lead = (saved - reserve) / span,  d settled / dt = lead / (5 spans)

Both terms are bounded, and the second rises only as far as what is allowed is taken: a quiet time
or a target that does not bind leaves nothing behind. Beyond half of either bound of the account the
factor goes to 0 and to next to infinite, whatever it was.
"""

import math

SAVED_SHARE = 1.0 / 15.0
"""The most that can be saved, of a window."""
STOP_SHARE = 2.0 / 15.0
"""The debt at which offline work stops, of a window; half of it is where that begins."""
OWED_SHARE = 1.0 / 5.0
"""The most that is owed: what goes beyond it is not offline work's."""
SPAN_SHARE = 1.0 / 30.0
"""Of a window: the saving whose lead is 1, so that the factor is e times as large."""
SETTLE_SPANS = 5.0
"""Spans in which a lead of 1 becomes a settled 1. The account integrates what is taken, which is in
proportion to the factor, so both together are damped by half the root of this: above 4 they do not
swing."""
LEAST_SETTLED, MOST_SETTLED = math.log(0.03), math.log(20.0)
"""What is right differs from what is expected by no more."""
RESERVE_SHARE = 1.0 / 180.0
"""What is kept in reserve."""
LEAST_LEFT = 1e-3
"""A target with the most saved that there may be no longer binds: its factor is 1 / LEAST_LEFT."""
SHORTEST_S = 300.0
"""Shares are of a window so long at least: controlling takes a few seconds, however short it is."""
FLOW_S = 20.0
"""Time over which it is averaged what is allowed and taken in a second: some hundred steps."""


class Allowance:
    """The balance of one target. Times are monotonic seconds.

    Where online alone is beyond its target nothing is allowed: offline work stops, as at the
    largest debt, but that is nobody's debt.

    Args:
        window_s: time over which the target is kept.
        first_factor: the factor to start with, > 0.
        span: as a multiple of the usual one; longer where there are few samples to go by.
    """

    def __init__(self, window_s: float, first_factor: float = 1.0, span: float = 1.0) -> None:
        window_s = max(window_s, SHORTEST_S)
        self._window_s = window_s
        self.most_saved_s = SAVED_SHARE * window_s
        self._span_s = span * SPAN_SHARE * window_s
        self._reserve_s = RESERVE_SHARE * window_s
        self.saved_s = self._reserve_s
        """Seconds of allowance that are saved; < 0: owed."""
        self._settled = math.log(first_factor)
        """The integral term."""
        self._balance = 0.0
        """What is saved, in the unit in which it is settled."""
        self._flow = self._taken = 0.0
        """What is allowed and what is taken in a second, in that unit."""
        self._flow_s = 0.0
        """The time that these averages per second have seen, at most FLOW_S."""
        self._settled_at_s: float | None = None

    @property
    def factor(self) -> float:
        """How much offline work may do, in what a target expects to be right."""
        owed = -self.saved_s / (STOP_SHARE * self._window_s)
        saved = self.saved_s / self.most_saved_s
        goes_on = _fall_to_zero(owed) / max(LEAST_LEFT, _fall_to_zero(saved))
        return goes_on * math.exp(self._settled + self._lead)

    @property
    def _lead(self) -> float:
        """The proportional term."""
        return (self.saved_s - self._reserve_s) / self._span_s

    def settle(self, allowed: float, taken: float, now_s: float) -> None:
        """Count what a target allowed and what was taken of it; both in any one unit.

        `allowed` may be negative, where online alone is beyond its target.
        """
        if self._settled_at_s is None:  # what is allowed in a second is known from the next on
            self._settled_at_s = now_s
            self._balance = allowed - taken
            return
        passed_s = max(0.0, now_s - self._settled_at_s)
        self._settled_at_s = now_s
        if passed_s > 0:
            is_first = self._flow_s == 0
            self._flow_s = min(FLOW_S, self._flow_s + passed_s)
            share = min(1.0, passed_s / self._flow_s)
            self._flow += (max(0.0, allowed) / passed_s - self._flow) * share
            self._taken += (max(0.0, taken) / passed_s - self._taken) * share
            if is_first:
                self._balance += self.saved_s * self._flow
        least, most = -OWED_SHARE * self._window_s * self._flow, self.most_saved_s * self._flow
        self._balance = max(least, min(most, self._balance + allowed - taken))
        if self._flow > 0:
            self._set(self._balance / self._flow, passed_s, self._taken / self._flow)
        else:
            self._set(-math.inf, passed_s, 0.0)

    def set_saved(self, saved_s: float, now_s: float, spent: float) -> None:
        """Say what is saved, where that is known otherwise, and taken / allowed of late."""
        before_s = now_s if self._settled_at_s is None else self._settled_at_s
        self._settled_at_s = now_s
        self._set(saved_s, max(0.0, now_s - before_s), spent)

    def _set(self, saved_s: float, passed_s: float, spent: float) -> None:
        """Take in what is saved. A pause says no more than FLOW_S; what rises has to be spent."""
        self.saved_s = max(-OWED_SHARE * self._window_s, min(self.most_saved_s, saved_s))
        seen = min(passed_s, FLOW_S) / (SETTLE_SPANS * self._span_s)
        if self._lead > 0:
            seen *= max(0.0, min(1.0, spent))
        settled = self._settled + self._lead * seen
        self._settled = max(LEAST_SETTLED, min(MOST_SETTLED, settled))


def _fall_to_zero(share: float) -> float:
    """Return 1 up to a half, from there on evenly down to 0 at 1."""
    return min(1.0, max(0.0, 2.0 * (1.0 - share)))
