# SPDX-License-Identifier: Apache-2.0
"""Whoever holds a vLLM scheduler may use ours in its place, also where vLLM's own tests look."""

import pytest

from hygen_vllm.lab.bare_scheduler import Limits, make_request, make_scheduler
from tests.support.classes import HYGEN, STOCK
from tests.support.fake_engine import FakeEngine
from tests.support.traffic import plan_traffic

pytestmark = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


def served(scheduler, is_async):
    """Return the engine of a scheduler that has served mixed traffic, with an abort in it."""
    engine = FakeEngine(scheduler, depth=2 if is_async else 1)
    for plan in plan_traffic(3, 30, num_steps=1):
        engine.add(plan.request())
    for _ in range(5):
        engine.step()
    engine.abort(next(iter(scheduler.requests)))
    engine.run()
    return engine


def test_without_its_constructor_every_method_is_vllms(is_async):
    """Offline labels mean nothing then: the schedule and the answers are those of vLLM's class."""
    limits = Limits(num_blocks=60)
    bare = object.__new__(HYGEN[is_async])
    bare.__dict__.update(make_scheduler(STOCK[is_async], limits).__dict__)
    ours, stock = served(bare, is_async), served(make_scheduler(STOCK[is_async], limits), is_async)
    assert stock.schedules == ours.schedules
    assert stock.outputs == ours.outputs
    assert stock.num_preempted == ours.num_preempted > 0
    bare.shutdown()


def test_clock_is_given_to_the_constructor_and_stays(is_async):
    """A clock that is set later would be compared with times of the one before."""
    policy = make_scheduler(HYGEN[is_async], Limits(), clock=lambda: 7.0).hygen
    assert 7.0 == policy.clock()
    for name in ("clock", "wall_clock"):
        with pytest.raises(AttributeError, match=name):
            setattr(policy, name, lambda: 8.0)


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_waiting_requests_have_places(is_async, policy):
    """`scheduler.waiting` is a sequence like vLLM's queues: online requests, then offline ones."""
    scheduler = make_scheduler(HYGEN[is_async], Limits(policy=policy))
    waiting = scheduler.waiting
    for i in range(6):
        slo_class = ("offline", "online")[i % 2]
        scheduler.add_request(make_request(f"{slo_class}-{i}", [i], slo_class=slo_class))
    names = ["online-1", "online-3", "online-5", "offline-0", "offline-2", "offline-4"]
    in_order = [scheduler.requests[name] for name in names]
    assert in_order == [waiting[i] for i in range(6)] == [waiting[i - 6] for i in range(6)]
    assert in_order[::-1] == [*reversed(waiting)]
    assert [0, 5] == [waiting.index(request) for request in (in_order[0], in_order[5])]
    assert (1, True) == (waiting.count(in_order[4]), in_order[4] in waiting)
    for place in (6, -7):
        with pytest.raises(IndexError, match=f"queue of 6 requests has no place {place}"):
            waiting[place]
    with pytest.raises(TypeError, match="single places"):
        waiting[1:3]
