# SPDX-License-Identifier: Apache-2.0
"""Allowance: what is saved or owed, the factor that follows, and what that keeps in any window."""

import math
from collections import deque
from dataclasses import dataclass
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hygen_vllm.targets.allowance import (
    FLOW_S,
    LEAST_LEFT,
    LEAST_SETTLED,
    MOST_SETTLED,
    OWED_SHARE,
    RESERVE_SHARE,
    SAVED_SHARE,
    SETTLE_SPANS,
    SHORTEST_S,
    SPAN_SHARE,
    STOP_SHARE,
    Allowance,
)

LAW = settings(derandomize=True, deadline=None, max_examples=100)
WINDOW_S = 900.0
SAVED_S, STOP_S, OWED_S, SPAN_S, RESERVE_S = (
    share * WINDOW_S for share in (SAVED_SHARE, STOP_SHARE, OWED_SHARE, SPAN_SHARE, RESERVE_SHARE)
)
LONG_S = 1e9
"""A window of which shares are without bounds."""


def _settled(*amounts: tuple[float, float], window_s: float = LONG_S) -> Allowance:
    """Return an allowance after one (allowed, taken) a second, with nothing saved before."""
    allowance = Allowance(window_s)
    allowance.saved_s = 0.0
    allowance.settle(0.0, 0.0, 100.0)
    for second, (allowed, taken) in enumerate(amounts, start=101):
        allowance.settle(allowed, taken, float(second))
    return allowance


def _said(saved_s: float, **options: float) -> Allowance:
    """Return an allowance that was told what is saved."""
    allowance = Allowance(WINDOW_S, **options)
    allowance.set_saved(saved_s, 100.0, 1.0)
    return allowance


@pytest.mark.parametrize("first_factor", [1.0, 0.5, 3.0])
def test_factor_before_anything_is_counted_is_the_first_one(first_factor: float) -> None:
    """The reserve is there; what comes is added to it once its rate is known."""
    allowance = Allowance(WINDOW_S, first_factor)
    assert pytest.approx(first_factor) == allowance.factor
    allowance.settle(3.0, 0.0, 100.0)
    assert (RESERVE_S, pytest.approx(first_factor)) == (allowance.saved_s, allowance.factor)
    allowance.settle(2.0, 1.0, 101.0)
    assert pytest.approx(RESERVE_S + (3.0 + 1.0) / 2.0) == allowance.saved_s


# --- what is saved -----------------------------------------------------------------------------


def test_saved_of_what_is_not_taken_is_the_time_in_which_it_was_allowed() -> None:
    """Three seconds in which nothing is taken save three seconds."""
    assert pytest.approx(3.0) == _settled((7, 0), (7, 0), (7, 0)).saved_s


def test_saved_of_what_is_taken_is_the_rest() -> None:
    """A quarter left of each of two seconds is half a second."""
    assert pytest.approx(0.5) == _settled((8, 6), (8, 6)).saved_s


def test_saved_where_more_is_taken_than_allowed_is_a_debt() -> None:
    """Twice what was allowed owes as much time as passed; what comes next pays it back."""
    assert pytest.approx(-2.0) == _settled((8, 16), (8, 16)).saved_s
    assert pytest.approx(-1.0) == _settled((8, 16), (8, 16), (8, 0)).saved_s


@LAW
@given(
    st.lists(st.tuples(st.integers(-2, 9), st.integers(0, 9)), min_size=1, max_size=20),
    st.sampled_from((0.125, 1024.0)),
)
def test_unit_of_what_is_allowed_and_taken_does_not_matter(
    amounts: list[tuple[int, int]], unit: float
) -> None:
    """Seconds of allowance are the same in any unit."""
    allowance = _settled(*amounts, window_s=30.0)
    scaled = _settled(*((unit * a, unit * t) for a, t in amounts), window_s=30.0)
    assert pytest.approx(allowance.saved_s) == scaled.saved_s
    assert pytest.approx(allowance.factor) == scaled.factor


def test_rate_of_the_first_moments_is_their_mean() -> None:
    """2 and 6 allowed in two seconds are a rate of 4, at which 8 is two seconds."""
    assert pytest.approx(2.0) == _settled((2, 0), (6, 0)).saved_s


