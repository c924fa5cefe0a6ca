# SPDX-License-Identifier: Apache-2.0
"""OfflineQueue beside a plain dictionary: nobody is lost, hidden or offered twice in a scan."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from hygen_vllm.lane.admission_order import OrderRules
from hygen_vllm.lane.offline_queue import (
    LEVELS_KEPT,
    LEVELS_SEEN,
    NO_ROOM_S,
    ORDER_S,
    ORDERED_PER_SCAN,
    PARKED_PER_SCAN,
    PAUSE_SHARE,
    SCANS_OWED,
    SET_ASIDE_SEEN,
    STUCK_S,
    TAKEN_PER_SCAN,
    LaneKey,
    OfflineQueue,
    QueueRules,
    Start,
)
from tests.unit.lane.test_prefix_tree import chain


@dataclass(eq=False)
class Request:
    request_id: int
    urgency: int = 0
    tenant: str = ""
    words: Sequence[int] = ()
    tokens: float = 10.0


def label(request: Request) -> LaneKey:
    return LaneKey(request.urgency, request.tenant, chain(request.words), request.tokens)


def queue_of(*requests: Request, by_prefix: bool = False) -> OfflineQueue[Request]:
    rules = QueueRules(OrderRules(by_prefix=by_prefix))
    queue = OfflineQueue(label, rules, clock=lambda: 0.0)
    for request in requests:
        queue.add(request, 0.0)
    return queue


def numbered(count: int) -> tuple[OfflineQueue[Request], list[Request]]:
    requests = [Request(number) for number in range(count)]
    return queue_of(*requests), requests


def scan(
    queue: OfflineQueue[Request],
    runs: Callable[[Request], bool] = lambda _: True,
    most: int = TAKEN_PER_SCAN + 1,
) -> list[int]:
    """Take what one scan offers, put back what cannot run; return the ids in order."""
    queue.start_scan(0.0)
    taken: list[Request] = []
    while len(taken) < most and (request := queue.next_candidate()) is not None:
        queue.take(request)
        taken.append(request)
    for request in taken:
        if not runs(request):
            queue.put_back(request)
    queue.check_invariants()
    return [request.request_id for request in taken]


def test_requests_of_a_scan_come_in_order_and_leave() -> None:
    """First come, first served where that is the rule."""
    queue, _ = numbered(4)
    assert [0, 1, 2, 3] == scan(queue)
    assert 0 == len(queue)
    assert [] == scan(queue)


def test_requests_are_ordered_by_prefix_where_that_is_the_rule() -> None:
    """Sharers follow each other."""
    words = ([1, 1], [2, 2], [1, 2], [2, 3])
    queue = queue_of(*(Request(i, words=w) for i, w in enumerate(words)), by_prefix=True)
    assert [0, 2, 1, 3] == scan(queue)


def test_more_urgent_requests_come_before_all_others() -> None:
    """A preempted one and one that could not run before, too."""
    queue = queue_of(Request(0, 1), Request(1, 1), Request(2, 0))
    queue.add_first(Request(10, 1))
    assert [2, 10] == scan(queue, most=2)
    assert [0] == scan(queue, runs=lambda _: False, most=1)
    queue.add(Request(3, 0), 0.0)
    assert [3, 0, 1] == scan(queue)


def test_preempted_requests_come_first_the_last_one_before_the_others() -> None:
    """They go on before any new one starts."""
    queue, _ = numbered(2)
    queue.add_first(Request(10))
    queue.add_first(Request(11))
    assert [11, 10, 0, 1] == scan(queue)


@pytest.mark.parametrize("method", ["add", "add_first", "put_back"])
def test_second_add_of_a_request_is_refused_and_changes_nothing(method: str) -> None:
    """A request is in one place at most."""
    queue, requests = numbered(3)
    arguments = (Request(1), 0.0) if method == "add" else (Request(1),)
    with pytest.raises(ValueError, match=r"^request 1 is already in the queue"):
        getattr(queue, method)(*arguments)
    assert list(queue) == requests
    queue.check_invariants()


def test_take_of_an_absent_request_is_refused() -> None:
    """What does not wait cannot be admitted."""
    queue, _ = numbered(1)
    with pytest.raises(KeyError):
        queue.take(Request(7))
    assert len(queue) == 1


def test_discard_finds_a_request_wherever_it_is() -> None:
    """New, in order, put back, preempted; once, by its id."""
    queue, requests = numbered(3)
    assert [0] == scan(queue, runs=lambda _: False, most=1)
    queue.add_first(Request(10))
    queue.add(Request(20), 0.0)
    queue.add(Request(21), 0.0)
    assert not queue.discard(Request(7))
    for number in (0, 1, 10, 20):
        assert Request(number) in queue
        assert queue.discard(Request(number))
        assert not queue.discard(Request(number))
        assert Request(number) not in queue
        queue.check_invariants()
    assert [2, 21] == [request.request_id for request in queue]
    assert [2, 21] == scan(queue)
    assert requests[2] not in queue


def test_discard_of_the_one_that_was_offered_offers_another_one() -> None:
    """An aborted request is not taken."""
    queue, requests = numbered(2)
    queue.start_scan(0.0)
    assert queue.next_candidate() is queue.next_candidate() is requests[0]
    queue.discard(requests[0])
    assert queue.next_candidate() is requests[1]


def test_number_added_under_an_old_name_is_a_new_request() -> None:
    """An aborted request's id may come again while the old one is still in the inbox."""
    queue, requests = numbered(2)
    queue.discard(requests[0])
    again = Request(0)
    queue.add(again, 0.0)
    queue.start_scan(0.0)
    assert [1, 0] == scan(queue)


