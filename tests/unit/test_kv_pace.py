# SPDX-License-Identifier: Apache-2.0
"""The price of filling the KV blocks that are left."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hygen_vllm.kv_pace import (
    CHEAPER_PER_REQUEST,
    ENOUGH_RUNNING,
    NO_ROOM_PRICE,
    prefill_price,
)

LAW = settings(derandomize=True, deadline=None, max_examples=60)


@pytest.mark.parametrize(
    ("free_blocks", "room"), [(-5, 0.0), (0, 0.0), (5, 0.5), (10, 1.0), (25, 2.5)]
)
def test_price_of_prefill_falls_with_the_room_for_requests_like_the_next(
    free_blocks: int, room: float
) -> None:
    """Each of ten blocks makes it cheaper by the same amount."""
    expected = NO_ROOM_PRICE - CHEAPER_PER_REQUEST * room
    assert pytest.approx(expected) == prefill_price(free_blocks, 10.0, 9)


def test_price_of_prefill_with_room_for_many_requests_is_nothing() -> None:
    """It never pays anybody."""
    assert 0.0 == prefill_price(10**6, 1.0, 9)


@LAW
@given(st.integers(-50, 500), st.integers(0, 50), st.floats(0.1, 100), st.integers(0, 9))
def test_price_of_prefill_with_more_room_or_fewer_running_is_not_higher(
    free_blocks: int, more: int, next_blocks: float, num_running: int
) -> None:
    """It is between none and that without room, and rises with what the next request needs."""
    price = prefill_price(free_blocks, next_blocks, num_running)
    roomier = prefill_price(free_blocks + more, next_blocks, num_running)
    assert 0.0 <= roomier <= price <= NO_ROOM_PRICE
    assert price <= prefill_price(free_blocks, 2 * next_blocks, num_running)
    assert price <= prefill_price(free_blocks, next_blocks, num_running + 1)


def test_price_of_prefill_without_room_rises_with_those_that_run() -> None:
    """A lone request is prefilled at once; from ENOUGH_RUNNING on more make no difference."""
    prices = [prefill_price(0, 10.0, number) for number in (0, 1, ENOUGH_RUNNING, 99)]
    lone = NO_ROOM_PRICE / ENOUGH_RUNNING
    assert pytest.approx([0.0, lone, NO_ROOM_PRICE, NO_ROOM_PRICE]) == prices