def test_rate_later_is_that_of_the_last_moments() -> None:
    """After FLOW_S a second counts for its share of it, and one as long as it for all."""
    seconds = int(FLOW_S)
    allowance = _settled(*[(1.0, 1.0)] * (2 * seconds), (21.0, 0.0))
    assert pytest.approx(21.0 / 2.0) == allowance.saved_s
    allowance.settle(100 * FLOW_S, 100 * FLOW_S, 101.0 + 2 * seconds + FLOW_S)
    assert pytest.approx(21.0 / 100.0) == allowance.saved_s


@pytest.mark.parametrize("seconds", [4.0, 0.015625])
def test_rate_over_a_step_of_any_length_is_per_second(seconds: float) -> None:
    """What one step of four seconds allows in all is allowed in four seconds."""
    allowance = Allowance(LONG_S)
    allowance.saved_s = 0.0
    allowance.settle(0.0, 0.0, 10.0)
    allowance.settle(12.0, 6.0, 10.0 + seconds)
    assert pytest.approx(seconds / 2) == allowance.saved_s


def test_debt_stays_until_it_is_paid() -> None:
    """A night in which just what is allowed is taken, or nothing is to be, pays back nothing."""
    allowance = _settled((1.0, 1.5))
    allowance.settle(600.0, 600.0, 701.0)
    assert pytest.approx(-0.5) == allowance.saved_s


@pytest.mark.parametrize(("taken", "most_s"), [(0.0, SAVED_S), (9.0, -OWED_S)])
def test_saved_and_owed_are_bounded(taken: float, most_s: float) -> None:
    """However long nothing, or much too much, is taken; for nothing can be told otherwise."""
    assert pytest.approx(most_s) == _settled(*[(1.0, taken)] * 999, window_s=WINDOW_S).saved_s
    assert pytest.approx(most_s) == _said(10 * most_s).saved_s


def test_saving_beyond_the_bound_is_lost() -> None:
    """A quiet night leaves no more than a quiet minute or two."""
    allowance = _settled(*[(1.0, 0.0)] * 9999, (1.0, 1.0 + SAVED_S), window_s=WINDOW_S)
    assert pytest.approx(0.0, abs=0.1) == allowance.saved_s


def test_debt_where_nothing_is_allowed_is_nobodys() -> None:
    """Offline work then stops, and begins without debt when online recovers."""
    allowance = Allowance(60.0)
    allowance.saved_s = 0.0
    allowance.settle(0.0, 0.0, 100.0)
    for number in range(1, 9):
        allowance.settle(-5.0, 3.0, 100.0 + 30.0 * number)
    assert 0.0 == allowance.factor
    allowance.settle(30.0, 15.0, 370.0)
    assert pytest.approx(15.0) == allowance.saved_s


def test_what_online_is_beyond_its_target_lowers_what_was_saved() -> None:
    """A short time beyond the target is paid from savings, at the rate of the last moments."""
    allowance = _settled(*[(2.0, 0.0)] * 20, (-3.0, 0.0))
    rate = 2.0 * (1 - 1 / FLOW_S)
    assert pytest.approx((40.0 - 3.0) / rate) == allowance.saved_s


def test_two_amounts_of_one_time_are_added() -> None:
    """Time that does not pass changes no rate."""
    allowance = _settled((4.0, 2.0))
    allowance.settle(0.0, 1.0, 101.0)
    assert pytest.approx(0.25) == allowance.saved_s


def test_clock_that_goes_back_is_no_time() -> None:
    """The rate stays and nothing fades; the next time is counted from where the clock went to."""
    allowance = _settled((4.0, 0.0))
    allowance.settle(2.0, 4.0, 50.0)
    assert pytest.approx(0.5) == allowance.saved_s
    allowance.settle(4.0, 4.0, 51.0)
    assert pytest.approx(0.5) == allowance.saved_s


# --- the factor --------------------------------------------------------------------------------


@pytest.mark.parametrize("saved_s", [RESERVE_S, 0.0, 20.0, -20.0])
@pytest.mark.parametrize("span", [1.0, 2.0])
def test_factor_is_e_for_each_span_above_the_reserve(saved_s: float, span: float) -> None:
    """Just the reserve is a factor of 1."""
    expected = math.exp((saved_s - RESERVE_S) / (span * SPAN_S))
    assert pytest.approx(expected) == _said(saved_s, span=span).factor


