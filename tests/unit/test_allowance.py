# SPDX-License-Identifier: Apache-2.0
"""Allowance: what is saved or owed in seconds, and the factor that follows from it."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hygen_vllm.slo.allowance import (
    FLOW_S,
    MOST_AT_ONCE,
    MOST_SETTLED,
    RESERVE_S,
    SETTLE_S,
    SPAN_S,
    Allowance,
)

LAW = settings(derandomize=True, deadline=None, max_examples=60)
LONG_S = 1e9
"""A window in which nothing fades."""


def _settled(*amounts: tuple[float, float], window_s: float = LONG_S) -> Allowance:
    """Return an allowance after one (allowed, taken) a second."""
    allowance = Allowance(window_s)
    allowance.settle(0.0, 0.0, 100.0)
    for second, (allowed, taken) in enumerate(amounts, start=101):
        allowance.settle(allowed, taken, float(second))
    return allowance


def _said(*saved_s: float, every_s: float = 1.0, window_s: float = 1e3) -> Allowance:
    """Return an allowance that was told what is saved, again and again."""
    allowance = Allowance(window_s)
    for number, each_s in enumerate(saved_s):
        allowance.set_saved(each_s, 50.0 + every_s * number)
    return allowance


@pytest.mark.parametrize("first_factor", [1.0, 0.5, 3.0])
def test_factor_before_anything_is_counted_is_the_first_one(first_factor: float) -> None:
    """Nothing is saved and nothing owed."""
    allowance = Allowance(60.0, first_factor)
    assert (0.0, first_factor) == (allowance.saved_s, allowance.factor)


def test_factor_of_one_is_the_first_unless_told() -> None:
    """Offline work is worth what it is until something is known."""
    assert 1.0 == Allowance(60.0).factor


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
    allowance.settle(0.0, 0.0, 10.0)
    allowance.settle(12.0, 6.0, 10.0 + seconds)
    assert pytest.approx(seconds / 2) == allowance.saved_s


@pytest.mark.parametrize("sign", [1, -1])
def test_saved_and_owed_fade_by_half_in_a_window(sign: int) -> None:
    """A window in which just what is allowed is taken leaves half."""
    allowance = _settled((1.0, 1.0 - sign * 0.5), window_s=40.0)
    assert pytest.approx(sign * 0.5) == allowance.saved_s
    allowance.settle(40.0, 40.0, 141.0)
    assert pytest.approx(sign * 0.25) == allowance.saved_s


@pytest.mark.parametrize("taken", [0.0, 9.0])
def test_saved_and_owed_are_a_window_at_most(taken: float) -> None:
    """However long nothing, or much too much, is taken."""
    allowance = _settled(*[(1.0, taken)] * 200, window_s=15.0)
    assert pytest.approx(15.0 if taken == 0.0 else -15.0) == allowance.saved_s


def test_saving_beyond_a_window_is_lost() -> None:
    """What could not be saved is not there to be spent later."""
    allowance = _settled(*[(1.0, 0.0)] * 200, (1.0, 4.0), window_s=15.0)
    assert pytest.approx(15.0 * 0.5 ** (1 / 15) - 3.0) == allowance.saved_s


def test_debt_where_nothing_is_allowed_is_nobodys() -> None:
    """Offline work then stops as far as it can, and begins without debt when online recovers."""
    allowance = Allowance(60.0)
    allowance.settle(0.0, 0.0, 100.0)
    for number in range(1, 9):
        allowance.settle(-5.0, 3.0, 100.0 + 30.0 * number)
    assert -60.0 == allowance.saved_s
    assert pytest.approx(math.exp(-MOST_AT_ONCE)) == allowance.factor
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
    allowance = _settled((4.0, 0.0), window_s=30.0)
    allowance.settle(2.0, 4.0, 50.0)
    assert pytest.approx(0.5) == allowance.saved_s
    allowance.settle(4.0, 4.0, 51.0)
    assert pytest.approx(0.5 * 0.5 ** (1 / 30)) == allowance.saved_s


# --- the factor --------------------------------------------------------------------------------


@pytest.mark.parametrize("saved_s", [RESERVE_S, 0.0, 20.0, -20.0])
def test_factor_at_once_is_e_for_each_span_above_the_reserve(saved_s: float) -> None:
    """Just the reserve leaves the factor as it is."""
    assert pytest.approx(math.exp((saved_s - RESERVE_S) / SPAN_S)) == _said(saved_s).factor
    assert saved_s == _said(saved_s).saved_s


def test_factor_starts_from_the_first_one() -> None:
    """What is saved multiplies the factor to start with."""
    allowance = Allowance(60.0, 0.5)
    allowance.set_saved(RESERVE_S + SPAN_S, 10.0)
    assert pytest.approx(0.5 * math.e) == allowance.factor


@pytest.mark.parametrize(("saved_s", "lead"), [(900.0, MOST_AT_ONCE), (-900.0, -MOST_AT_ONCE)])
def test_factor_at_once_is_bounded(saved_s: float, lead: float) -> None:
    """However much is saved or owed."""
    assert pytest.approx(math.exp(lead)) == _said(saved_s).factor


@pytest.mark.parametrize("saved_s", [900.0, -900.0])
def test_saved_that_is_known_otherwise_is_a_window_at_most(saved_s: float) -> None:
    """As what is counted is."""
    allowance = _said(saved_s, window_s=12.0)
    assert math.copysign(12.0, saved_s) == allowance.saved_s
    lead = (math.copysign(12.0, saved_s) - RESERVE_S) / SPAN_S
    assert pytest.approx(math.exp(lead)) == allowance.factor


@pytest.mark.parametrize("every_s", [1.0, 5.0])
def test_factor_for_good_follows_the_saving_over_time(every_s: float) -> None:
    """Each second adds its part of SETTLE_S to what stays when the saving is gone."""
    allowance = _said(35.0, 35.0, 35.0, RESERVE_S, every_s=every_s)
    assert pytest.approx(math.exp(2 * every_s / SETTLE_S)) == allowance.factor


@pytest.mark.parametrize("slowness", [1.0, 4.0])
def test_factor_where_samples_are_few_follows_the_saving_so_much_more_slowly(
    slowness: float,
) -> None:
    """Both at once and for good."""
    allowance = Allowance(1e3, 1.0, slowness)
    factors = []
    for now_s, saved_s in (
        (10.0, RESERVE_S + SPAN_S),
        (20.0, RESERVE_S + SPAN_S),
        (20.0, RESERVE_S),
    ):
        allowance.set_saved(saved_s, now_s)
        factors.append(math.log(allowance.factor))
    lead, settled = 1.0 / slowness, 10.0 / SETTLE_S / slowness**2
    assert pytest.approx([lead, lead + settled, settled]) == factors


def test_factor_follows_amounts_as_it_follows_what_is_said() -> None:
    """The same savings give the same factor, however they are known."""
    allowance = _settled((1.0, 0.0), (1.0, 0.0))
    leads = [(saved_s - RESERVE_S) / SPAN_S for saved_s in (1.0, 2.0)]
    assert pytest.approx(math.exp(sum(leads) / SETTLE_S + leads[1])) == allowance.factor


def test_factor_for_good_moves_by_a_short_time_at_most_at_once() -> None:
    """A pause of an hour says no more than one of FLOW_S."""
    allowance = _said(RESERVE_S, 35.0, every_s=3600.0)
    assert pytest.approx(math.exp(FLOW_S / SETTLE_S + 1.0)) == allowance.factor


def test_factor_for_good_waits_while_the_factor_is_as_low_as_it_gets_at_once() -> None:
    """A large debt that is paid back leaves nothing behind; a large saving does."""
    assert pytest.approx(1.0) == _said(*[-900.0] * 50, RESERVE_S).factor
    expected = math.exp(MOST_AT_ONCE * 49 / SETTLE_S)
    assert pytest.approx(expected) == _said(*[900.0] * 50, RESERVE_S).factor


def test_factor_for_good_falls_with_a_debt_that_is_not_the_largest() -> None:
    """What is owed all the time is too much."""
    owed_s = RESERVE_S - 0.99 * MOST_AT_ONCE * SPAN_S
    expected = math.exp(-0.99 * MOST_AT_ONCE * 9 / SETTLE_S)
    assert pytest.approx(expected) == _said(*[owed_s] * 10, RESERVE_S).factor


@pytest.mark.parametrize("sign", [1, -1])
def test_factor_for_good_is_bounded(sign: int) -> None:
    """Neither debts nor savings of many hours move it beyond what can be undone."""
    far_s = RESERVE_S + sign * 0.99 * MOST_AT_ONCE * SPAN_S
    allowance = _said(*[far_s] * 200, RESERVE_S, every_s=15.0)
    assert pytest.approx(math.exp(sign * MOST_SETTLED)) == allowance.factor


@LAW
@given(st.lists(st.floats(-70, 70), max_size=8), st.floats(-70, 70), st.floats(0, 30))
def test_factor_with_more_saved_is_not_lower(
    before: list[float], saved_s: float, more_s: float
) -> None:
    """Whatever came before."""
    less, more = _said(*before, saved_s), _said(*before, saved_s + more_s)
    assert less.factor <= more.factor


def test_clock_that_goes_back_leaves_what_stays_for_good() -> None:
    """Only the lead follows what is said."""
    allowance = Allowance(60.0)
    allowance.set_saved(35.0, 100.0)
    allowance.set_saved(RESERVE_S, 40.0)
    assert pytest.approx(1.0) == allowance.factor


def test_first_amount_counts_and_leaves_the_factor_as_it_was() -> None:
    """What is allowed in a second is not known yet, so neither is what it is worth."""
    allowance = Allowance(1e3, 0.5)
    allowance.settle(3.0, 0.0, 100.0)
    assert (0.5, 0.0) == (allowance.factor, allowance.saved_s)
    allowance.settle(1.0, 1.0, 101.0)
    assert pytest.approx(3.0, rel=0.01) == allowance.saved_s
