# SPDX-License-Identifier: Apache-2.0
"""Search of the largest budget: exact without noise, nearly always near with it, never long."""

import math
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hygen_vllm.lab.tune.budget_search import (
    ProbeResult,
    SearchLimits,
    SearchResult,
    TriedBudget,
    search_budget,
)

LAW = settings(derandomize=True, deadline=None, max_examples=60)
Ratio = Callable[[float, int], float]


class _Search:
    """A search with a given ratio; offline work is ten times the budget."""

    def __init__(self, ratio: Ratio, low_s: float = 0.01, high_s: float = 1.0, **rest: float):
        self.calls: list[tuple[float, int]] = []
        self._ratio = ratio
        self.result: SearchResult = search_budget(self._probe, SearchLimits(low_s, high_s, **rest))

    def _probe(self, budget_s: float, repeat: int) -> ProbeResult:
        self.calls.append((budget_s, repeat))
        return ProbeResult(self._ratio(budget_s, repeat), 10 * budget_s)

    @property
    def best_s(self) -> float | None:
        return None if self.result.best is None else self.result.best.budget_s

    @property
    def budgets_s(self) -> list[float]:
        """The budgets that were tried, in order."""
        return [tried.budget_s for tried in self.result.tried]


def _limit_at(limit_s: float, power: float = 1.0) -> Ratio:
    """Return ratios that rise, without noise, to 1 at a budget."""
    return lambda budget_s, _: (budget_s / limit_s) ** power


# --- without noise -----------------------------------------------------------------------------


@LAW
@given(st.floats(0.011, 0.99), st.sampled_from((0.02, 0.1, 0.001)), st.sampled_from((0.2, 1, 5)))
def test_budget_without_noise_is_found_to_the_precision(
    limit_s: float, precision: float, power: float
) -> None:
    """It meets the targets, and one larger by the precision does not, however ratios rise."""
    search = _Search(_limit_at(limit_s, power), precision=precision, max_probes=100)
    assert search.best_s is not None
    assert search.best_s <= limit_s <= search.best_s * (1 + precision)


@pytest.mark.parametrize("precision", [0.3, 0.03])
def test_budgets_are_halved_by_their_ratio_until_the_precision_is_reached(precision: float) -> None:
    """First both ends; then the middle of what is known to be too small and too large."""
    search = _Search(_limit_at(0.5), precision=precision, max_probes=100)
    assert [0.01, 1.0, pytest.approx(0.1), pytest.approx(0.1**0.5)] == search.budgets_s[:4]
    halvings = math.ceil(math.log2(math.log(100) / math.log(1 + precision)))
    assert 2 + halvings == len(search.budgets_s)


def test_budget_where_none_meets_the_targets_is_none() -> None:
    """Two probes say so."""
    search = _Search(_limit_at(0.005))
    assert (None, [(0.01, 0), (1.0, 0)]) == (search.best_s, search.calls)


def test_budget_where_all_meet_the_targets_is_the_largest() -> None:
    """Two probes say so."""
    search = _Search(_limit_at(5.0))
    assert (1.0, [(0.01, 0), (1.0, 0)]) == (search.best_s, search.calls)


@pytest.mark.parametrize("at_s", [0.01, 1.0])
def test_ratio_of_just_one_meets_the_targets(at_s: float) -> None:
    """A limit may be reached."""
    assert at_s == _Search(_limit_at(at_s), precision=1e-3, max_probes=8).best_s


def test_best_has_the_probes_it_was_found_with() -> None:
    """Means over its repeats."""
    best = _Search(lambda budget_s, repeat: (0.9, 1.04, 0.94)[repeat]).result.best
    assert best is not None
    assert [0.9, 1.04, 0.94] == [probe.ratio for probe in best.probes]
    assert (pytest.approx(0.96), pytest.approx(10.0)) == (best.ratio, best.offline_tokens_per_s)


def test_best_is_not_the_last_tried_but_the_largest_that_meets_the_targets() -> None:
    """Also if the smallest missed them by a stray probe."""
    ratios = {0.01: 1.5, 1.0: 0.9}
    assert 1.0 == _Search(lambda budget_s, _: ratios[budget_s]).best_s
    search = _Search(_limit_at(0.2), precision=1e-4)
    assert search.best_s == max(each_s for each_s in search.budgets_s if each_s <= 0.2)
    assert search.best_s != search.budgets_s[-1]