def test_new_requests_are_put_in_order_a_bounded_number_in_a_scan() -> None:
    """A hundred thousand that come at once do not hold up a step."""
    queue, _ = numbered(3 * ORDERED_PER_SCAN)
    for rest in (2, 1, 0):
        queue.start_scan(0.0)
        assert rest * ORDERED_PER_SCAN == queue.num_new
    assert 3 * ORDERED_PER_SCAN == len(queue)


def test_new_requests_are_put_in_order_as_long_as_there_is_time() -> None:
    """What is allowed is used up and not exceeded, where a request takes what it is taken for."""
    queue, _ = numbered(100)
    for rest in (90, 81, 71):
        queue.start_scan(0.0, order_s=9.5 * ORDER_S)
        assert rest == queue.num_new


class SlowQueue:
    """A queue in which putting a request in order takes as many seconds as its number says."""

    def __init__(self, seconds: Sequence[float]) -> None:
        self.now_s = 0.0
        self._seconds = seconds
        self.queue = OfflineQueue(self._label, clock=lambda: self.now_s, place=lambda _: (0, ""))
        for number in range(len(seconds)):
            self.queue.add(Request(number), 0.0)

    def _label(self, request: Request) -> LaneKey:
        self.now_s += self._seconds[request.request_id]
        return label(request)

    def scan(self, order_s: float) -> int:
        """Return how many are put in order."""
        num_new = self.queue.num_new
        self.queue.start_scan(self.now_s, order_s)
        return num_new - self.queue.num_new


def test_request_that_took_long_to_be_put_in_order_is_paid_back() -> None:
    """Over many steps no more time is taken than is allowed."""
    slow = SlowQueue([0.001] * 2 + [0.1] + [0.001] * 200)
    assert [3, 0, 0, 0] == [slow.scan(0.02) for _ in range(4)]
    num_scans = 4
    while slow.queue.num_new:
        slow.scan(0.02)
        num_scans += 1
    assert 0.302 == pytest.approx(slow.now_s)
    assert slow.now_s <= 0.02 * num_scans <= slow.now_s + 0.02 + 0.001


def test_time_that_was_not_needed_is_not_kept() -> None:
    """A backlog that comes after an hour gets no more of a step than any other."""
    slow = SlowQueue([])
    for _ in range(100):
        slow.scan(1.0)
    for number in range(100):
        slow.queue.add(Request(number), 0.0)
    slow._seconds = [0.1] * 100
    assert 10 == slow.scan(0.95)


def test_pause_of_the_process_is_not_paid_back_for_ever() -> None:
    """A minute in which nothing ran costs fifty scans."""
    slow = SlowQueue([0.0001, 60.0] + [0.0001] * 1000)
    slow.scan(0.001)
    num_scans = 0
    while not slow.scan(0.001):
        num_scans += 1
    assert 40 <= num_scans <= SCANS_OWED


