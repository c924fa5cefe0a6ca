# SPDX-License-Identifier: Apache-2.0
"""WorkPool against a plain model: nothing is lost, nothing lent twice, holders' results count."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hygen_vllm.fleet.work_pool import MOST_DEATHS, MOST_FAILURES, Work, WorkPool
from hygen_vllm.lane.admission_order import OrderRules
from hygen_vllm.lane.offline_queue import LaneKey, QueueRules

LEASE_S = 5.0
WORKERS = st.sampled_from("abc")


def pool_of(*ids, rules=None, hashes=()):
    pool = WorkPool(LEASE_S, rules)
    for request_id in ids:
        pool.add(Work(request_id, f"content {request_id}", LaneKey(hashes=hashes)), 0.0)
    return pool


def ids(works):
    return [work.request_id for work in works]


class PoolMachine(RuleBasedStateMachine):
    """Workers that take, finish, fall silent, come back, leave and give back."""

    @initialize(by_prefix=st.booleans())
    def start(self, by_prefix):
        self.pool = pool_of(rules=QueueRules(OrderRules(by_prefix=by_prefix)))
        self.now_s = 0.0
        self.waiting, self.lent, self.heard_s = set(), {}, {}
        self.failures = {}
        self.next_id = 0

    @rule(count=st.one_of(st.integers(1, 8), st.integers(60, 200)), family=st.integers(0, 3))
    def add(self, count, family):
        for _ in range(count):
            labels = LaneKey(tenant=str(family % 2), hashes=(family, (family, self.next_id)))
            self.pool.add(Work(self.next_id, None, labels), self.now_s)
            self.waiting.add(self.next_id)
            self.failures[self.next_id] = 0
            self.next_id += 1

    @rule(worker=WORKERS, most=st.integers(0, 150))
    def take(self, worker, most):
        taken = ids(self.pool.take(worker, most, self.now_s))
        self.heard_s[worker] = self.now_s
        assert len(taken) == len(set(taken)) <= most
        assert set(taken) <= self.waiting
        self.waiting -= set(taken)
        self.lent.setdefault(worker, set()).update(taken)

    @rule(worker=WORKERS, data=st.data())
    def done(self, worker, data):
        request_id = data.draw(st.integers(0, self.next_id))
        holds = request_id in self.lent.get(worker, ())
        assert holds == self.pool.done(worker, request_id, 10.0)
        if holds:
            self.lent[worker].discard(request_id)

    @rule(data=st.data())
    def cancel(self, data):
        places = [self.waiting, *self.lent.values()]
        request_id = data.draw(st.integers(0, self.next_id))
        is_open = any(request_id in place for place in places)
        assert is_open == self.pool.cancel(request_id)
        for place in places:
            place.discard(request_id)

    @rule(worker=WORKERS, data=st.data())
    def give_back(self, worker, data):
        if self.lent.get(worker):
            request_id = data.draw(st.sampled_from(sorted(self.lent[worker])))
            self.lent[worker].discard(request_id)
            self.failures[request_id] += 1
            waits_again = self.failures[request_id] < MOST_FAILURES
            assert waits_again == self.pool.give_back(worker, request_id)
            if waits_again:
                self.waiting.add(request_id)

    @rule(worker=WORKERS, data=st.data())
    def reconcile(self, worker, data):
        has = sorted(self.lent.get(worker, ()))
        doing = data.draw(st.sets(st.sampled_from(has))) if has else set()
        self.waiting |= set(has) - doing
        if worker in self.lent:
            self.lent[worker] = doing
        self.pool.reconcile(worker, doing)

    @rule(worker=WORKERS)
    def leave(self, worker):
        self.waiting |= self.lent.pop(worker, set())
        self.heard_s.pop(worker, None)
        self.pool.leave(worker)

    @rule(seconds=st.floats(0.0, 7.0))
    def wait(self, seconds):
        self.now_s += seconds
        silent = [name for name, at in self.heard_s.items() if self.now_s - at > LEASE_S]
        lost = set()
        for name in silent:
            del self.heard_s[name]
            lost |= self.lent.pop(name, set())
        given_up = set(ids(self.pool.expire(self.now_s)))
        assert given_up <= lost
        self.waiting |= lost - given_up

    @invariant()
    def nothing_is_lost(self):
        if hasattr(self, "pool"):
            self.pool.check_invariants()
            assert len(self.waiting) == self.pool.num_waiting
            assert {n: len(has) for n, has in self.lent.items()} == self.pool.workers
            assert len(self.pool) == len(self.waiting) + sum(map(len, self.lent.values()))

    def teardown(self):
        if not hasattr(self, "pool"):
            return
        for worker in [*self.pool.workers]:
            self.pool.leave(worker)
        turns = 2 * len(self.pool) + 2
        for _ in range(turns):
            for work in self.pool.take("z", 200, self.now_s):
                assert self.pool.done("z", work.request_id, 1.0)
        assert 0 == len(self.pool), "somebody was never lent"


TestPool = PoolMachine.TestCase
TestPool.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, derandomize=True, database=None
)


def test_neighbours_are_taken_together():
    """Each of two workers gets one family."""
    pool = WorkPool(LEASE_S, QueueRules(OrderRules()))
    for i in range(40):
        pool.add(Work(i, None, LaneKey(hashes=(i % 2, (i % 2, i)))), 0.0)
    for worker in "ab":
        assert 1 == len({request_id % 2 for request_id in ids(pool.take(worker, 20, 1.0))})


def test_what_a_worker_had_that_left_is_next():
    """Before what came later, and nobody is blamed."""
    pool = pool_of(1, 2, 3)
    assert [1, 2] == ids(pool.take("a", 2, 0.0))
    pool.leave("a")
    assert [1, 2, 3] == ids(pool.take("b", 3, 6.0))


def test_what_a_silent_worker_had_is_lent_alone():
    """It may be what ended the worker; whoever has it gets nothing else until it is done."""
    pool = pool_of(1, 2, 3)
    assert [1, 2] == ids(pool.take("a", 2, 0.0))
    assert [] == pool.expire(LEASE_S)
    assert [] == pool.expire(LEASE_S + 0.1)
    assert [1] == ids(pool.take("b", 3, 6.0))
    assert [] == pool.take("b", 3, 6.0)
    assert [2] == ids(pool.take("c", 3, 6.0))
    assert pool.done("b", 1, 1.0)
    assert [3] == ids(pool.take("b", 3, 6.0))


def test_worker_that_is_heard_of_again_was_only_silent():
    """It stood still for a while: nobody is suspected any more, and what it had is done once."""
    pool = pool_of(1, 2, 3)
    pool.take("a", 2, 0.0)
    pool.expire(6.0)
    assert [1] == ids(pool.take("b", 3, 6.0))
    assert {2, 3} == set(ids(pool.take("a", 3, 7.0)))
    assert not pool.done("a", 1, 1.0), "it holds it no more"
    assert pool.done("b", 1, 1.0)


def test_poison_takes_two_workers_and_nobody_with_it():
    """Twenty neighbours are served, it is given up, for good."""
    pool = pool_of("poison", *range(20))
    num_workers, given_up, served, now_s = 0, [], [], 0.0
    while len(pool):
        worker = f"worker-{num_workers}"
        taken = ids(pool.take(worker, 32, now_s))
        if "poison" in taken:
            num_workers += 1
            now_s += LEASE_S + 1
            given_up += ids(pool.expire(now_s))
            continue
        for request_id in taken:
            assert pool.done(worker, request_id, 1.0)
            served.append(request_id)
    assert (MOST_DEATHS, ["poison"]) == (num_workers, given_up)
    assert list(range(20)) == sorted(served)


def test_suspect_gets_its_turn_where_all_workers_are_busy():
    """One of them gets nothing more until it is free for it; the others go on."""
    pool = pool_of(*range(100))
    assert 1 == len(pool.take("dead", 1, 0.0))
    for worker in "ab":
        pool.take(worker, 2, 0.0)
    for worker in "ab":
        pool.take(worker, 0, 4.0)
    pool.expire(6.0)
    for now_s in range(6, 20):
        for worker in "ab":
            pool.done(worker, next(iter(pool.lent(worker)), None), 1.0)
            pool.take(worker, max(0, 2 - len(pool.lent(worker))), float(now_s))
    assert 0 not in ids(pool._known.values())
    assert 0 == len(pool._suspects)


def test_taking_nothing_is_a_sign_of_life():
    """A worker without room keeps what it has."""
    pool = pool_of(1)
    pool.take("a", 1, 0.0)
    pool.take("a", 0, 4.0)
    pool.expire(8.0)
    assert [1] == list(pool.lent("a"))


def test_result_counts_of_who_holds_the_work_alone():
    """Another's may be the answer to something else."""
    pool = pool_of(1)
    assert not pool.done("a", 1, 5.0), "nobody has it"
    pool.take("a", 1, 0.0)
    assert not pool.done("b", 1, 5.0)
    assert [True, False] == [pool.done("a", 1, 5.0), pool.done("a", 1, 5.0)]


def test_work_that_no_worker_can_do_is_given_up():
    """After some have tried."""
    pool = pool_of(1)
    for number in range(MOST_FAILURES):
        assert [1] == ids(pool.take("a", 1, 0.0))
        assert (number + 1 < MOST_FAILURES) == pool.give_back("a", 1)
    assert (0, []) == (len(pool), pool.take("d", 1, 0.0))


def test_work_that_nobody_wants_any_more_is_not_given_up():
    """It was cancelled while a worker waited before it gave it back."""
    pool = pool_of(1)
    pool.take("a", 1, 0.0)
    pool.cancel(1)
    assert pool.give_back("a", 1)


def test_workers_that_are_gone_are_forgotten():
    """A pool lives for months, and replicas have names of their own."""
    pool = pool_of()
    for number in range(300):
        pool.add(Work(number, None), float(10 * number))
        pool.take(f"w{number}", 1, float(10 * number))
        pool.expire(10.0 * number + 6.0)
        pool.cancel(number)
    pool.expire(1e6)
    assert not pool._silent
    assert not pool._workers


def test_id_is_there_once():
    """Its result could be told from no other."""
    pool = pool_of(1)
    with pytest.raises(ValueError, match="already"):
        pool.add(Work(1, None), 0.0)
