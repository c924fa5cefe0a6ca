# SPDX-License-Identifier: Apache-2.0
"""WorkPool against a plain model: nothing is lost, nothing is lent twice, one result counts."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hygen_vllm.fleet.work_pool import Work, WorkPool
from hygen_vllm.offline_lane.admission_order import OrderRules
from hygen_vllm.offline_lane.offline_queue import Labels, QueueRules

LEASE_S, MOST_LENT = 5.0, 3
WORKERS = st.sampled_from("abc")


def pool_of(*ids, rules=None, hashes=()):
    pool = WorkPool(LEASE_S, MOST_LENT, rules)
    for request_id in ids:
        pool.add(Work(request_id, f"content {request_id}", Labels(hashes=hashes)), 0.0)
    return pool


def ids(works):
    return [work.request_id for work in works]


class PoolMachine(RuleBasedStateMachine):
    """Workers that take, finish, vanish and give back."""

    @initialize(by_prefix=st.booleans())
    def start(self, by_prefix):
        self.pool = pool_of(rules=QueueRules(OrderRules(by_prefix=by_prefix)))
        self.now_s = 0.0
        self.waiting, self.lent, self.heard_s = set(), {}, {}
        self.times_lent = {}
        self.next_id = 0

    @rule(count=st.one_of(st.integers(1, 8), st.integers(60, 200)), family=st.integers(0, 3))
    def add(self, count, family):
        for _ in range(count):
            labels = Labels(tenant=str(family % 2), hashes=(family, (family, self.next_id)))
            self.pool.add(Work(self.next_id, None, labels), self.now_s)
            self.waiting.add(self.next_id)
            self.times_lent[self.next_id] = 0
            self.next_id += 1

    @rule(worker=WORKERS, most=st.integers(0, 150))
    def take(self, worker, most):
        taken = ids(self.pool.take(worker, most, self.now_s))
        self.heard_s[worker] = self.now_s
        assert min(most, len(self.waiting)) == len(taken) == len(set(taken))
        assert set(taken) <= self.waiting
        self.waiting -= set(taken)
        self.lent.setdefault(worker, set()).update(taken)
        for request_id in taken:
            self.times_lent[request_id] += 1

    @rule(data=st.data())
    def done(self, data):
        places = [self.waiting, *self.lent.values()]
        request_id = data.draw(st.integers(0, self.next_id))
        is_open = any(request_id in place for place in places)
        assert is_open == self.pool.done(request_id, 10.0)
        for place in places:
            place.discard(request_id)

    @rule(worker=WORKERS, data=st.data())
    def give_back(self, worker, data):
        if self.lent.get(worker):
            request_id = data.draw(st.sampled_from(sorted(self.lent[worker])))
            self.lent[worker].discard(request_id)
            assert self._waits_again(request_id) == self.pool.give_back(worker, request_id)

    @rule(worker=WORKERS, data=st.data())
    def reconcile(self, worker, data):
        has = sorted(self.lent.get(worker, ()))
        doing = data.draw(st.sets(st.sampled_from(has))) if has else set()
        lost = set(has) - doing
        given_up = {request_id for request_id in lost if not self._waits_again(request_id)}
        if worker in self.lent:
            self.lent[worker] = doing
        assert given_up == set(ids(self.pool.reconcile(worker, doing)))

    @rule(seconds=st.floats(0.0, 7.0))
    def wait(self, seconds):
        self.now_s += seconds
        silent = [name for name, at in self.heard_s.items() if self.now_s - at > LEASE_S]
        given_up = set()
        for name in silent:
            del self.heard_s[name]
            lost = self.lent.pop(name, set())
            given_up |= {request_id for request_id in lost if not self._waits_again(request_id)}
        assert given_up == set(ids(self.pool.expire(self.now_s)))

    def _waits_again(self, request_id):
        if self.times_lent[request_id] < MOST_LENT:
            self.waiting.add(request_id)
        return request_id in self.waiting

    @invariant()
    def nothing_is_lost(self):
        if hasattr(self, "pool"):
            self.pool.check_invariants()
            assert len(self.waiting) == self.pool.num_waiting
            assert {n: len(has) for n, has in self.lent.items()} == self.pool.workers
            assert len(self.pool) == len(self.waiting) + sum(map(len, self.lent.values()))


TestPool = PoolMachine.TestCase
TestPool.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, derandomize=True, database=None
)


def test_neighbours_are_taken_together():
    """Each of two workers gets one family."""
    pool = WorkPool(LEASE_S, MOST_LENT, QueueRules(OrderRules()))
    for i in range(40):
        pool.add(Work(i, None, Labels(hashes=(i % 2, (i % 2, i)))), 0.0)
    for worker in "ab":
        assert 1 == len({request_id % 2 for request_id in ids(pool.take(worker, 20, 1.0))})


def test_what_a_silent_worker_had_is_next():
    """Before what came later."""
    pool = pool_of(1, 2, 3)
    assert [1, 2] == ids(pool.take("a", 2, 0.0))
    assert [] == pool.expire(LEASE_S)
    assert [] == pool.expire(LEASE_S + 0.1)
    assert [1, 2, 3] == ids(pool.take("b", 3, 6.0))


def test_taking_nothing_is_a_sign_of_life():
    """A worker without room keeps what it has."""
    pool = pool_of(1)
    pool.take("a", 1, 0.0)
    pool.take("a", 0, 4.0)
    pool.expire(8.0)
    assert [1] == list(pool.lent("a"))


def test_result_of_a_worker_that_was_given_up_counts():
    """If it is the first: it need not be computed again."""
    pool = pool_of(1)
    pool.take("a", 1, 0.0)
    pool.expire(6.0)
    assert [True, False] == [pool.done(1, 5.0), pool.done(1, 5.0)]
    assert [] == pool.take("b", 1, 6.0)


def test_work_that_ends_its_workers_is_given_up():
    """It is not lent a fourth time."""
    pool = pool_of(1)
    for worker in "abc":
        pool.take(worker, 1, 0.0)
        given_up = pool.leave(worker)
    assert [1] == ids(given_up)
    assert (0, []) == (len(pool), pool.take("d", 1, 0.0))


def test_id_is_there_once():
    """Its result could be told from no other."""
    pool = pool_of(1)
    with pytest.raises(ValueError, match="already"):
        pool.add(Work(1, None), 0.0)
