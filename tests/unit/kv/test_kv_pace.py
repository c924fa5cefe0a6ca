# SPDX-License-Identifier: Apache-2.0
"""The pace of offline work: by the room for the next request, and by how many others run."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hygen_vllm.kv.pace import (
    ENOUGH_RUNNING,
    MANY,
    NO_ROOM_PRICE,
    NO_ROOM_WORTH,
    Pace,
    pace_of,
)

LAW = settings(derandomize=True, deadline=None, max_examples=60)


@pytest.mark.parametrize(
    ("free_blocks", "full"), [(-5, 1.0), (0, 1.0), (13, 0.8), (32.5, 0.5), (65, 0.0)]
)
def test_prefill_costs_and_a_decode_is_worth_less_the_more_room_there_is(
    free_blocks: float, full: float
) -> None:
    """Each of ten blocks that the next request needs makes the same difference."""
    pace = pace_of(free_blocks, 10.0, 9)
    assert pytest.approx(NO_ROOM_PRICE * full) == pace.prefill_price
    assert pytest.approx(1.0 + (NO_ROOM_WORTH - 1.0) * full) == pace.decode_worth


def test_room_for_many_requests_makes_no_difference() -> None:
    """Prefill never pays anybody, and a decode is never worth less than its part of a step."""
    assert Pace() == pace_of(10 * MANY, 10.0, 9) == pace_of(1e6, 1.0, 0)


@LAW
@given(st.integers(-50, 500), st.integers(0, 50), st.floats(0.1, 100), st.integers(0, 9))
def test_pace_is_monotonic_and_bounded(
    free_blocks: int, more: int, next_blocks: float, num_running: int
) -> None:
    """In the room, in what the next request needs, and in how many run."""
    pace = pace_of(free_blocks, next_blocks, num_running)
    roomier = pace_of(free_blocks + more, next_blocks, num_running)
    larger = pace_of(free_blocks, 2 * next_blocks, num_running)
    assert 0.0 <= roomier.prefill_price <= pace.prefill_price <= larger.prefill_price
    assert 1.0 <= roomier.decode_worth <= pace.decode_worth <= larger.decode_worth
    assert larger.prefill_price <= NO_ROOM_PRICE
    assert larger.decode_worth <= NO_ROOM_WORTH
    assert pace.prefill_price <= pace_of(free_blocks, next_blocks, num_running + 1).prefill_price


def test_price_of_prefill_without_room_rises_with_those_that_run() -> None:
    """A lone request is prefilled at once; from ENOUGH_RUNNING on more make no difference."""
    paces = [pace_of(0, 10.0, number) for number in (0, 1, ENOUGH_RUNNING, 99)]
    prices = [0.0, NO_ROOM_PRICE / ENOUGH_RUNNING, NO_ROOM_PRICE, NO_ROOM_PRICE]
    assert pytest.approx(prices) == [pace.prefill_price for pace in paces]
    assert {NO_ROOM_WORTH} == {pace.decode_worth for pace in paces}
