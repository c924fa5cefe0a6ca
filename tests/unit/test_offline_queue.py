# SPDX-License-Identifier: Apache-2.0
"""OfflineQueue beside a plain list: same order, same offers, at a cost that hides its length."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from hygen_vllm.offline_queue import OfflineQueue


@dataclass(eq=False)
class Request:
    request_id: int
    urgency: int = 0


def _urgency(request: Request) -> int:
    return request.urgency


def _queue(count: int, **kwargs: Any) -> tuple[OfflineQueue[Request], list[Request]]:
    queue: OfflineQueue[Request] = OfflineQueue(**kwargs)
    requests = [Request(number) for number in range(count)]
    for request in requests:
        queue.add(request)
    return queue, requests


def _scan(queue: OfflineQueue[Request], runs: Callable[[Request], bool]) -> list[int]:
    """Take all that one scan offers, put back what cannot run; return the ids in order."""
    queue.start_scan()
    taken = []
    while (request := queue.next_candidate()) is not None:
        queue.take(request)
        taken.append(request)
    for request in taken:
        if not runs(request):
            queue.put_back(request)
    queue.check_invariants()
    return [request.request_id for request in taken]


def test_queue_without_sort_key_is_first_come_first_served() -> None:
    """Requests leave in the order in which they came."""
    queue, requests = _queue(4)
    assert list(queue) == requests
    assert _scan(queue, runs=lambda _: True) == [0, 1, 2, 3]
    assert len(queue) == 0


def test_queue_with_sort_key_orders_by_key_then_arrival() -> None:
    """A smaller key comes first; among equals the one that came first."""
    queue: OfflineQueue[Request] = OfflineQueue(_urgency)
    for number, urgency in enumerate((2, 1, 2, 0, 1)):
        queue.add(Request(number, urgency))
    assert [request.request_id for request in queue] == [3, 1, 4, 0, 2]


def test_add_first_comes_before_all_and_the_last_one_before_the_others() -> None:
    """A preempted request is offered next."""
    queue, _ = _queue(2)
    queue.add_first(Request(10))
    queue.add_first(Request(11))
    assert [request.request_id for request in queue] == [11, 10, 0, 1]


def test_add_first_with_sort_key_comes_before_its_equals_only() -> None:
    """The key counts more than having run before."""
    queue: OfflineQueue[Request] = OfflineQueue(_urgency)
    for number, urgency in enumerate((0, 1, 2)):
        queue.add(Request(number, urgency))
    queue.add_first(Request(10, urgency=1))
    assert [request.request_id for request in queue] == [0, 10, 1, 2]


@pytest.mark.parametrize("method", ["add", "add_first", "put_back"])
def test_second_add_of_a_request_is_refused_and_changes_nothing(method: str) -> None:
    """A request is in one place at most."""
    queue, requests = _queue(3)
    with pytest.raises(ValueError, match=r"^request 1 is already in the queue"):
        getattr(queue, method)(Request(1))
    assert list(queue) == requests
    queue.check_invariants()


def test_discard_of_an_absent_request_returns_false_and_changes_nothing() -> None:
    """Abort may name a request that is elsewhere; presence goes by id."""
    queue, requests = _queue(3)
    assert not queue.discard(Request(7))
    assert list(queue) == requests
    assert queue.discard(Request(1))
    assert list(queue) == [requests[0], requests[2]]
    assert [request in queue for request in requests] == [True, False, True]


def test_next_candidate_asked_twice_offers_the_same_and_keeps_it() -> None:
    """Looking does not change the queue."""
    queue, requests = _queue(2)
    queue.start_scan()
    assert queue.next_candidate() is queue.next_candidate() is requests[0]
    assert list(queue) == requests


def test_take_of_an_absent_request_is_refused() -> None:
    """What does not wait cannot be admitted."""
    queue, _ = _queue(1)
    with pytest.raises(KeyError):
        queue.take(Request(7))
    assert len(queue) == 1


def test_put_back_after_take_restores_the_order() -> None:
    """A request that could not run loses nothing, in whatever order they come back."""
    queue, requests = _queue(4)
    queue.start_scan()
    for request in requests[:3]:
        queue.take(request)
    queue.add(Request(9))
    for request in (requests[1], requests[2], requests[0]):
        queue.put_back(request)
    assert [request.request_id for request in queue] == [0, 1, 2, 3, 9]


def test_put_back_of_a_request_taken_in_an_earlier_scan_goes_to_the_front() -> None:
    """A place is kept for one scan; what ran since then is a preempted request."""
    queue, requests = _queue(3)
    queue.start_scan()
    queue.take(requests[2])
    queue.start_scan()
    queue.put_back(requests[2])
    assert list(queue) == [requests[2], requests[0], requests[1]]


def test_scan_takes_no_more_than_its_bound() -> None:
    """Requests that cannot run cost bounded time in a step."""
    queue, _ = _queue(5, max_taken_per_scan=2)
    assert _scan(queue, runs=lambda _: True) == [0, 1]
    assert _scan(queue, runs=lambda _: True) == [2, 3]
    assert _scan(queue, runs=lambda _: True) == [4]


def test_scan_after_a_bounded_one_goes_on_behind_those_put_back() -> None:
    """Requests that cannot run hide nobody for long, and are tried every other time."""
    queue, _ = _queue(5, max_taken_per_scan=2)
    blocked = [_scan(queue, runs=lambda _: False) for _ in range(5)]
    assert blocked == [[0, 1], [2, 3], [0, 1], [4], [0, 1]]
    assert [request.request_id for request in queue] == [0, 1, 2, 3, 4]


def test_scan_after_one_below_its_bound_starts_at_the_front() -> None:
    """Only the bound moves the start; new requests at the front are not passed over."""
    queue, _ = _queue(2, max_taken_per_scan=3)
    assert _scan(queue, runs=lambda _: False) == [0, 1]
    queue.add_first(Request(9))
    assert _scan(queue, runs=lambda _: True) == [9, 0, 1]


def test_scan_after_a_bounded_one_in_which_all_ran_starts_at_the_front() -> None:
    """Where nobody was put back there is nobody to pass over."""
    queue, _ = _queue(4, max_taken_per_scan=2)
    assert _scan(queue, runs=lambda _: True) == [0, 1]
    queue.add_first(Request(9))
    assert _scan(queue, runs=lambda _: True) == [9, 2]


def test_scan_with_some_runnable_reaches_all_of_them_in_bounded_scans() -> None:
    """Once found, those behind six that cannot run get every other scan."""
    queue, _ = _queue(12, max_taken_per_scan=3)
    scans = [_scan(queue, runs=lambda request: request.request_id >= 6) for _ in range(6)]
    assert scans[:3] == [[0, 1, 2], [3, 4, 5], [0, 1, 2]]
    assert scans[3:] == [[6, 7, 8], [0, 1, 2], [9, 10, 11]]
    assert [request.request_id for request in queue] == list(range(6))


def test_check_invariants_after_a_request_changed_its_id_fails() -> None:
    """The check sees indexes that disagree."""
    queue, requests = _queue(2)
    requests[1].request_id = 7
    with pytest.raises(AssertionError):
        queue.check_invariants()


def test_operations_on_a_long_queue_compare_few_keys() -> None:
    """Each operation is O(log n): 16 times the requests cost a few comparisons more."""
    comparisons = 0

    class Key(int):
        __hash__ = int.__hash__

        def __lt__(self, other: int) -> bool:
            nonlocal comparisons
            comparisons += 1
            return int(self) < int(other)

    for count in (256, 4096):
        queue, requests = _queue(count, sort_key=lambda request: Key(request.request_id))
        comparisons = 0
        queue.start_scan()
        for request in (requests[0], requests[count // 2], requests[-1]):
            queue.next_candidate()
            queue.take(request)
            queue.put_back(request)
            queue.discard(request)
            queue.add_first(request)
        assert comparisons <= 3 * 6 * math.log2(count)


class ListModel:
    """The queue as one plain list, in which taken requests keep their rows until the next scan."""

    def __init__(self, sort_key: Callable[[Request], int], max_taken: int) -> None:
        self.sort_key = sort_key
        self.max_taken = max_taken
        self.rows: list[Request] = []
        self.absent: set[Request] = set()
        self.taken: list[Request] = []
        self.mark: Request | None = None
        self.behind: Request | None = None

    @property
    def waiting(self) -> list[Request]:
        return [row for row in self.rows if row not in self.absent]

    @property
    def away(self) -> list[Request]:
        return [request for request in self.taken if request not in self.waiting]

    @property
    def candidate(self) -> Request | None:
        start = self.rows.index(self.mark) if self.mark else 0
        behind = [row for row in self.rows[start:] if row not in self.absent]
        return behind[0] if behind and len(self.taken) < self.max_taken else None

    def add(self, request: Request) -> None:
        key = self.sort_key(request)
        self.rows.insert(sum(self.sort_key(row) <= key for row in self.rows), request)

    def add_first(self, request: Request) -> None:
        key = self.sort_key(request)
        self.rows.insert(sum(self.sort_key(row) < key for row in self.rows), request)

    def take(self, request: Request) -> None:
        self.absent.add(request)
        self.taken.append(request)

    def put_back(self, request: Request) -> None:
        if request in self.taken:
            self.absent.remove(request)
        else:
            self.add_first(request)

    def start_scan(self) -> None:
        put_back = [row for row in self.waiting if row in self.taken]
        is_at_front = self.mark is None
        if len(self.taken) >= self.max_taken and put_back:
            self._mark_behind(put_back[-1])
        elif self.taken if is_at_front else len(put_back) == len(self.taken):
            self.behind = None
        self.mark = self.behind if is_at_front else None
        waiting = self.waiting
        self.rows = [row for row in self.rows if row in waiting or row is self.behind]
        self.absent = {self.behind} if self.behind else set()
        self.taken = []

    def _mark_behind(self, last: Request) -> None:
        index = self.rows.index(last) + 1
        if self.behind is None or self.rows.index(self.behind) < index:
            self.behind = Request(-1, last.urgency)
            self.rows.insert(index, self.behind)
            self.absent.add(self.behind)


class QueueMachine(RuleBasedStateMachine):
    """Does the same to the queue and to the list."""

    sort_key: Callable[[Request], int] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.queue: OfflineQueue[Request] = OfflineQueue(self.sort_key, max_taken_per_scan=2)
        self.model = ListModel(self.sort_key or (lambda _: 0), max_taken=2)
        self.running: list[Request] = []
        self.num_created = 0

    @rule(urgency=st.integers(0, 2))
    def add(self, urgency: int) -> None:
        request = Request(self.num_created, urgency)
        self.num_created += 1
        self.queue.add(request)
        self.model.add(request)

    @precondition(lambda self: self.running)
    @rule(number=st.integers(0, 99), is_add_first=st.booleans())
    def preempt(self, number: int, is_add_first: bool) -> None:
        request = self.running.pop(number % len(self.running))
        for queue in (self.queue, self.model):
            (queue.add_first if is_add_first else queue.put_back)(request)

    @precondition(lambda self: self.running)
    @rule(number=st.integers(0, 99))
    def finish(self, number: int) -> None:
        assert not self.queue.discard(self.running.pop(number % len(self.running)))

    @precondition(lambda self: self.model.waiting)
    @rule(number=st.integers(0, 99))
    def abort(self, number: int) -> None:
        request = self.model.waiting[number % len(self.model.waiting)]
        if request not in self.model.taken:  # the list would lose the row that the scan remembers
            assert self.queue.discard(request)
            self.model.rows.remove(request)

    @precondition(lambda self: self.model.waiting)
    @rule(number=st.integers(0, 99))
    def add_again(self, number: int) -> None:
        request = self.model.waiting[number % len(self.model.waiting)]
        with pytest.raises(ValueError, match="already in the queue"):
            self.queue.add(request)

    @rule()
    def start_scan(self) -> None:
        self.running += self.model.away
        self.queue.start_scan()
        self.model.start_scan()

    @precondition(lambda self: self.model.candidate not in (None, *self.model.taken))
    @rule()
    def take(self) -> None:
        request = self.queue.next_candidate()
        assert request is self.model.candidate
        self.queue.take(request)
        self.model.take(request)

    @precondition(lambda self: self.model.away)
    @rule(number=st.integers(0, 99))
    def put_back(self, number: int) -> None:
        request = self.model.away[number % len(self.model.away)]
        self.queue.put_back(request)
        self.model.put_back(request)

    @invariant()
    def queue_is_the_list(self) -> None:
        waiting = self.model.waiting
        self.queue.check_invariants()
        assert list(self.queue) == waiting
        assert len(self.queue) == len(waiting)
        assert all(request in self.queue for request in waiting)
        assert not any(request in self.queue for request in self.running + self.model.away)
        assert self.queue.next_candidate() is self.model.candidate


class SortedQueueMachine(QueueMachine):
    sort_key = staticmethod(_urgency)


@pytest.mark.parametrize("machine", [QueueMachine, SortedQueueMachine])
def test_queue_under_any_operations_equals_a_plain_list(machine: type[QueueMachine]) -> None:
    """After any sequence of operations queue and list hold and offer the same requests."""
    run_state_machine_as_test(
        machine,
        settings=settings(derandomize=True, deadline=None, max_examples=50, stateful_step_count=30),
    )


def test_request_preempted_after_it_ran_is_not_passed_over() -> None:
    """Only those that could not run are; one that ran and came back stands at the front."""
    queue, requests = _queue(4, max_taken_per_scan=2)
    queue.start_scan()
    queue.take(requests[0])
    queue.take(requests[1])
    queue.add_first(requests[1])
    queue.start_scan()
    assert queue.next_candidate() is requests[1]