def test_requests_that_have_left_take_no_time() -> None:
    """Whoever comes after a backlog that was aborted is put in order in the next scans."""
    queue, requests = numbered(ORDERED_PER_SCAN + 2)
    for request in requests[:ORDERED_PER_SCAN]:
        queue.discard(request)
    queue.start_scan(0.0, order_s=1.5 * ORDER_S)
    queue.start_scan(0.0, order_s=1.5 * ORDER_S)
    assert 0 == queue.num_new


def test_as_many_are_in_order_as_have_to_be() -> None:
    """However little time there is; those that are there already count, blocked ones do not."""
    queue, requests = numbered(60)
    for least, num_new in ((10, 50), (10, 50), (30, 30)):
        queue.start_scan(0.0, order_s=0.0, least=least)
        assert num_new == queue.num_new
    for request in requests[:20]:
        queue.take(request)
        queue.put_back(request)
    queue.start_scan(0.0, order_s=0.0, least=15)
    assert 25 == queue.num_new


@pytest.mark.parametrize("late", [Request(-1, tenant="b"), Request(-1, urgency=-1)])
def test_backlog_that_is_not_in_order_yet_holds_up_no_other_tenant_and_none_more_urgent(
    late: Request,
) -> None:
    """A thousand came before it, of which a step has time to put one in order."""
    queue, _ = numbered(1000)
    queue.start_scan(0.0, order_s=0.0)
    queue.add(late, 0.0)
    for _ in range(3):
        queue.start_scan(0.0, order_s=ORDER_S)
    taken = []
    while len(taken) < 3 and (request := queue.next_candidate()) is not None:
        queue.take(request)
        taken.append(request)
    assert late in taken


def test_one_request_is_put_in_order_where_nobody_else_is() -> None:
    """However little time there is: offline work goes on."""
    slow = SlowQueue([5.0] * 3)
    for _ in range(3):
        assert 1 == slow.scan(1e-6)
        request = slow.queue.next_candidate()
        assert request is not None
        slow.queue.take(request)


def test_requests_that_could_not_run_are_offered_first_in_the_next_scan() -> None:
    """They lose nothing, and are not offered again in the same one."""
    queue, requests = numbered(4)
    queue.start_scan(0.0)
    for request in requests[:2]:
        queue.take(request)
        queue.put_back(request)
    assert queue.next_candidate() is requests[2]
    assert [0, 1, 2, 3] == scan(queue)


def test_requests_that_cannot_run_hide_nobody() -> None:
    """However many there are, a scan gets past some of them."""
    count = 5 * TAKEN_PER_SCAN
    queue, _ = numbered(count)
    queue.add(Request(count), 0.0)
    scans = 0
    while len(queue) > count:
        assert len(scan(queue, runs=lambda r: r.request_id == count)) <= TAKEN_PER_SCAN
        scans += 1
        assert scans <= count // (TAKEN_PER_SCAN - PARKED_PER_SCAN) + 1


def test_requests_that_could_not_run_take_turns() -> None:
    """PARKED_PER_SCAN of them are offered in a scan, each again once all were."""
    count = 3 * PARKED_PER_SCAN
    queue, _ = numbered(count)
    scan(queue, runs=lambda _: False)
    scan(queue, runs=lambda _: False)
    seen = [tuple(scan(queue, runs=lambda _: False)) for _ in range(6)]
    assert seen[:3] == seen[3:]
    assert set(range(count)) == {i for ids in seen for i in ids}
    assert all(len(ids) == PARKED_PER_SCAN for ids in seen)


def test_request_taken_in_an_earlier_scan_goes_to_the_front() -> None:
    """What ran since then was preempted."""
    queue, requests = numbered(3)
    assert [0] == scan(queue, most=1)
    queue.start_scan(0.0)
    queue.put_back(requests[0])
    assert [0, 1, 2] == scan(queue)


def turns(queue: OfflineQueue[Request], count: int) -> str:
    """Return whose requests are taken next."""
    queue.start_scan(0.0)
    names = []
    for _ in range(count):
        request = queue.next_candidate()
        assert request is not None
        queue.take(request)
        names.append(request.tenant)
    return "".join(names)


def tenants(**tokens: float) -> OfflineQueue[Request]:
    """Return a queue with twenty requests of each tenant, of so many tokens."""
    numbers = iter(range(1000))
    return queue_of(
        *(Request(next(numbers), 0, n, (), t) for n, t in tokens.items() for _ in range(20))
    )


def test_tenants_take_turns_by_the_tokens_of_their_requests() -> None:
    """One of thirty tokens, three of ten."""
    assert "abbbabbb" == turns(tenants(a=30.0, b=10.0), 8)