# --- how many probes ---------------------------------------------------------------------------

RATIOS = st.sampled_from((0.0, 0.5, 0.95, 1.0, 1.05, 3.0, math.inf))


@LAW
@given(st.integers(1, 4), st.integers(0, 12), st.lists(RATIOS, min_size=20, max_size=20))
def test_search_makes_no_more_probes_than_allowed(
    max_repeats: int, more: int, ratios: Sequence[float]
) -> None:
    """Whatever they find: in all, and of one budget; no budget is left without one."""
    coming = iter(ratios)
    limits = {"max_probes": 2 * max_repeats + more, "max_repeats": max_repeats}
    search = _Search(lambda *_: next(coming), precision=1e-9, **limits)
    counts = [len(tried.probes) for tried in search.result.tried]
    assert sum(counts) == len(search.calls) <= limits["max_probes"]
    assert 1 <= min(counts) <= max(counts) <= max_repeats
    repeats = [repeat for count in counts for repeat in range(count)]
    assert repeats == [repeat for _, repeat in search.calls]
    assert 0.0 <= search.result.noise < math.inf


@pytest.mark.parametrize("max_probes", [6, 7, 16])
def test_search_without_a_precision_to_stop_at_uses_all_probes(max_probes: int) -> None:
    """The last budget gets what is left of them."""
    search = _Search(_limit_at(0.5), precision=1e-12, max_probes=max_probes)
    assert max_probes == len(search.calls)


def test_budgets_are_repeated_near_the_limit_only() -> None:
    """Until the noise is known, within a tenth of it."""
    search = _Search(_limit_at(0.5), precision=0.01, max_probes=100)
    counts = {tried.ratio: len(tried.probes) for tried in search.result.tried}
    assert all(count == (1 if abs(ratio - 1) > 0.1 else 3) for ratio, count in counts.items())
    assert {1, 3} == set(counts.values())
    assert 0.0 == search.result.noise


def test_noise_is_pooled_over_budgets_probed_more_than_once() -> None:
    """Squares of what differs from the mean of each budget, over one less than its probes."""
    ratios = {0.01: (0.92, 0.98, 0.95), 1.0: (1.04, 1.10, 1.5)}
    search = _Search(lambda budget_s, repeat: ratios[budget_s][repeat], precision=1e6)
    assert [3, 2] == [len(tried.probes) for tried in search.result.tried]
    assert pytest.approx(math.sqrt(4 * 0.03**2 / 3)) == search.result.noise


@pytest.mark.parametrize(
    ("ratios", "count"),
    [
        ((0.90, 0.94, 0.0), 2),  # 0.08 away, 2 * 0.028 / sqrt(2) of noise
        ((0.94, 0.98, 0.0), 3),  # 0.04 away, as much noise
        ((0.97, 0.97, 0.0), 3),
        ((1.06, 1.10, 0.0), 2),
        ((1.02, 1.06, 0.0), 3),
        ((0.89, 0.0, 0.0), 1),
    ],
)
def test_budget_is_repeated_until_the_noise_says_on_which_side_it_is(
    ratios: Sequence[float], count: int
) -> None:
    """Twice its standard error from the limit is clear."""
    search = _Search(
        lambda budget_s, repeat: ratios[repeat] if budget_s < 1 else 0.5, precision=1e6
    )
    assert count == len(search.result.tried[0].probes)


def test_noise_that_is_known_decides_for_all_budgets() -> None:
    """Half as far from the limit as a tenth is clear then; further away is not, if it is large."""
    quiet = {0.01: (0.93, 0.95, 0.9), 1.0: (1.04, 2.0, 2.0)}
    loud = {0.01: (0.9, 1.2, 0.6), 1.0: (1.3, 1.5, 1.4)}
    for ratios, counts in ((quiet, [2, 1]), (loud, [3, 2])):
        search = _Search(lambda budget_s, repeat, r=ratios: r[budget_s][repeat], precision=1e6)
        assert counts == [len(tried.probes) for tried in search.result.tried]


# --- with noise --------------------------------------------------------------------------------


