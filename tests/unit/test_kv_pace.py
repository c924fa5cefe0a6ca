# SPDX-License-Identifier: Apache-2.0
"""KV blocks left for online, and the price of filling the others."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hygen_vllm.kv_pace import (
    CHEAPER_PER_REQUEST,
    NO_ROOM_PRICE,
    PEAK_FADES_S,
    OnlineHeadroom,
    prefill_price,
)

LAW = settings(derandomize=True, deadline=None, max_examples=60)


def _blocks(*held: tuple[float, float]) -> list[int]:
    """Return the headroom at each (seconds, blocks held)."""
    headroom = OnlineHeadroom()
    return [headroom.blocks(blocks, now_s) for now_s, blocks in held]


def test_headroom_at_a_peak_is_none() -> None:
    """Online holds what it ever held, first of all and when it grows."""
    assert [0, 0, 0] == _blocks((5.0, 0), (6.0, 40), (7.0, 41))


def test_headroom_below_a_peak_is_what_online_may_want_back() -> None:
    """At the same time the whole peak counts, however often online asks."""
    assert [0, 30, 39, 10] == _blocks((5.0, 40), (5.0, 10), (5.0, 1), (5.0, 30))


def test_headroom_fades_by_e_in_its_time() -> None:
    """After it a peak of 100 is one of 36.8, of which a part of a block is a whole one."""
    assert [0, 37, 7] == _blocks((0.0, 100), (PEAK_FADES_S, 0), (PEAK_FADES_S, 30))


def test_headroom_fades_over_many_steps_as_over_one() -> None:
    """Time passes once, in pieces of any size."""
    steps = [(0.25 * number, 0.0) for number in range(1, 81)]
    assert math.ceil(1000 * math.exp(-20 / PEAK_FADES_S)) == _blocks((0.0, 1000), *steps)[-1]


def test_headroom_that_fades_below_what_is_held_is_none() -> None:
    """What is held now is the new peak, and fades from now on."""
    assert [0, 0, 19] == _blocks((0.0, 100), (100.0, 50), (100.0 + PEAK_FADES_S, 0))


def test_headroom_of_a_peak_of_long_ago_is_none() -> None:
    """Less than a block is left only where nothing is left at all."""
    assert [0, 0] == _blocks((0.0, 100), (1e9, 0))


def test_headroom_with_parts_of_blocks_is_rounded_up() -> None:
    """What waits may need less than a block on average."""
    assert [0, 1, 2] == _blocks((1.0, 2.5), (1.0, 2.25), (1.0, 1.0))


def test_clock_that_goes_back_fades_nothing() -> None:
    """Time is counted from where the clock went back to."""
    assert [0, 90, 27] == _blocks((50.0, 100), (10.0, 10), (10.0 + PEAK_FADES_S, 10))


@LAW
@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 500)), min_size=1, max_size=20))
def test_held_and_headroom_are_the_largest_faded_amount(held: list[tuple[float, int]]) -> None:
    """Every amount of the past counts by what its time left of it."""
    times_s = [sum(gap_s for gap_s, _ in held[: i + 1]) for i in range(len(held))]
    past = [(at_s, blocks) for at_s, (_, blocks) in zip(times_s, held, strict=True)]
    peak = max(blocks * math.exp((at_s - times_s[-1]) / PEAK_FADES_S) for at_s, blocks in past)
    headroom = _blocks(*past)[-1]
    assert headroom >= 0
    assert peak - 1e-6 <= held[-1][1] + headroom < peak + 1 + 1e-6


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