def test_finished_request_is_charged_for_what_it_had() -> None:
    """Expected ten and had forty: three turns of the other one make up for it."""
    queue = tenants(a=10.0, b=10.0)
    queue.start_scan(0.0)
    first = queue.next_candidate()
    assert first is not None
    queue.take(first)
    queue.settle(first, 40.0)
    assert "bbbba" == turns(queue, 5)
    queue.settle(Request(999), 1e9)
    assert "b" == turns(queue, 1)


def test_request_that_could_not_run_is_not_charged() -> None:
    """Its tenant is still next when it has gone."""
    queue = tenants(a=10.0, b=10.0)
    assert [0] == scan(queue, runs=lambda _: False, most=1)
    assert queue.discard(Request(0))
    assert "ab" == turns(queue, 2)


def test_preempted_request_is_charged_once() -> None:
    """Going on is no new request."""
    queue = tenants(a=10.0, b=10.0)
    queue.start_scan(0.0)
    first = queue.next_candidate()
    assert first is not None
    queue.take(first)
    queue.start_scan(0.0)
    queue.add_first(first)
    assert "abab" == turns(queue, 4)


def test_priorities_without_number_are_served_in_their_order() -> None:
    """A level that is empty for a while is none the less there for who comes back to it."""
    requests = [Request(number, urgency=number) for number in range(PARKED_PER_SCAN)]
    queue = queue_of(*requests)
    assert list(range(PARKED_PER_SCAN)) == scan(queue, runs=lambda _: False)
    assert list(range(PARKED_PER_SCAN)) == scan(queue)
    for request in reversed(requests):
        queue.add_first(request)
        queue.settle(request, 1.0)
    assert list(range(PARKED_PER_SCAN)) == scan(queue)


def test_requests_that_left_before_they_were_put_in_order_are_forgotten() -> None:
    """Nobody scans an engine without offline requests; clients come and go all the same."""
    queue, stays = queue_of(), Request(-1)
    queue.add(stays, 0.0)
    for number in range(10_000):
        request = Request(number)
        queue.add(request, 0.0)
        queue.discard(request)
    assert queue.num_new <= 2 * ORDERED_PER_SCAN
    assert [-1] == scan(queue)


# --- no room -----------------------------------------------------------------------------------

LARGE = 0
"""The number of a request that finds no room."""


class Rooms:
    """A queue whose request LARGE, the oldest one, starts when it is said."""

    def __init__(self, max_wait_s: float | None = 100.0, num_small: int = 200) -> None:
        rules = QueueRules(OrderRules(by_prefix=False, max_wait_s=max_wait_s))
        self.queue = OfflineQueue[Request](label, rules, clock=lambda: 0.0)
        self.now_s = 0.0
        for number in range(1 + num_small):
            self.queue.add(Request(number), 0.0)

    def step(self, start: Start, passed_s: float = 1.0) -> int | None:
        """Offer one request in a step, of which LARGE runs if it has room; return who started."""
        self.now_s += passed_s
        self.queue.start_scan(
            self.now_s, room=lambda r: start if r.request_id == LARGE else Start.NOW
        )
        request = self.queue.next_candidate()
        if request is None:
            return None
        if request.request_id == LARGE and start is not Start.NOW:
            self.queue.no_room(request)
            self.queue.check_invariants()
            return None
        self.queue.take(request)
        self.queue.check_invariants()
        return request.request_id


def test_request_without_room_lets_others_go_before_it() -> None:
    """After a while in which it was the first; it starts as soon as it can."""
    rooms = Rooms()
    started = [rooms.step(Start.LATER) for _ in range(20)]
    assert [None] * (int(NO_ROOM_S) + 1) == started[: int(NO_ROOM_S) + 1]
    assert list(range(1, 15)) == started[int(NO_ROOM_S) + 1 :]
    assert LARGE == rooms.step(Start.NOW)


def test_request_without_room_holds_up_nobody_for_a_moment() -> None:
    """What ends soon leaves room for who is next."""
    rooms = Rooms()
    assert [None, LARGE, 1] == [rooms.step(start) for start in (Start.LATER, Start.NOW, Start.NOW)]