def test_budget_with_noise_is_near_the_true_one_in_nearly_all_searches() -> None:
    """With probes that are off by 3 %, half of them are within 2.5 %, 97 of 100 within 8 %."""
    errors = []
    for seed in range(200):
        rng = random.Random(seed)
        limit_s = math.exp(rng.uniform(math.log(0.02), math.log(0.5)))
        search = _Search(lambda b, _, r=rng, t=limit_s: b / t * math.exp(r.gauss(0, 0.03)))
        assert search.best_s is not None
        errors.append(abs(math.log(search.best_s / limit_s)))
    errors.sort()
    assert errors[100] < 0.025
    assert errors[194] < 0.08


# --- requests without tokens -------------------------------------------------------------------


def test_infinite_ratio_is_far_from_the_limit_and_no_noise() -> None:
    """Online requests that got no tokens say all by one probe."""
    search = _Search(lambda b, _: math.inf if b > 0.5 else b / 0.6, max_probes=100)
    assert search.best_s is not None
    assert 0.49 < search.best_s <= 0.5
    beyond = [tried for tried in search.result.tried if tried.budget_s > 0.5]
    assert [1] * len(beyond) == [len(tried.probes) for tried in beyond]
    hopeless = _Search(lambda *_: math.inf)
    assert (None, [(0.01, 0), (1.0, 0)]) == (hopeless.best_s, hopeless.calls)


def test_infinite_ratio_among_repeats_misses_the_targets() -> None:
    """It decides, and leaves the noise of the others alone."""
    ratios = {0.01: (0.95, math.inf, 0.0), 1.0: (0.96, 0.92, 0.95)}
    search = _Search(lambda budget_s, repeat: ratios[budget_s][repeat])
    assert 1.0 == search.best_s
    assert [2, 2] == [len(tried.probes) for tried in search.result.tried][:2]
    assert search.result.tried[0].ratio == math.inf
    assert pytest.approx(0.02 * 2**0.5) == search.result.noise


# --- limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"low_s": 0.0}, "budgets to search must be > 0 and rise, got 0.0 to 1.0"),
        ({"low_s": -1.0}, "budgets to search must be > 0 and rise, got -1.0 to 1.0"),
        ({"low_s": 1.0}, "budgets to search must be > 0 and rise, got 1.0 to 1.0"),
        ({"low_s": 2.0}, "budgets to search must be > 0 and rise, got 2.0 to 1.0"),
        ({"low_s": math.nan}, "budgets to search must be > 0 and rise, got nan to 1.0"),
        ({"high_s": math.inf}, "budgets to search must be > 0 and rise, got 0.1 to inf"),
        ({"precision": 0.0}, "precision must be > 0 and finite, got 0.0"),
        ({"precision": math.inf}, "precision must be > 0 and finite, got inf"),
        ({"precision": math.nan}, "precision must be > 0 and finite, got nan"),
        ({"max_repeats": 0}, "max_repeats must be >= 1, got 0"),
        ({"max_probes": 5}, "max_probes must be >= 6, twice max_repeats, got 5"),
        (
            {"max_probes": 1, "max_repeats": 1},
            "max_probes must be >= 2, twice max_repeats, got 1",
        ),
    ],
)
def test_limits_that_cannot_be_searched_are_refused_in_one_line(
    values: dict[str, float], expected: str
) -> None:
    """The line has the value and what it must be."""
    with pytest.raises(ValueError, match="must be") as caught:
        SearchLimits(**({"low_s": 0.1, "high_s": 1.0} | values))
    assert expected == str(caught.value)


def test_limits_at_their_smallest_are_searched() -> None:
    """One probe of each end."""
    search = _Search(_limit_at(0.5), max_probes=2, max_repeats=1)
    assert ([(0.01, 0), (1.0, 0)], 0.01) == (search.calls, search.best_s)


def test_budget_with_several_probes_is_judged_by_their_mean() -> None:
    """One that is beyond the limit does not decide."""
    tried = TriedBudget(0.1, [ProbeResult(0.9, 5.0), ProbeResult(1.05, 7.0)])
    assert (pytest.approx(0.975), 6.0, True) == (
        tried.ratio,
        tried.offline_tokens_per_s,
        tried.meets_targets,
    )
    tried.probes.append(ProbeResult(1.2, 6.0))
    assert not tried.meets_targets
