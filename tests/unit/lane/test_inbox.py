# SPDX-License-Identifier: Apache-2.0
"""Who is put in order first of those that came."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hygen_vllm.lane.admission_order import Waiting
from hygen_vllm.lane.fair_share import MOST_TENANTS
from hygen_vllm.lane.inbox import Inbox


def inbox_of(*places, named=()):
    """Return an inbox with a request, its number, at each (urgency, tenant)."""
    inbox = Inbox(named)
    for number, place in enumerate(places):
        inbox.add(Waiting(number, float(number)), *place)
    return inbox


def drained(inbox):
    return [inbox.pop().request for _ in range(len(inbox))]


def test_another_tenant_waits_for_nobody_s_backlog():
    inbox = inbox_of(*[(0, "a")] * 1000, (0, "b"), (0, "b"))
    assert [0, 1000, 1, 1001, 2] == drained(inbox)[:5]


def test_urgent_request_waits_for_nobody():
    inbox = inbox_of(*[(5, "a")] * 1000, (1, "a"), (-3, "b"))
    assert [1001, 1000, 0] == drained(inbox)[:3]


@pytest.mark.parametrize("tenant", ["", "named"])
def test_tenants_without_number_share_a_turn(tenant):
    """One that is named in the settings keeps its own, as have requests without a label."""
    spam = [(0, f"tenant-{number}") for number in range(50 * MOST_TENANTS)]
    inbox = inbox_of(*spam, (0, tenant), named=["named"])
    assert len(spam) in drained(inbox)[: MOST_TENANTS + 4]


def test_nothing_is_left_of_those_that_are_not_kept():
    inbox = inbox_of((0, "a"), (1, "b"), (0, "b"))
    inbox.keep(lambda waiting: waiting.request == 2)
    assert (1, [2]) == (len(inbox), [waiting.request for waiting in inbox])
    assert [2] == drained(inbox)
    assert not inbox
    assert not inbox._levels


@given(st.lists(st.tuples(st.integers(-2, 2), st.sampled_from("abcd"))))
def test_each_leaves_once_the_urgent_first_a_tenants_own_as_they_came(places):
    left = drained(inbox_of(*places))
    assert sorted(left) == [*range(len(places))]
    assert sorted(urgency for urgency, _ in places) == [places[each][0] for each in left]
    for place in set(places):
        of_place = [each for each in left if places[each] == place]
        assert of_place == sorted(of_place)