def test_request_that_waits_too_long_for_room_holds_up_all_others() -> None:
    """Until those that run have left it what it needs; then they go on."""
    rooms = Rooms()
    started = [rooms.step(Start.LATER) for _ in range(120)]
    num_started = 100 - int(NO_ROOM_S) - 1
    assert list(range(1, 1 + num_started)) == [n for n in started if n is not None]
    assert [None] * 20 == started[-20:]
    assert [LARGE, 1 + num_started] == [rooms.step(Start.NOW) for _ in range(2)]


def test_request_for_which_online_leaves_no_room_holds_up_nobody() -> None:
    """However long it has waited: nothing that offline work does could help it."""
    rooms = Rooms()
    started = [rooms.step(Start.NOT) for _ in range(150)]
    assert None not in started[int(NO_ROOM_S) + 1 :]
    assert LARGE == rooms.step(Start.NOW)


def test_request_without_a_bound_of_waiting_holds_up_nobody() -> None:
    """It was asked for so."""
    rooms = Rooms(max_wait_s=None)
    assert None not in [rooms.step(Start.LATER) for _ in range(150)][int(NO_ROOM_S) + 1 :]


def test_nobody_is_held_up_again_for_a_while() -> None:
    """Else one large request after the other would run alone."""
    rooms = Rooms(num_small=400)
    for number in (-1, -2):  # more of them, that came a little later
        rooms.queue.add(Request(number), 0.0)
    started: list[int | None] = []
    for _ in range(400):
        rooms.now_s += 1.0
        rooms.queue.start_scan(
            rooms.now_s, room=lambda r: Start.LATER if r.request_id <= LARGE else Start.NOW
        )
        request = rooms.queue.next_candidate()
        if request is None:
            started.append(None)
        elif request.request_id <= LARGE:
            rooms.queue.no_room(request)
        else:
            rooms.queue.take(request)
            started.append(request.request_id)
        if started[-5:] == [None] * 5:
            break
    rooms.queue.start_scan(rooms.now_s + 1.0)
    assert rooms.queue.discard(Request(LARGE))
    assert None not in [rooms.step(Start.NOW) for _ in range(int(PAUSE_SHARE * 100.0))]


def test_one_that_cannot_run_though_it_has_room_does_not_hold_up_all_others_for_ever() -> None:
    """It lacks something else, like a grammar; vLLM puts it back."""
    rooms = Rooms()
    for _ in range(110):
        rooms.step(Start.LATER)
    rooms.now_s += 1.0
    rooms.queue.start_scan(rooms.now_s)
    request = rooms.queue.next_candidate()
    assert request is not None
    assert LARGE == request.request_id
    rooms.queue.take(request)
    rooms.queue.put_back(request)
    started = []
    for _ in range(int(PAUSE_SHARE * 100)):
        rooms.now_s += 1.0
        rooms.queue.start_scan(rooms.now_s, room=lambda _: Start.LATER)
        for _ in range(2):  # it is offered first, and put back
            request = rooms.queue.next_candidate()
            if request is None:
                continue
            rooms.queue.take(request)
            if request.request_id == LARGE:
                rooms.queue.put_back(request)
            else:
                started.append(request.request_id)
    assert len(started) >= 8


def test_only_a_few_without_room_are_looked_at_in_a_scan() -> None:
    """Each look is a look into the prefix cache."""
    rooms = Rooms(max_wait_s=None, num_small=40)
    looked_at: list[int] = []

    def none(request: Request) -> Start:
        looked_at.append(request.request_id)
        return Start.LATER

    for _ in range(400):
        looked_at.clear()
        rooms.now_s += 1.0
        rooms.queue.start_scan(rooms.now_s, room=none)
        request = rooms.queue.next_candidate()
        if request is not None:
            rooms.queue.no_room(request)
        assert len(looked_at) <= 2 * SET_ASIDE_SEEN
    assert 41 == len(rooms.queue)


@pytest.mark.parametrize("num_large", [3, 4, 40])
def test_one_with_room_starts_however_many_have_none(num_large: int) -> None:
    """After a while one is passed over a step; none of them hides one that waits for it."""
    rooms = Rooms(max_wait_s=None, num_small=0)
    small = Request(10_000)
    for number in range(1, num_large):
        rooms.queue.add(Request(number), 0.0)
    rooms.queue.add(small, 0.0)
    started: list[Request] = []
    rooms_of_step = {False: lambda _: Start.NOT}
    rooms_of_step[True] = lambda r: Start.NOW if r is small else Start.NOT
    for step in range(2 * num_large + 80):
        small_has_room = step > num_large + 60
        rooms.now_s += 1.0
        rooms.queue.start_scan(rooms.now_s, room=rooms_of_step[small_has_room])
        request = rooms.queue.next_candidate()
        if request is small and small_has_room:
            rooms.queue.take(request)
            started.append(request)
        elif request is not None:
            rooms.queue.no_room(request)
        rooms.queue.check_invariants()
    assert [small] == started


