# SPDX-License-Identifier: Apache-2.0
"""A request whose prompt is made late is scheduled as one whose prompt was there."""

import random
from operator import attrgetter

import pytest

from hygen_vllm.lab.bare_scheduler import Limits, block_hasher, make_request, make_scheduler
from hygen_vllm.lab.simulator.lazy_request import LazyRequest, quick_hash, sampling_params
from hygen_vllm.lab.simulator.virtual_engine import VirtualClock, VirtualEngine
from hygen_vllm.lab.workloads.arrivals import Arrival
from hygen_vllm.lab.workloads.prompt_tokens import SharedBlocks
from tests.support.classes import HYGEN, STOCK

ASYNC = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
KINDS = pytest.mark.parametrize("kind", ["stock", "stock priority", "hygen"])
LIMITS = {"block_size": 16, "max_model_len": 2048, "max_num_batched_tokens": 256}


class Schedules:
    """An observer that keeps the tokens of each step and how often somebody was preempted."""

    def __init__(self):
        self.steps = []
        self.num_preempted = 0

    def made(self, step):
        self.steps.append(dict(step.output.num_scheduled_tokens))
        self.num_preempted += len(step.output.preempted_req_ids or ())

    def completed(self, step, outputs):
        pass


def lazy(name, arrival, number, slo_class):
    return LazyRequest(
        name,
        arrival,
        number,
        block_size=LIMITS["block_size"],
        hasher=block_hasher(LIMITS["block_size"], quick_hash),
        sampling_params=sampling_params(slo_class, arrival.output_tokens),
        priority=int(slo_class == "offline"),
    )


def ordinary(name, arrival, number, slo_class):
    return make_request(
        name,
        arrival.token_ids(number),
        slo_class=slo_class,
        max_tokens=arrival.output_tokens,
        block_size=LIMITS["block_size"],
        priority=int(slo_class == "offline"),
        arrival_time=arrival.time_s,
    )


def engine_of(kind, is_async, observer=None, **limits):
    cls = (HYGEN if kind == "hygen" else STOCK)[is_async]
    policy = "priority" if kind == "stock priority" else "fcfs"
    clock = VirtualClock()
    clocks = {"clock": clock, "wall_clock": clock} if kind == "hygen" else {}
    scheduler = make_scheduler(cls, Limits(**LIMITS, policy=policy, **limits), **clocks)
    return VirtualEngine(
        scheduler, clock, lambda work, begins_s: 1.0, 1 + is_async, observer=observer
    )


def serve(kind, is_async, make, workload):
    """Serve a workload, each request added before the step of its time; return what was seen."""
    seen = Schedules()
    engine = engine_of(kind, is_async, seen, num_blocks=120, max_num_seqs=12)
    waiting = sorted(workload, key=lambda item: item[1].time_s)
    for turn in range(2000):
        while waiting and waiting[0][1].time_s <= turn:
            engine.add(make(*waiting.pop(0)))
        if not (waiting or engine.has_work):
            return seen
        if engine.has_work:
            engine.turn()
    raise AssertionError(f"not finished: {engine.scheduler.requests}")


def mixed_workload(seed):
    """Return (name, request, number, class), half of the prompts with shared beginnings."""
    rng = random.Random(seed)
    items = []
    for number in range(24):
        shared = SharedBlocks((number % 3, 10 + number % 2, 20)) if rng.random() < 0.5 else None
        slo_class = rng.choice(["online", "offline"])
        lengths = rng.randrange(10, 1100), rng.randrange(1, 40)
        arrival = Arrival(float(rng.randrange(40)), *lengths, shared)
        items.append((f"{slo_class}-{number}", arrival, number, slo_class))
    return items


@ASYNC
@KINDS
def test_schedule_of_lazy_requests_is_that_of_ordinary_ones(kind, is_async):
    """Step by step the same tokens, through prefix hits, preemptions and recomputation."""
    workload = mixed_workload(seed=4)
    expected = serve(kind, is_async, ordinary, workload)
    assert expected.num_preempted > 0
    prompts = sum(arrival.prompt_tokens for _, arrival, _, _ in workload)
    computed = sum(n for step in expected.steps for n in step.values() if n > 1)
    assert computed < 0.95 * prompts, "some of it was in the prefix cache"
    assert expected.steps == serve(kind, is_async, lazy, workload).steps


@ASYNC
@KINDS
def test_prompt_is_unmade_while_its_request_waits(kind, is_async):
    """Only requests that have come to their turn have tokens; a backlog is only lengths."""
    engine = engine_of(kind, is_async, max_num_seqs=2)
    if hasattr(engine.scheduler, "hygen"):
        engine.scheduler.hygen.prefix_of = attrgetter("shared_prefix")
    requests = [lazy(f"offline-{i:02}", Arrival(0.0, 100, 9), i, "offline") for i in range(12)]
    for request in requests:
        engine.add(request)
    for _ in range(5):
        engine.turn()
    assert [True, True] == [request._is_made for request in requests[:2]]
    assert not any(request._is_made for request in requests[3:])
    while engine.has_work:
        engine.turn()
    assert all(request._is_made and request.is_finished() for request in requests)


def test_lazy_request_has_the_tokens_of_its_arrival():
    """What it makes is what the workload says, and its output comes behind it."""
    arrival = Arrival(3.0, 40, 5, SharedBlocks((8,)))
    request = lazy("online-0", arrival, 0, "online")
    assert (40, 40, 0) == (request.num_tokens, request.num_prompt_tokens, request.num_output_tokens)
    assert 2 == len(request.block_hashes)
    assert arrival.token_ids(0) == list(request.all_token_ids)
    for token in (1, 2, 3):
        request.append_output_token_ids(token)
    request.append_output_token_ids([4, 5, 6, 7, 8])
    assert [*arrival.token_ids(0), *range(1, 9)] == list(request.all_token_ids)
    assert list(range(1, 9)) == list(request.output_token_ids)
    assert 3 == len(request.block_hashes)


def test_lazy_requests_share_the_hashes_of_equal_blocks_only():
    """The same tokens have the same hash, also in a request of another number."""
    shared = Arrival(0.0, 40, 1, SharedBlocks((8,)))
    own = Arrival(0.0, 40, 1)
    first, second = (lazy(f"a-{i}", shared, i, "online").block_hashes for i in range(2))
    third, fourth = (lazy(f"b-{i}", own, i, "online").block_hashes for i in range(2))
    assert first == second
    assert not set(third) & set(first)
    assert not set(third) & set(fourth)
