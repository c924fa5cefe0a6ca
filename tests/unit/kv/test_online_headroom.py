# SPDX-License-Identifier: Apache-2.0
"""KV blocks left for online: a forecast of its peak, as often high enough as was asked."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hygen_vllm.kv.headroom import (
    FIRST_HORIZON_S,
    MOST_STRETCH,
    REMEMBERED,
    SAMPLE_S,
    OnlineHeadroom,
)

LAW = settings(derandomize=True, deadline=None, max_examples=60)


def headrooms_of(held: list[float], quantile: float = 1.0, horizon_s: float = 2.0) -> list[int]:
    """Return the headroom at each of these numbers of blocks, a second between any two."""
    headroom = OnlineHeadroom(quantile)
    headroom.horizon_s = horizon_s
    return [headroom.blocks(each, 0.0, float(now_s)) for now_s, each in enumerate(held)]


def returning(count: int, seed: int = 0) -> list[float]:
    """Return demand that goes up and down around 100 blocks."""
    rng = random.Random(seed)
    held = [100.0]
    for _ in range(count - 1):
        held.append(max(0.0, held[-1] + 0.2 * (100.0 - held[-1]) + rng.gauss(0.0, 12.0)))
    return held


def share_missed(held: list[float], headrooms: list[int], horizon: int) -> float:
    """Share of the moments after which more was wanted within the horizon than was free."""
    moments = range(len(held) // 3, len(held) - horizon)
    missed = [max(held[i : i + horizon + 1]) > held[i] + headrooms[i] for i in moments]
    return sum(missed) / len(missed)


def test_headroom_of_calm_demand_is_none() -> None:
    """At first nothing is known; then nothing more is ever wanted."""
    assert [0] * 50 == headrooms_of([40.0] * 50)
    assert [] == headrooms_of([])
    assert [0, 0] == headrooms_of([0.0, 100.0])


def test_headroom_of_falling_demand_is_none() -> None:
    """What is given back is there for the next."""
    assert 0 == headrooms_of([50.0, 40.0, 30.0, 20.0, 10.0, 0.0, 0.0, 0.0])[-1]


@pytest.mark.parametrize(("given_back", "headroom"), [(0.0, 20), (6.0, 8), (10.0, 0), (15.0, 0)])
def test_what_offline_gives_back_in_time_needs_no_headroom(
    given_back: float, headroom: int
) -> None:
    """Online takes ten blocks more each second, two seconds long; early misses stretched that."""
    forecast = OnlineHeadroom(1.0)
    for second in range(40):
        blocks = forecast.blocks(10.0 * second, given_back * second, float(second))
    assert headroom <= blocks <= 1.8 * headroom


def test_headroom_is_what_was_wanted_more_within_the_horizon() -> None:
    """Nothing for three seconds, then 60 blocks for three, again and again."""
    held = [*([0.0] * 3), *([60.0] * 3)] * 20
    headrooms = headrooms_of(held)
    assert min(headrooms[-6:-3]) >= 60, "a burst is to come"
    assert max(headrooms[-3:]) < min(headrooms[-6:-3])


def test_where_much_is_held_less_more_is_expected() -> None:
    """Demand returns to its mean: at its peak only noise is to come."""
    held = returning(900)
    pairs = sorted(zip(held[400:], headrooms_of(held, quantile=0.9)[400:], strict=True))
    low, high = (sum(each for _, each in some) for some in (pairs[:50], pairs[-50:]))
    assert low > 1.3 * high


@pytest.mark.parametrize("quantile", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("horizon", [1, 4])
def test_headroom_is_enough_as_often_as_was_asked(quantile: float, horizon: int) -> None:
    """Within some percent, over many moments."""
    held = returning(6000, seed=1)
    headrooms = headrooms_of(held, quantile, float(horizon))
    assert share_missed(held, headrooms, horizon) == pytest.approx(1.0 - quantile, abs=0.05)


def test_higher_quantile_leaves_more() -> None:
    """And misses less."""
    held = returning(1500, seed=2)
    means = [sum(headrooms_of(held, q)) / len(held) for q in (0.5, 0.8, 0.9, 0.95, 1.0)]
    assert sorted(means) == means
    assert len(set(means)) == len(means)


def test_misses_stretch_the_headroom_and_calm_takes_it_back() -> None:
    """Demand that climbs past every promise gets more than it ever wanted before; within bounds."""
    calm = returning(600, seed=3)
    climb = [100.0 + 40.0 * i for i in range(12)]
    after = [540.0] * 120
    headrooms = headrooms_of([*calm, *climb, *after], quantile=0.9)
    in_calm = sum(headrooms[300:600]) / 300
    at_the_top = headrooms[611]
    assert 2 * in_calm < at_the_top
    assert at_the_top <= MOST_STRETCH * 3 * 40.0 * 2
    assert 2 * headrooms[-1] < at_the_top


def test_headroom_counts_parts_of_blocks_as_whole_ones() -> None:
    """What waits may need less than a block on average."""
    assert 1 == headrooms_of([1.5, 1.75] * 30)[-2]


def test_headroom_forgets_what_is_long_ago() -> None:
    """REMEMBERED samples later nothing is left of a burst."""
    assert 0 == headrooms_of([0.0, 0.0, 100.0, *([0.0] * (2 * REMEMBERED + 3))])[-1]
    assert 0 < headrooms_of([0.0, 0.0, 100.0, *([0.0] * (REMEMBERED - 5))])[-1]


def test_headroom_is_sampled_by_time_not_by_calls() -> None:
    """A thousand steps in a moment are one sample."""
    headroom = OnlineHeadroom(1.0)
    for _ in range(1000):
        headroom.blocks(0.0, 0.0, 0.0)
    headroom.blocks(50.0, 0.0, 0.5 * SAMPLE_S)  # between two samples: nobody saw it
    for number in range(1, 100):
        blocks = headroom.blocks(0.0, 0.0, number * SAMPLE_S)
    assert 0 == blocks
    assert len(headroom._errors) <= 100 - FIRST_HORIZON_S / SAMPLE_S + 1


@LAW
@given(
    held=st.lists(st.integers(0, 5000), min_size=1, max_size=80),
    quantile=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
    horizons=st.lists(st.sampled_from([0.5, 2.0, 7.5]), min_size=1, max_size=80),
)
def test_headroom_is_never_negative_whatever_happens(
    held: list[int], quantile: float, horizons: list[float]
) -> None:
    """Whatever the horizon does meanwhile; nor is it beyond reason."""
    headroom = OnlineHeadroom(quantile)
    for now_s, each in enumerate(held):
        headroom.horizon_s = horizons[now_s % len(horizons)]
        blocks = headroom.blocks(float(each), 3.0 * now_s, float(now_s))
        assert 0 <= blocks <= 2 * MOST_STRETCH * 5000