def test_offline_work_stops_where_too_much_is_owed() -> None:
    """It gets rarer from half of that on, and comes back as the debt is paid."""
    assert _said(-0.99 * STOP_S).factor > 0.0
    assert [0.0, 0.0] == [_said(-owed_s).factor for owed_s in (STOP_S, OWED_S)]
    usual = math.exp((-0.75 * STOP_S - RESERVE_S) / SPAN_S)
    assert pytest.approx(0.5 * usual) == _said(-0.75 * STOP_S).factor


def test_target_of_which_all_is_saved_binds_no_more() -> None:
    """From half of that on the factor rises to a thousand times what it would be."""
    usual = math.exp((SAVED_S - RESERVE_S) / SPAN_S)
    assert pytest.approx(usual / LEAST_LEFT) == _said(SAVED_S).factor
    usual = math.exp((0.75 * SAVED_S - RESERVE_S) / SPAN_S)
    assert pytest.approx(2.0 * usual) == _said(0.75 * SAVED_S).factor


@LAW
@given(st.floats(-2 * OWED_S, 2 * SAVED_S), st.floats(0, 30))
def test_factor_with_more_saved_is_not_lower(saved_s: float, more_s: float) -> None:
    """Nor does it jump: half a second changes it by a tenth, but near its ends."""
    assert _said(saved_s).factor <= _said(saved_s + more_s).factor
    less, more = _said(saved_s).factor, _said(saved_s + 0.5).factor
    if -0.9 * STOP_S < saved_s < 0.9 * SAVED_S:
        assert more - less <= 0.1 * more


@pytest.mark.parametrize("every_s", [1.0, 5.0])
@pytest.mark.parametrize("span", [1.0, 2.0])
def test_factor_for_good_follows_the_saving_over_time(every_s: float, span: float) -> None:
    """Each second adds its part to what stays when the saving is gone."""
    allowance = Allowance(WINDOW_S, span=span)
    for number in range(4):
        allowance.set_saved(20.0 + RESERVE_S if number < 3 else RESERVE_S, every_s * number, 1.0)
    lead = 20.0 / (span * SPAN_S)
    expected = math.exp(2 * lead * every_s / (SETTLE_SPANS * span * SPAN_S))
    assert pytest.approx(expected) == allowance.factor


def test_factor_for_good_moves_by_a_short_time_at_most_at_once() -> None:
    """A pause of an hour says no more than one of FLOW_S."""
    allowance = Allowance(WINDOW_S)
    for now_s, saved_s in ((0.0, RESERVE_S), (3600.0, RESERVE_S + 20.0), (3600.0, RESERVE_S)):
        allowance.set_saved(saved_s, now_s, 1.0)
    assert pytest.approx(math.exp(20.0 / SPAN_S * FLOW_S / (SETTLE_SPANS * SPAN_S))) == (
        allowance.factor
    )


@pytest.mark.parametrize("allowed", [(1.0,), (1.0, 3.0), (0.3, 1.0, 9.0)])
def test_quiet_night_moves_nothing_for_good(allowed: tuple[float, ...]) -> None:
    """Nobody takes what is there, however the load of the online requests changes."""
    allowance = _settled(*[(each, 0.0) for _ in range(40) for each in allowed for _ in range(200)])
    assert pytest.approx(0.0, abs=1e-3) == allowance._settled


@pytest.mark.parametrize(("spent", "share"), [(0.0, 0.0), (0.25, 0.25), (1.0, 1.0), (7.0, 1.0)])
def test_factor_for_good_rises_as_far_as_what_is_allowed_is_taken(
    spent: float, share: float
) -> None:
    """A target that does not bind says nothing about what would be right if it did."""
    allowance = Allowance(WINDOW_S)
    for now_s, saved_s in ((0.0, 20.0 + RESERVE_S), (5.0, 20.0 + RESERVE_S)):
        allowance.set_saved(saved_s, now_s, spent)
    expected = share * 20.0 / SPAN_S * 5.0 / (SETTLE_SPANS * SPAN_S)
    assert pytest.approx(expected) == allowance._settled


