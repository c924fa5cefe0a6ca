# SPDX-License-Identifier: Apache-2.0
"""KV blocks left for online, and the price of filling the others."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hygen_vllm.kv_pace import (
    CHEAPER_PER_REQUEST,
    FIRST_HORIZON_S,
    NO_ROOM_PRICE,
    REMEMBERED,
    SAMPLE_S,
    OnlineHeadroom,
    prefill_price,
)

LAW = settings(derandomize=True, deadline=None, max_examples=60)


def headroom_of(held: list[float], quantile: float = 1.0, horizon_s: float = 2.0) -> int:
    """Return the headroom after a second between any two of these numbers of blocks."""
    headroom, blocks = OnlineHeadroom(quantile), 0
    headroom.horizon_s = horizon_s
    for now_s, each in enumerate(held):
        blocks = headroom.blocks(each, float(now_s))
    return blocks


def test_headroom_is_what_online_wanted_more_within_the_horizon() -> None:
    """From 10 it went to 40 in two seconds; what it holds now and what came later do not matter."""
    assert 30 == headroom_of([10, 20, 40, 40, 40, 40])
    assert 20 == headroom_of([10, 20, 40, 40, 40, 40], horizon_s=1.0)
    assert 30 == headroom_of([10, 40, 10, 10, 0, 0, 0, 0])


def test_headroom_of_falling_demand_is_none() -> None:
    """Nothing more was wanted; at first nothing is known."""
    assert 0 == headroom_of([50, 40, 30, 20, 10, 0])
    assert 0 == headroom_of([])
    assert 0 == headroom_of([0, 100])


def test_headroom_is_a_quantile_of_the_rises() -> None:
    """One rise of 100 in 50 moments is in the highest 4 %, with those that come before it."""
    held = [0.0] * 48 + [100.0] + [0.0] * 51
    assert 100 == headroom_of(held, quantile=0.98)
    assert 0 == headroom_of(held, quantile=0.9)


def test_headroom_of_few_samples_is_their_highest() -> None:
    """So that the next one is below it as often as was asked."""
    assert 30 == headroom_of([30, 30, 60, 60, 60, 60, 60], quantile=0.8)


def test_headroom_counts_parts_of_blocks_as_whole_ones() -> None:
    """What waits may need less than a block on average."""
    assert 1 == headroom_of([1.5, 1.75, 1.75, 1.75, 1.75])


def test_headroom_forgets_what_is_long_ago() -> None:
    """REMEMBERED samples later nothing is left of a burst."""
    assert 0 == headroom_of([0, 100, 0] + [0] * (REMEMBERED + 3))
    assert 100 == headroom_of([0, 100, 0] + [0] * (REMEMBERED - 3))


def test_headroom_is_sampled_by_time_not_by_calls() -> None:
    """A thousand steps in a moment are one sample."""
    headroom = OnlineHeadroom(1.0)
    for _ in range(1000):
        headroom.blocks(0.0, 0.0)
    headroom.blocks(50.0, 0.5 * SAMPLE_S)  # between two samples: nobody saw it
    for number in range(1, 100):
        blocks = headroom.blocks(0.0, number * SAMPLE_S)
    assert 0 == blocks
    assert len(headroom._rises) <= 100 - FIRST_HORIZON_S / SAMPLE_S + 1


@LAW
@given(
    held=st.lists(st.integers(0, 99), min_size=8, max_size=60),
    horizon_s=st.integers(1, 5),
)
def test_headroom_is_the_worst_rise_of_a_plain_search(held: list[int], horizon_s: int) -> None:
    """Over all moments whose horizon has passed."""
    past = range(len(held) - horizon_s - 1)
    rises = [max(held[i : i + horizon_s + 1]) - held[i] for i in past]
    found = headroom_of([float(each) for each in held], horizon_s=float(horizon_s))
    assert max(rises) == found


@pytest.mark.parametrize(
    ("free_blocks", "room"), [(-5, 0.0), (0, 0.0), (5, 0.5), (10, 1.0), (25, 2.5)]
)
def test_price_of_prefill_falls_with_the_room_for_requests_like_the_next(
    free_blocks: int, room: float
) -> None:
    """Each of ten blocks makes it cheaper by the same amount."""
    expected = NO_ROOM_PRICE - CHEAPER_PER_REQUEST * room
    assert pytest.approx(expected) == prefill_price(free_blocks, 10.0)


def test_price_of_prefill_with_room_for_many_requests_is_nothing() -> None:
    """It never pays anybody."""
    assert 0.0 == prefill_price(10**6, 1.0)


@LAW
@given(st.integers(-50, 500), st.integers(0, 50), st.floats(0.1, 100))
def test_price_of_prefill_with_more_room_is_not_higher(
    free_blocks: int, more: int, next_blocks: float
) -> None:
    """It is between none and that without room, and rises with what the next request needs."""
    price = prefill_price(free_blocks, next_blocks)
    assert 0.0 <= prefill_price(free_blocks + more, next_blocks) <= price <= NO_ROOM_PRICE
    assert price <= prefill_price(free_blocks, 2 * next_blocks)