def test_those_without_room_are_passed_over_at_once_only_until_one_starts() -> None:
    """Then it is again waited for room, since what runs may leave some soon."""
    rooms = Rooms(max_wait_s=None)
    passed_over: list[int] = []
    for _ in range(int(STUCK_S) + 10):
        rooms.now_s += 1.0
        rooms.queue.start_scan(rooms.now_s, room=lambda _: Start.NOT)
        request = rooms.queue.next_candidate()
        assert request is not None
        rooms.queue.no_room(request)
        after = rooms.queue.next_candidate()
        passed_over += [request.request_id] if after is not request else []
    num_slow = int(STUCK_S / (NO_ROOM_S + 1))
    assert [*range(num_slow + 10)] == passed_over
    rooms.queue.start_scan(rooms.now_s, room=lambda _: Start.NOT)
    starts = rooms.queue.next_candidate()
    assert starts is not None
    rooms.queue.take(starts)
    rooms.queue.start_scan(rooms.now_s, room=lambda _: Start.NOT)
    waits = rooms.queue.next_candidate()
    assert waits is not None
    rooms.queue.no_room(waits)
    assert waits is rooms.queue.next_candidate()


def test_one_for_which_all_others_wait_may_leave() -> None:
    """Its client goes away; they go on."""
    rooms = Rooms()
    for _ in range(120):
        rooms.step(Start.LATER)
    rooms.now_s += 1.0
    rooms.queue.start_scan(rooms.now_s, room=lambda _: Start.NOW)
    held = rooms.queue.next_candidate()
    assert held is not None
    assert LARGE == held.request_id
    rooms.queue.discard(held)
    after = rooms.queue.next_candidate()
    assert after is not None
    assert after in rooms.queue


def test_urgencies_whose_requests_were_served_are_forgotten() -> None:
    """A client may give each request its deadline for a priority."""
    queue = queue_of()
    for number in range(300):
        request = Request(number, urgency=number)
        queue.add(request, 0.0)
        assert [number] == scan(queue)
        queue.settle(request, 3.0)
    assert len(queue._levels) <= LEVELS_KEPT + 1


def test_those_set_aside_are_looked_at_in_turn_whatever_their_urgency() -> None:
    """A few in a scan; one that has room by now is found."""
    requests = [Request(number, urgency=number) for number in range(60)]
    queue = queue_of(*requests)
    found: set[int] = set()
    looked_at: list[int] = []
    now_s, most = 0.0, 0

    def none(request: Request) -> Start:
        looked_at.append(request.request_id)
        return Start.NOT

    for _ in range(200):
        now_s += NO_ROOM_S
        looked_at.clear()
        queue.start_scan(now_s, room=none)
        most, found = max(most, len(looked_at)), found | {*looked_at}
        for _ in range(3):
            request = queue.next_candidate()
            if request is not None:
                queue.no_room(request)
        queue.check_invariants()
    assert {*range(60)} == found
    assert most <= 2 * LEVELS_SEEN


def test_preempted_request_that_has_waited_too_long_goes_before_later_ones() -> None:
    """Its time of waiting counts from when it came, not from when it was preempted."""
    rules = QueueRules(OrderRules(by_prefix=False, max_wait_s=50.0))
    queue = OfflineQueue[Request](label, rules, clock=lambda: 0.0)
    old, young = Request(0), Request(1)
    for request, now_s in ((old, 0.0), (young, 40.0)):
        queue.add(request, now_s)
        queue.start_scan(now_s)
        queue.take(request)
    for now_s, expected in ((45.0, [1, 0]), (60.0, [0, 1])):
        queue.start_scan(now_s)
        queue.add_first(old)
        queue.add_first(young)
        queue.start_scan(now_s)
        taken = []
        while (request := queue.next_candidate()) is not None:
            queue.take(request)
            taken.append(request.request_id)
        assert expected == taken


