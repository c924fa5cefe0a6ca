# SPDX-License-Identifier: Apache-2.0
"""A cap on how many offline requests start a second (HyGen*, arXiv 2501.14808, section 5). Pure.

A token bucket that holds at most one second's worth, at least one request.
"""


class OfflineRate:
    """Counts the offline requests that start. Times are monotonic seconds."""

    def __init__(self, rate_per_s: float, now_s: float) -> None:
        self._rate_per_s = rate_per_s
        self._most = max(1.0, rate_per_s)
        self._saved = 1.0
        self._saved_at_s = now_s

    def num_ready(self, now_s: float) -> int:
        """Return how many requests may start now."""
        passed_s = max(0.0, now_s - self._saved_at_s)
        self._saved = min(self._most, self._saved + self._rate_per_s * passed_s)
        self._saved_at_s = now_s
        return int(self._saved + _ROUNDING)

    def started(self, num_requests: int) -> None:
        """Count requests that started."""
        self._saved -= num_requests


_ROUNDING = 1e-9
"""Of a sum of parts that should be whole."""
