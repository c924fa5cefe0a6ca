# SPDX-License-Identifier: Apache-2.0
"""AdmissionOrder: who is next by prefix, by age, and by having waited too long."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from hygen_vllm.lane.admission_order import (
    BRANCHES_REMEMBERED,
    SHARERS,
    AdmissionOrder,
    OrderRules,
    Waiting,
)
from tests.unit.lane.test_prefix_tree import chain

Order = AdmissionOrder[str]


class Lane:
    """An AdmissionOrder with a clock and a KV cache of named prefixes."""

    def __init__(self, cached: Iterable[Sequence[int]] | None = None, **rules: Any) -> None:
        self.now_s = 0.0
        self.cached = None if cached is None else [chain(words) for words in cached]
        self.num_asked = 0
        self.order: Order = AdmissionOrder(OrderRules(**rules), self._num_cached)
        self.waiting: dict[str, Waiting[str]] = {}

    def _num_cached(self, hashes: Sequence[Any], most: int) -> int:
        self.num_asked += 1
        if self.cached is None:
            return most
        held = {each for prefix in self.cached for each in prefix}
        return next((i for i in range(most) if hashes[i] not in held), most)

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


def test_branch_that_was_left_is_taken_up_again_if_it_is_still_cached() -> None:
    """Cached blocks count more than how much there is to save elsewhere."""
    for cached, expected in (([[2, 2]], "222"), ([], "330")):
        lane = Lane(cached=cached, max_wait_s=10.0)
        lane.add(5, 5, name="old")
        lane.now_s = 1.0
        for i in range(8):
            lane.add(2, 2, i)
        assert ["220", "221"] == lane.admit(2)
        for i in range(32):
            lane.add(3, 3, i)
        lane.now_s = 10.5
        assert ["old", expected] == lane.admit(2)


def test_present_branch_is_left_if_it_is_evicted_and_another_is_cached() -> None:
    """What the cache holds is used before it goes as well."""
    lane = Lane()
    for family in (1, 2):
        for i in range(3):
            lane.add(family, family, i)
    assert ["110"] == lane.admit()
    lane.order.remove(lane.waiting.pop("111"))
    lane.order.remove(lane.waiting.pop("112"))
    assert ["220"] == lane.admit()
    lane.add(1, 1, 7)
    lane.cached = [chain([1, 1])]
    assert ["117"] == lane.admit()


def test_where_nothing_is_cached_the_branch_that_saves_most_is_next() -> None:
    """Prefixes that are gone are no reason to stay."""
    lane = Lane(cached=[])
    for words in ([1, 1], [1, 2], *([2, 2, 2, 2, i] for i in range(4))):
        lane.add(*words)
    assert ["22220", "22221", "22222", "11", "12", "22223"] == lane.admit(6)


def test_cache_is_asked_a_bounded_number_of_times() -> None:
    """Whatever was left, an admission asks about the present branch and a few others."""
    lane = Lane()
    for family in range(200):
        lane.add(family, 1)
        lane.add(family, 2)
    for _ in range(400):
        lane.num_asked = 0
        lane.admit()
        assert lane.num_asked <= BRANCHES_REMEMBERED + 1


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
    """The order in which they came, and nothing is asked of the cache."""
    lane = Lane(by_prefix=False)
    for words in ([1, 1], [2, 2], [1, 2], [2, 3]):
        lane.add(*words)
    lane.order.remove(lane.waiting["22"])
    assert ["11", "12", "23"] == lane.admit(3)
    assert 0 == lane.num_asked


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
