# SPDX-License-Identifier: Apache-2.0
"""AdmissionOrder: who is next by prefix, by age, and by having waited too long."""

from typing import Any

import pytest

from hygen_vllm.lane.admission_order import (
    SHARERS,
    AdmissionOrder,
    OrderRules,
    Waiting,
)
from tests.unit.lane.test_prefix_tree import chain

Order = AdmissionOrder[str]


class Lane:
    """An AdmissionOrder with a clock."""

    def __init__(self, **rules: Any) -> None:
        self.now_s = 0.0
        self.order: Order = AdmissionOrder(OrderRules(**rules))
        self.waiting: dict[str, Waiting[str]] = {}

    def add(self, *words: int, name: str = "") -> None:
        name = name or "".join(map(str, words))
        self.waiting[name] = Waiting(name, self.now_s)
        self.order.add(self.waiting[name], chain(words))

    def next(self) -> str:
        waiting = self.order.next(self.now_s)
        assert waiting is not None
        return waiting.request

    def admit(self, count: int = 1) -> list[str]:
        """Return the names of the next requests, which leave."""
        names = []
        for _ in range(count):
            waiting = self.order.next(self.now_s)
            assert waiting is not None
            self.order.took(waiting, self.now_s)
            self.order.remove(waiting)
            names.append(waiting.request)
            self.order.check_invariants()
        return names


def test_sharers_are_admitted_together() -> None:
    """Depth first: those with the longest common prefix follow each other."""
    lane = Lane()
    for words in ([1, 1, 1], [2, 1], [1, 2], [2, 2], [1, 1, 2], [3]):
        lane.add(*words)
    assert ["111", "112", "12", "21", "22", "3"] == lane.admit(6)
    assert lane.order.next(0.0) is None


def test_request_that_comes_while_its_sharers_run_joins_them() -> None:
    """It goes before what was there before it."""
    lane = Lane()
    for words in ([1, 1], [1, 2], [2, 1], [2, 2], [2, 3]):
        lane.add(*words)
    assert ["21", "22"] == lane.admit(2)
    lane.add(2, 9)
    assert ["23", "29", "11"] == lane.admit(3)


def test_request_that_waited_too_long_is_next_whatever_its_prefix() -> None:
    """Not a moment before; the branch that was left goes on after it."""
    lane = Lane(max_wait_s=10.0)
    lane.add(9, 9, 9, name="old")
    lane.now_s = 1.0
    for i in range(6):
        lane.add(1, 1, 1, i)
    lane.now_s = 10.0
    assert ["1110", "1111"] == lane.admit(2)
    lane.now_s = 10.5
    assert ["old", "1112", "1113"] == lane.admit(3)


def test_of_several_that_waited_too_long_the_oldest_comes_with_its_sharers() -> None:
    """Up to SHARERS of them, if they waited as long; then the next oldest."""
    lane = Lane(max_wait_s=10.0)
    lane.add(1, 1, 0, name="a0")
    lane.add(2, 2, 0, name="b0")
    for i in range(1, 2 * SHARERS):
        lane.add(1, 1, i, name=f"a{i}")
    lane.now_s = 5.0
    lane.add(2, 2, 9, name="late b")
    lane.now_s = 10.5
    names = lane.admit(SHARERS + 2)
    assert [f"a{i}" for i in range(SHARERS + 1)] == names[:-1]
    assert "b0" == names[-1]
    assert f"a{SHARERS + 1}" == lane.next()


@pytest.mark.parametrize("max_wait_s", [20.0, None])
def test_stream_of_a_popular_prefix_starves_nobody_for_longer_than_the_bound(
    max_wait_s: float | None,
) -> None:
    """Two popular ones come for each that is admitted; without the bound they are all there is."""
    lane = Lane(max_wait_s=max_wait_s)
    lane.add(9, 9, name="unpopular")
    waited = None
    for step in range(200):
        lane.now_s = float(step)
        lane.add(1, 1, 1, 2 * step, name=f"popular-{2 * step}")
        lane.add(1, 1, 1, 2 * step + 1, name=f"popular-{2 * step + 1}")
        if lane.admit() == ["unpopular"]:
            waited = lane.now_s
    assert waited == (None if max_wait_s is None else 21.0)


def test_first_come_first_served_knows_no_prefixes() -> None:
    """The order in which they came."""
    lane = Lane(by_prefix=False)
    for words in ([1, 1], [2, 2], [1, 2], [2, 3]):
        lane.add(*words)
    lane.order.remove(lane.waiting["22"])
    assert ["11", "12", "23"] == lane.admit(3)


def test_num_shared_is_the_longest_prefix_that_somebody_here_shares() -> None:
    """None once they left."""
    lane = Lane()
    lane.add(1, 2, 3)
    assert 2 == lane.order.num_shared(chain([1, 2, 9]))
    lane.admit()
    assert 0 == lane.order.num_shared(chain([1, 2, 9]))


def test_requests_that_left_by_themselves_are_not_kept() -> None:
    """A thousand aborted ones leave nothing behind an old one that stays."""
    lane = Lane()
    lane.add(1, name="stays")
    for i in range(1000):
        lane.add(2, i, name="goes")
        lane.order.remove(lane.waiting["goes"])
    assert len(lane.order._by_age) <= 2 + SHARERS + 1
    assert ["stays"] == lane.admit()


def test_where_a_branch_ends_the_one_that_saves_most_is_next() -> None:
    """Of those that are left, not the one that came first."""
    lane = Lane()
    for words in ([9], [1, 1], [1, 2], *([2, 2, 2, i] for i in range(3))):
        lane.add(*words)
    assert ["2220", "2221", "2222", "11", "12", "9"] == lane.admit(6)
