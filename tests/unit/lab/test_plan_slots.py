# SPDX-License-Identifier: Apache-2.0
"""Planning: a trace in slots, which of them stand for all, and what lies between them."""

import pytest

from hygen_vllm.lab.plan.slots import Slot, TokenPrices, choose, slot_seconds, slots_of
from hygen_vllm.lab.workloads.arrivals import Arrival

PRICES = TokenPrices(prompt_s=0.001, output_s=0.01)


def _slot(load: float) -> Slot:
    return Slot(0.0, (), load, (), 0.0)


@pytest.mark.parametrize(
    ("duration_s", "slot_s"),
    [(86_400.0, 120.0), (1440.0, 120.0), (900.0, 75.0), (60.0, 20.0), (10.0, 10.0)],
)
def test_slot_is_two_minutes_and_less_where_there_would_be_too_few(
    duration_s: float, slot_s: float
) -> None:
    assert slot_s == slot_seconds(duration_s)


def test_requests_are_in_the_slot_of_their_time_and_around_its_neighbours() -> None:
    """Times count from the beginning of the slot, and of what is around it."""
    requests = [Arrival(time_s, 100, 10) for time_s in (0.0, 119.0, 120.0, 241.0, 599.0)]
    slots = slots_of(requests, 1440.0, PRICES)
    assert [2, 1, 1, 0, 1, *[0] * 7] == [len(slot.requests) for slot in slots]
    assert [0.0, 119.0] == [request.time_s for request in slots[0].requests]
    assert [0.0] == [request.time_s for request in slots[1].requests]
    assert [0.0, 119.0, 120.0, 241.0] == [request.time_s for request in slots[1].around]
    assert [29.0, 30.0, 151.0] == [request.time_s for request in slots[2].around]
    assert (270.0, 390.0, 270.0) == (slots[0].around_s, slots[1].around_s, slots[-1].around_s)


def test_slot_with_enough_requests_needs_none_around_it() -> None:
    """Half of what is missing comes from each side, as far as can be told from the slot itself."""
    requests = [Arrival(number * 0.4, 100, 10) for number in range(300)]
    requests += [Arrival(120.0 + number, 100, 10) for number in range(1320)]
    slots = slots_of(requests, 1440.0, PRICES)
    assert (120.0, 300) == (slots[0].around_s, len(slots[0].around))
    assert (300.0, 225 + 120 + 90) == (slots[1].around_s, len(slots[1].around))


def test_load_is_the_work_that_a_second_brings() -> None:
    slots = slots_of([Arrival(1.0, 1000, 50), Arrival(2.0, 500, 0)], 1440.0, PRICES)
    assert pytest.approx((1.0 + 0.5 + 0.5) / 120.0) == slots[0].load
    assert 0.0 == slots[1].load


def test_trace_that_is_no_whole_number_of_slots_loses_its_end() -> None:
    assert 12 == len(slots_of([Arrival(1450.0, 9, 9)], 1500.0, PRICES))


@pytest.mark.parametrize(
    ("count", "loads"), [(2, [0.1, 0.9]), (3, [0.1, 0.5, 0.9]), (99, [0.1, 0.3, 0.5, 0.7, 0.9])]
)
def test_chosen_slots_are_spread_from_the_least_to_the_most_load(
    count: int, loads: list[float]
) -> None:
    slots = [_slot(load) for load in (0.5, 0.9, 0.1, 0.7, 0.3)]
    assert loads == [slot.load for slot in choose(slots, count)]