class Machine(RuleBasedStateMachine):
    """Adds, scans, aborts and preemptions in any order; the model is a dictionary."""

    @initialize(by_prefix=st.booleans(), max_wait_s=st.sampled_from((None, 0.0, 7.0)))
    def start(self, by_prefix: bool, max_wait_s: float | None) -> None:
        rules = QueueRules(OrderRules(by_prefix, max_wait_s=max_wait_s))
        self.queue = OfflineQueue[Request](label, rules, clock=lambda: 0.0)
        self.model: dict[int, Request] = {}
        self.running: dict[int, Request] = {}
        self.offered: set[int] = set()
        self.count = 0

    @rule(
        urgency=st.integers(0, 1) | st.integers(0, 40),
        tenant=st.sampled_from("ab") | st.integers(0, 200).map(str),
        words=st.lists(st.integers(0, 1), max_size=4),
    )
    def add(self, urgency: int, tenant: str, words: list[int]) -> None:
        request = Request(self.count, urgency, tenant, words, 1.0 + self.count % 5)
        self.count += 1
        self.model[request.request_id] = request
        self.queue.add(request, float(self.count))

    @rule(
        count=st.integers(0, 9),
        blocked=st.integers(0, 3),
        starts=st.lists(st.sampled_from(Start), min_size=3, max_size=3),
        passed_s=st.integers(0, 9),
    )
    def scan(
        self, count: int, blocked: int, starts: Sequence[Start] = (Start.NOW,), passed_s: int = 0
    ) -> None:
        self.count += passed_s
        self.queue.start_scan(
            float(self.count), room=lambda request: starts[request.request_id % len(starts)]
        )
        taken = []
        while len(taken) < count and (request := self.queue.next_candidate()) is not None:
            assert self.model.pop(request.request_id) is request
            self.queue.take(request)
            taken.append(request)
        for request in taken:
            if request.request_id % 4 < blocked:
                self.queue.put_back(request)
                self.model[request.request_id] = request
            else:
                self.running[request.request_id] = request
        request = self.queue.next_candidate()
        if request is not None and blocked:
            self.queue.no_room(request)

    @precondition(lambda self: self.running)
    @rule(pick=st.integers(0, 100), is_preempted=st.booleans())
    def leave(self, pick: int, is_preempted: bool) -> None:
        number = sorted(self.running)[pick % len(self.running)]
        request = self.running.pop(number)
        if is_preempted:
            self.queue.start_scan(float(self.count))
            self.queue.add_first(request)
            self.model[number] = request
        else:
            self.queue.settle(request, 3.0)

    @precondition(lambda self: self.model)
    @rule(pick=st.integers(0, 100))
    def abort(self, pick: int) -> None:
        number = sorted(self.model)[pick % len(self.model)]
        assert self.queue.discard(self.model.pop(number))

    @invariant()
    def is_like_the_model(self) -> None:
        self.queue.check_invariants()
        assert len(self.model) == len(self.queue)
        assert self.model == {request.request_id: request for request in self.queue}
        for number in range(self.count):
            assert (number in self.model) == (Request(number) in self.queue)

    def teardown(self) -> None:
        if not hasattr(self, "model"):
            return
        for _ in range(4 + len(self.model)):
            if self.model:
                self.scan(TAKEN_PER_SCAN, 0)
        assert not self.model
        assert not list(self.queue)


def test_queue_is_like_a_dictionary_whatever_happens() -> None:
    """Everybody is in it who should be, and everybody gets out."""
    run_state_machine_as_test(
        Machine,
        settings=settings(max_examples=80, stateful_step_count=40, deadline=None, derandomize=True),
    )


@pytest.mark.parametrize("num_urgencies", [1, 2, 5, 40])
def test_blocked_requests_of_many_urgencies_hide_nobody_and_come_in_turn(
    num_urgencies: int,
) -> None:
    """Those that could not run share a part of each scan, evenly over the urgencies."""
    blocked = [Request(i, i % num_urgencies) for i in range(40 * num_urgencies)]
    queue = queue_of(*blocked)
    for _ in range(2 * num_urgencies):
        scan(queue, runs=lambda _: False)
    offered: set[int] = set()
    for number in range(3 * num_urgencies):
        queue.add(Request(-1 - number, num_urgencies), 0.0)
        found = scan(queue, runs=lambda request: request.request_id < 0)
        assert -1 - number in found
        offered.update(found)
    assert {request.request_id for request in blocked} <= offered
