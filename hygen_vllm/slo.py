# SPDX-License-Identifier: Apache-2.0
"""SLOs: a latency metric, a statistic of it, and a limit in seconds or relative to online alone.

    tbt_p99=45ms    tbt_mean=+5%    ttft_p99=0.5s    ttft_mean=+10%

A percentage is relative to what the same online load gets when it is served alone. Pure.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

METRICS = ("ttft", "tbt")
STATISTICS = ("mean", "p50", "p90", "p95", "p99")
_TEXT = re.compile(
    rf"({'|'.join(METRICS)})_({'|'.join(STATISTICS)})="
    r"(?:(?P<seconds>\d+(?:\.\d+)?)(?P<unit>ms|s)|\+(?P<percent>\d+(?:\.\d+)?)%)"
)


@dataclass(frozen=True)
class LatencyStats:
    """Statistics of a latency, seconds; None where there is no sample."""

    mean: float | None
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None

    @classmethod
    def of(cls, samples_s: Any) -> "LatencyStats":
        """Return the statistics of samples, float64 (num_samples,); percentiles interpolate."""
        import numpy as np

        if len(samples_s) == 0:
            return cls(None, None, None, None, None)
        percentiles = np.percentile(samples_s, (50, 90, 95, 99))
        return cls(float(np.mean(samples_s)), *map(float, percentiles))


@dataclass(frozen=True)
class Slo:
    """A target. Exactly one of `limit_s` and `rise` is set.

    Args:
        metric: one of METRICS.
        statistic: one of STATISTICS.
        limit_s: seconds that the statistic may reach.
        rise: share by which it may be above that of the online load alone.
    """

    metric: str
    statistic: str
    limit_s: float | None = None
    rise: float | None = None

    @property
    def share(self) -> float | None:
        """The share of samples that must be within the limit, 0.99 for p99; None for a mean."""
        return None if self.statistic == "mean" else int(self.statistic[1:]) / 100

    @classmethod
    def parse(cls, text: str) -> "Slo":
        """Return the SLO in a text as in the module docstring. Raises ValueError, one line."""
        found = _TEXT.fullmatch(text)
        if found is None:
            raise ValueError(
                f"an SLO is METRIC_STATISTIC=LIMIT with {'|'.join(METRICS)}, "
                f"{'|'.join(STATISTICS)} and a limit like 45ms, 0.5s or +5%; got {text!r}"
            )
        metric, statistic = found[1], found[2]
        number = float(found["percent"] or found["seconds"])
        if number == math.inf or (number == 0 and found["percent"] is None):
            raise ValueError(f"the limit of an SLO must be > 0 and finite, got {text!r}")
        if found["percent"] is not None:
            return cls(metric, statistic, rise=number / 100)
        limit_s = number * (1e-3 if found["unit"] == "ms" else 1.0)
        return cls(metric, statistic, limit_s=limit_s)

    def __str__(self) -> str:
        if self.rise is not None:
            return f"{self.metric}_{self.statistic}=+{_plain(100 * self.rise)}%"
        return f"{self.metric}_{self.statistic}={_plain(1e3 * (self.limit_s or 0.0))}ms"

    def resolved_s(self, alone: LatencyStats | None) -> float | None:
        """Return the limit in seconds; None if it is relative to something not measured.

        Args: alone: the metric of the same online load served alone.
        """
        if self.limit_s is not None:
            return self.limit_s
        base_s = None if alone is None else getattr(alone, self.statistic)
        return None if base_s is None else base_s * (1.0 + (self.rise or 0.0))

    def of_limit(
        self, stats: Mapping[str, LatencyStats], alone: Mapping[str, LatencyStats]
    ) -> float | None:
        """Return measured / limit; None where one of them is not known.

        Args: stats, alone: by metric, of the online load as served and of the same load alone.
        """
        limit_s = self.resolved_s(alone.get(self.metric))
        measured_s: float | None = getattr(stats[self.metric], self.statistic)
        return measured_s / limit_s if limit_s and measured_s is not None else None


def _plain(number: float) -> str:
    """Return a number >= 0 without an exponent, which `parse` does not read."""
    return f"{number:.9f}".rstrip("0").rstrip(".")
