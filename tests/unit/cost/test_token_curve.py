# SPDX-License-Identifier: Apache-2.0
"""TokenCurve: rises and never falls, straight between knees, whichever way it bends."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hygen_vllm.cost.curve import TokenCurve, fine_knees, segments
from tests.support.costs import curves

LAW = settings(derandomize=True, deadline=None, max_examples=100)
TOKENS = st.integers(0, 1000)
WHOLE_CURVES = curves(st.integers(0, 20))
"""Whole slopes: seconds of whole tokens are exact."""
REAL_CURVES = curves(st.just(0.0) | st.floats(1e-12, 1e-2))


def test_seconds_are_summed_from_knee_to_knee() -> None:
    """0 before the first knee, straight on from each, and on after the last."""
    curve = TokenCurve((2, 4, 8), (1, 0, 5))
    seconds = [curve.seconds(tokens) for tokens in (0, 1, 2, 3, 4, 7, 8, 9, 20)]
    assert seconds == [0, 0, 0, 1, 2, 2, 2, 7, 62]
    assert curve.at_knees_s == (0, 2, 2)


def test_curve_without_knees_is_zero_everywhere() -> None:
    """The curve that is not there costs nothing."""
    assert TokenCurve().seconds(10**6) == 0
    assert TokenCurve().seconds_of(np.array([0.0, 7.0])).tolist() == [0, 0]
    assert TokenCurve().scaled(3) == TokenCurve().simplified() == TokenCurve()


@LAW
@given(REAL_CURVES, TOKENS, TOKENS)
def test_seconds_of_more_tokens_are_not_fewer(curve: TokenCurve, tokens: int, more: int) -> None:
    """A curve may bend either way but never falls."""
    assert 0 <= curve.seconds(tokens) <= curve.seconds(tokens + more)


@LAW
@given(WHOLE_CURVES, st.lists(TOKENS, max_size=8))
def test_seconds_of_many_steps_are_those_of_each(curve: TokenCurve, tokens: list[int]) -> None:
    """What is fitted by columns is what is charged one step at a time."""
    many = curve.seconds_of(np.array(tokens, dtype=np.float64))
    assert [curve.seconds(each) for each in tokens] == many.tolist()


@LAW
@given(curves(st.integers(0, 20), is_convex=True), TOKENS)
def test_curve_that_only_bends_upwards_is_a_sum_of_hinges(curve: TokenCurve, tokens: int) -> None:
    """Each knee adds its bend for every token beyond it."""
    hinges = zip(curve.knees, np.diff((0, *curve.slopes_s)), strict=True)
    expected = sum(bend * max(0, tokens - knee) for knee, bend in hinges)
    assert expected == curve.seconds(tokens)


@LAW
@given(WHOLE_CURVES, st.integers(0, 8), TOKENS)
def test_scaled_curve_takes_that_many_times_as_long(
    curve: TokenCurve, factor: int, tokens: int
) -> None:
    """Scaling is of seconds, not of tokens."""
    assert factor * curve.seconds(tokens) == curve.scaled(factor).seconds(tokens)


@LAW
@given(curves(st.integers(0, 1)), TOKENS)
def test_simplified_curve_is_the_same_with_a_bend_at_each_knee(
    curve: TokenCurve, tokens: int
) -> None:
    """Only knees that do nothing are dropped."""
    simple = curve.simplified()
    assert curve.seconds(tokens) == simple.seconds(tokens)
    assert all(before != after for before, after in pairwise((0, *simple.slopes_s)))
    assert set(simple.knees) <= set(curve.knees)


@pytest.mark.parametrize(
    ("knees", "slopes", "reason"),
    [
        ((0, 64), (1.0,), "2 knees have 1 slopes"),
        ((), (1.0,), "0 knees have 1 slopes"),
        ((64, 64), (1.0, 1.0), "knees must be >= 0 and rise, got [64, 64]"),
        ((64, 8), (1.0, 1.0), "knees must be >= 0 and rise, got [64, 8]"),
        ((-1, 8), (1.0, 1.0), "knees must be >= 0 and rise, got [-1, 8]"),
        ((0.5,), (1.0,), "knees must be whole numbers, got [0.5]"),
        (("8",), (1.0,), "knees must be whole numbers, got ['8']"),
        ((True,), (1.0,), "knees must be whole numbers, got [True]"),
        ((0,), (-1e-9,), "slopes must be finite and >= 0, got -1e-09"),
        ((0,), (math.inf,), "slopes must be finite and >= 0, got inf"),
        ((0, 8), (0.0, math.nan), "slopes must be finite and >= 0, got nan"),
        ((0,), (True,), "slopes must be finite and >= 0, got True"),
    ],
)
def test_curve_with_a_wrong_knee_or_slope_is_refused_with_its_value(
    knees: tuple[Any, ...], slopes: tuple[Any, ...], reason: str
) -> None:
    """A curve that could fall, or has no order, is none."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        TokenCurve(knees, slopes)
    assert reason == str(caught.value)


def test_segments_are_the_tokens_between_each_knee_and_the_next() -> None:
    """The last segment has no end, and a step before the first knee has none."""
    tokens = np.array([0.0, 2.0, 5.0, 9.0, 100.0])
    expected = [[0, 0, 0], [0, 0, 0], [2, 1, 0], [2, 4, 1], [2, 4, 92]]
    assert expected == segments(tokens, (2, 4, 8)).tolist()


@LAW
@given(st.lists(TOKENS, min_size=1, max_size=8), st.sets(TOKENS, min_size=1, max_size=6))
def test_segments_of_a_step_sum_to_its_tokens_after_the_first_knee(
    tokens: list[int], knees: set[int]
) -> None:
    """Every token is in one segment."""
    ordered = sorted(knees)
    columns = segments(np.array(tokens, dtype=np.float64), ordered)
    assert columns.shape == (len(tokens), len(ordered))
    assert [max(0, each - ordered[0]) for each in tokens] == columns.sum(axis=1).tolist()


@LAW
@given(st.integers(1, 70_000))
def test_fine_knees_rise_from_zero_and_stay_below_the_most_tokens(max_tokens: int) -> None:
    """They can be the knees of a curve, and are few enough to fit."""
    knees = fine_knees(max_tokens)
    assert knees[0] == 0
    assert all(low < high for low, high in pairwise(knees))
    assert knees[-1] < max_tokens
    assert len(knees) <= 4 + 2 * 16 * (1 + math.log2(1 + max_tokens / 1024))


def test_fine_knees_are_pairs_at_multiples_of_64_that_grow_rare_from_1024_tokens_on() -> None:
    """A jump just after a multiple of 64 lies between the two knees of its pair."""
    knees = fine_knees(4096)
    firsts = [knee for knee in knees[4:] if knee % 64 == 0]
    assert knees[:4] == (0, 8, 16, 32)
    assert sorted([*firsts, *(first + 8 for first in firsts)]) == [*knees[4:]]
    assert [*range(64, 1024, 64), *range(1024, 2048, 128), *range(2048, 4096, 256)] == firsts
