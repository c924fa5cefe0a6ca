# SPDX-License-Identifier: Apache-2.0
"""The largest fixed latency budget that meets the targets (HyGen, section 4.3). Pure.

Binary search over the budget of a step: a probe serves the load for a while under one budget and
says how far its latencies are from the targets. Probes are noisy, so a budget near the limit is
probed again until it is clear on which side it is, or as often as is allowed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one probe found.

    Args:
        ratio: the largest of measured / limit over the targets; at most 1 meets them all. Infinite
            where online requests got no tokens.
        offline_tokens_per_s: offline work that was done.
    """

    ratio: float
    offline_tokens_per_s: float


@dataclass
class TriedBudget:
    """A budget and its probes."""

    budget_s: float
    probes: list[ProbeResult] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Mean ratio of its probes."""
        return sum(probe.ratio for probe in self.probes) / len(self.probes)

    @property
    def offline_tokens_per_s(self) -> float:
        return sum(probe.offline_tokens_per_s for probe in self.probes) / len(self.probes)

    @property
    def meets_targets(self) -> bool:
        return self.ratio <= 1.0


@dataclass(frozen=True)
class SearchLimits:
    """Where and how long to search.

    Args:
        low_s, high_s: budgets between which the answer is looked for, 0 < low_s < high_s.
        precision: share of the budget to which it is found, > 0.
        max_probes: probes in all, enough for both ends.
        max_repeats: probes of one budget, >= 1.
    """

    low_s: float
    high_s: float
    precision: float = 0.02
    max_probes: int = 16
    max_repeats: int = 3

    def __post_init__(self) -> None:
        if not 0 < self.low_s < self.high_s < math.inf:
            raise ValueError(
                f"budgets to search must be > 0 and rise, got {self.low_s} to {self.high_s}"
            )
        if not 0 < self.precision < math.inf:
            raise ValueError(f"precision must be > 0 and finite, got {self.precision}")
        if self.max_repeats < 1:
            raise ValueError(f"max_repeats must be >= 1, got {self.max_repeats}")
        if self.max_probes < 2 * self.max_repeats:
            raise ValueError(
                f"max_probes must be >= {2 * self.max_repeats}, twice max_repeats, "
                f"got {self.max_probes}"
            )


@dataclass(frozen=True)
class SearchResult:
    """The answer and how it was found.

    Args:
        best: the largest budget that meets the targets; None if none that was tried does.
        tried: all that were tried, in order.
        noise: by how much the ratios of two probes of one budget differ.
    """

    best: TriedBudget | None
    tried: Sequence[TriedBudget]
    noise: float


def search_budget(probe: Callable[[float, int], ProbeResult], limits: SearchLimits) -> SearchResult:
    """Search for the largest budget whose latencies meet the targets.

    Both ends are probed first, so that an answer outside of them takes few probes. The noise is
    measured where it matters, by the repeats near the limit.

    Args:
        probe: called with (budget_s, number of the repeat, from 0).
    """
    search = _Search(probe, limits)
    low = search.try_budget(limits.low_s)
    high = search.try_budget(limits.high_s)
    if low.meets_targets and not high.meets_targets:
        low_s, high_s = limits.low_s, limits.high_s
        while high_s / low_s > 1.0 + limits.precision and search.probes_left > 0:
            middle_s = math.sqrt(low_s * high_s)
            if search.try_budget(middle_s).meets_targets:
                low_s = middle_s
            else:
                high_s = middle_s
    met = [tried for tried in search.tried if tried.meets_targets]
    best = max(met, key=lambda tried: tried.budget_s, default=None)
    return SearchResult(best, search.tried, search.noise)


class _Search:
    def __init__(self, probe: Callable[[float, int], ProbeResult], limits: SearchLimits) -> None:
        self.tried: list[TriedBudget] = []
        self.probes_left = limits.max_probes
        self._probe = probe
        self._max_repeats = limits.max_repeats

    @property
    def noise(self) -> float:
        """Standard deviation of a ratio: pooled over budgets probed more than once, 0 before."""
        squares = [
            (probe.ratio - tried.ratio) ** 2
            for tried in self.tried
            for probe in tried.probes
            if len(tried.probes) > 1 and math.isfinite(tried.ratio)
        ]
        degrees = sum(len(tried.probes) - 1 for tried in self.tried if math.isfinite(tried.ratio))
        return math.sqrt(sum(squares) / degrees) if degrees else 0.0

    def try_budget(self, budget_s: float) -> TriedBudget:
        """Probe a budget until it is clear whether it meets the targets."""
        tried = TriedBudget(budget_s)
        self.tried.append(tried)
        while self.probes_left > 0 and len(tried.probes) < self._max_repeats:
            tried.probes.append(self._probe(budget_s, len(tried.probes)))
            self.probes_left -= 1
            if self._is_clear(tried):
                break
        return tried

    def _is_clear(self, tried: TriedBudget) -> bool:
        """Whether the ratio is further from 1 than its noise; until that is known, than a tenth."""
        distance = abs(tried.ratio - 1.0)
        if self.noise == 0.0:
            return distance > UNKNOWN_NOISE
        return distance > DEVIATIONS * self.noise / math.sqrt(len(tried.probes))


UNKNOWN_NOISE = 0.1
DEVIATIONS = 2.0