@pytest.mark.parametrize("saved_s", [0.9 * SAVED_S, -OWED_S])
def test_factor_for_good_is_bounded(saved_s: float) -> None:
    """Neither debts nor savings of many hours move it beyond what can be undone."""
    allowance = Allowance(WINDOW_S)
    for number in range(10_000):
        allowance.set_saved(saved_s, float(number), 1.0)
    bound = MOST_SETTLED if saved_s > 0 else LEAST_SETTLED
    assert pytest.approx(bound) == allowance._settled


def test_debt_acts_at_once_and_for_good_as_long_as_it_lasts() -> None:
    """However large it is: no state is frozen."""
    for owed_s in (1.0, STOP_S, OWED_S, 10 * OWED_S):
        allowance = Allowance(WINDOW_S)
        for number in range(3):
            allowance.set_saved(-owed_s, float(number), 0.0)
            assert allowance.factor < 1.0
        assert allowance._settled < 0.0


def test_window_of_a_few_seconds_is_controlled_like_a_longer_one() -> None:
    """What is seen of a second now comes from seconds ago."""
    assert _settled((1, 3), window_s=1.0).factor == _settled((1, 3), window_s=SHORTEST_S).factor


# --- plants ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plant:
    """Offline work that takes of what is allowed, as the factor of some seconds ago lets it.

    Args:
        gain: taken / allowed at a factor of 1.
        exponent: of the factor.
        delay_s: until a change of the factor is seen.
        most: of what is allowed, that can be taken in a second.
    """

    gain: float
    exponent: float
    delay_s: int
    most: float = 5.0

    def taken(self, factor: float) -> float:
        """Return what is taken of what is allowed."""
        return min(self.most, self.gain * factor**self.exponent)


PLANTS = st.builds(
    Plant, st.floats(0.2, 5.0), st.floats(0.5, 1.5), st.integers(1, 8), st.floats(2.0, 8.0)
)
STRETCHES = st.lists(
    st.tuples(
        st.sampled_from((0.3, 1.0, 3.0)),  # allowed in a second
        st.booleans(),  # whether there is offline work
        st.sampled_from((30, 200, 1200)),  # seconds
    ),
    min_size=1,
    max_size=5,
)


def _run(plant: Plant, stretches: list[tuple[float, bool, int]]) -> list[tuple[float, float]]:
    """Return (allowed, taken) of each second."""
    allowance = Allowance(WINDOW_S)
    factors = deque([1.0] * plant.delay_s, maxlen=plant.delay_s)
    amounts = []
    for allowed, has_work, seconds in stretches:
        for _ in range(seconds):
            taken = allowed * plant.taken(factors[0]) if has_work else 0.0
            factors.append(allowance.factor)
            amounts.append((allowed, taken))
            allowance.settle(allowed, taken, float(len(amounts)))
    return amounts


@settings(LAW, max_examples=40)
@given(PLANTS, STRETCHES)
def test_any_window_takes_what_is_allowed_in_it_and_a_bounded_rest(
    plant: Plant, stretches: list[tuple[float, bool, int]]
) -> None:
    """After any history: savings, the debt at which all stops, and what comes until that is seen.

    A rate that changes is known FLOW_S later.
    """
    amounts = _run(plant, stretches)
    over = [0.0, *accumulate(taken - allowed for allowed, taken in amounts)]
    lowest = deque[float]()  # of the windows that end here
    rest_s = SAVED_S + STOP_S + (plant.delay_s + FLOW_S) * plant.most
    highest_rate = max(allowed for allowed, _ in amounts)
    for end in range(len(over)):
        lowest.append(over[end])
        if len(lowest) > WINDOW_S:
            lowest.popleft()
        if end % 50 == 0:
            assert over[end] - min(lowest) <= rest_s * highest_rate


@settings(LAW, max_examples=40)
@given(PLANTS, STRETCHES)
def test_what_is_allowed_is_taken_in_the_end(
    plant: Plant, stretches: list[tuple[float, bool, int]]
) -> None:
    """After any history and a window of steady load, to 3 %, where it can be taken at all."""
    amounts = _run(plant, [*stretches, (1.0, True, 1800)])[-900:]
    taken = sum(taken for _, taken in amounts) / len(amounts)
    at_most = plant.taken(_said(SAVED_S).factor)
    assert pytest.approx(min(1.0, at_most), rel=0.03) == taken
