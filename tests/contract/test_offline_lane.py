# SPDX-License-Identifier: Apache-2.0
"""The offline lane in a real scheduler: which requests start together, and what they leave."""

import itertools
from collections import Counter

import pytest

from hygen_vllm.engine.step_builder import ORDERING_SHARE
from hygen_vllm.lab.bare_scheduler import Limits, make_request, make_scheduler
from hygen_vllm.lane.offline_queue import ORDER_S
from tests.support.classes import HYGEN
from tests.support.clocks import STEP_S, SteppingClock
from tests.support.fake_engine import FakeEngine, expected_tokens

pytestmark = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
BLOCK = 4


def engine_of(is_async, hygen=None, clock=lambda: 0.0, **limits):
    hygen = {"mode": "off", **(hygen or {})}
    scheduler = make_scheduler(HYGEN[is_async], Limits(**limits), hygen, clock=clock)
    return FakeEngine(scheduler, depth=2 if is_async else 1)


def tokens_of(family, number, shared=16, own=8):
    return [(family * 131 + i) % 1000 for i in range(shared)] + [
        (number * 37 + i * 7 + 500) % 1000 for i in range(own)
    ]


def offline(family, number, max_tokens=2, tenant=None, **options):
    extra_args = None if tenant is None else {"tenant": tenant}
    return make_request(
        f"offline-{family}-{number}",
        tokens_of(family, number),
        slo_class="offline",
        max_tokens=max_tokens,
        extra_args=extra_args,
        **options,
    )


def online_sharer(family):
    """Return an online request that begins as the family does."""
    tokens = [*tokens_of(family, 0, own=0), 5, 6, 7]
    return make_request("online-0", tokens, slo_class="online", max_tokens=2)


def num_cached(engine, request):
    """Prompt tokens of a request that are in the prefix cache now."""
    return engine.scheduler.kv_cache_manager.get_computed_blocks(request)[1]


def order_of_starts(engine):
    """Serve everything; return the ids in the order in which they first ran."""
    engine.run()
    ids = itertools.chain.from_iterable(engine.schedules)
    return list(dict.fromkeys(ids))


def shuffled(num_families, num_each, **options):
    pairs = [(f, n) for n in range(num_each) for f in range(num_families)]
    return [offline(f, n, **options) for f, n in pairs]


def families(ids):
    return [request_id.split("-")[1] for request_id in ids]


def test_sharers_start_together(is_async):
    """Three families that came in turn run one after the other; every token is right."""
    engine = engine_of(is_async, max_num_seqs=2)
    requests = shuffled(3, 5)
    for request in requests:
        engine.add(request)
    names = families(order_of_starts(engine))
    assert 3 == len(list(itertools.groupby(names)))
    for request in requests:
        prompt = list(request.prompt_token_ids)
        assert expected_tokens(prompt, 2) == engine.outputs[request.request_id]


def test_first_come_first_served_is_available(is_async):
    """Setting offline_order."""
    engine = engine_of(is_async, {"offline_order": "fcfs"}, max_num_seqs=1)
    for request in shuffled(3, 3):
        engine.add(request)
    assert ["0", "1", "2"] * 3 == families(order_of_starts(engine))


@pytest.mark.parametrize("identity", ["lora", "cache_salt"])
def test_equal_tokens_of_another_identity_are_no_sharers(is_async, identity):
    """What vLLM's block hashes tell apart shares nothing: LoRA adapter, cache salt."""
    limits = {"max_loras": 2, "max_num_seqs": 2} if identity == "lora" else {"max_num_seqs": 1}
    engine = engine_of(is_async, **limits)
    for number in range(6):
        options = {identity: 1 + number % 2} if identity == "lora" else {identity: f"s{number % 2}"}
        engine.add(offline(0, number, **options))
    numbers = [int(i.split("-")[2]) % 2 for i in order_of_starts(engine)]
    assert [0, 0, 0, 1, 1, 1] == numbers


def test_request_that_waited_too_long_starts_next(is_async):
    """Setting offline_max_wait_s, on the scheduler's clock."""
    now_s = [0.0]
    hygen = {"offline_max_wait_s": 50.0}
    engine = engine_of(is_async, hygen, clock=lambda: now_s[0], max_num_seqs=1)
    for number in range(3):
        engine.add(offline(0, number))
    engine.step()
    engine.add(offline(9, 0))
    while engine.step() and "offline-9-0" not in engine.schedules[-1]:
        now_s[0] += 1.0
        engine.add(offline(0, 20 + len(engine.schedules)))
    assert 50.0 < now_s[0] <= 55.0
    engine.run()


@pytest.mark.parametrize(("weights", "share"), [({}, 0.5), ({"a": 3}, 0.75)])
def test_tenants_are_served_by_their_weights(is_async, weights, share):
    """Tokens within a tenth while both have work, however many requests they have."""
    engine = engine_of(is_async, {"tenant_weights": weights}, max_num_seqs=4)
    for number in sorted(range(500), key=lambda number: (number % 100, number)):
        tenant, lengths = ("a", 9) if number < 300 else ("b", 5)
        engine.add(offline(number, number, tenant=tenant, max_tokens=2 + number % lengths))
    served = Counter()
    tenant_of = {r: "a" if int(r.split("-")[2]) < 300 else "b" for r in engine.outputs}
    for _ in range(250):
        engine.step()
    for request_id in engine.finished:
        served[tenant_of[request_id]] += 24 + len(engine.outputs[request_id])
    waiting = Counter(tenant_of[r.request_id] for r in engine.scheduler.waiting)
    assert min(waiting["a"], waiting["b"]) > 0
    assert share == pytest.approx(served["a"] / served.total(), rel=0.1)
    engine.run()


def test_preempted_request_goes_on_before_new_ones(is_async):
    """With the tokens that it had made."""
    engine = engine_of(is_async, max_num_seqs=3)
    for number in range(6):
        engine.add(offline(number, number, max_tokens=20))
    for _ in range(8):
        engine.step()
    engine.add(make_request("online", tokens_of(50, 0), slo_class="online", max_tokens=3))
    output = engine.step()
    (victim,) = output.preempted_req_ids
    made = len(engine.outputs[victim])
    while victim not in engine.schedules[-1]:
        engine.step()
    assert made <= len(engine.outputs[victim])
    assert not {f"offline-{n}-{n}" for n in (3, 4, 5)} & set().union(*engine.schedules)
    engine.run()
    number = int(victim.split("-")[1])
    assert expected_tokens(tokens_of(number, number), 20) == engine.outputs[victim]


def test_request_that_the_gate_refuses_keeps_its_place(is_async):
    """vLLM 0.33 takes it out and puts it back: it does not come before a preempted one."""
    scheduler = engine_of(is_async).scheduler
    waiting = scheduler.waiting
    refused, preempted = offline(0, 0), offline(1, 0)
    for request in (refused, preempted):
        scheduler.add_request(request)
    waiting.remove_request(preempted)
    waiting.start_step(offline_is_open=True, now_s=0.0)
    assert refused is waiting.peek_request()
    waiting.offline_is_open = False
    assert refused is waiting.pop_request()
    waiting.prepend_requests([refused])
    assert 1 == len(waiting)
    waiting.prepend_request(preempted)
    waiting.start_step(offline_is_open=True, now_s=0.0)
    assert [preempted, refused] == [waiting.pop_request() for _ in range(2)]


def test_finished_offline_requests_do_not_wash_out_the_prefix_cache(is_async):
    """What online left is still cached after many times the cache in offline work."""
    prompt = tokens_of(77, 0, shared=40)
    engine = engine_of(is_async, num_blocks=60, max_num_seqs=2)
    engine.add(make_request("online-0", prompt, slo_class="online", max_tokens=2))
    engine.run()
    for number in range(60):
        engine.add(offline(number, number))
    engine.run()
    again = make_request("online-1", prompt, slo_class="online", max_tokens=2)
    assert num_cached(engine, again) >= 40


def test_prefix_that_somebody_waits_for_is_kept(is_async):
    """A finished request leaves what its sharers want, and nothing else."""
    engine = engine_of(is_async, num_blocks=200, max_num_seqs=1)
    engine.add(offline(1, 0))
    engine.add(offline(1, 1))
    engine.add(offline(2, 0))
    engine.add(offline(3, 0))
    while "offline-1-0" not in engine.finished:
        engine.step()
    assert 16 == num_cached(engine, offline(1, 9))
    assert 16 == num_cached(engine, offline(1, 0))
    engine.run()
    assert 0 == num_cached(engine, offline(1, 9))


def test_last_of_several_sharers_takes_the_prefix_with_it(is_async):
    """Also where the others came while the first one ran."""
    engine = engine_of(is_async, num_blocks=200, max_num_seqs=4)
    engine.add(offline(9, 0))
    engine.run()
    for number in range(3):
        engine.add(offline(1, number, max_tokens=6))
        engine.step()
    engine.run()
    assert 0 == num_cached(engine, offline(1, 9))


def test_fcfs_order_leaves_everything_as_stock_vllm_does(is_async):
    """Nobody knows there who waits for what: the prefix is cached when its next sharer comes."""
    engine = engine_of(is_async, {"offline_order": "fcfs"}, num_blocks=200, max_num_seqs=1)
    for request in shuffled(3, 2):
        engine.add(request)
    engine.run()
    assert [20] * 6 == [num_cached(engine, request) for request in shuffled(3, 2)]


def test_what_online_left_and_offline_shared_is_still_there(is_async):
    """A prompt that both classes begin with, computed by online, outlives its offline sharers."""
    engine = engine_of(is_async, num_blocks=200, max_num_seqs=2)
    engine.add(online_sharer(1))
    engine.run()
    for number in range(5):
        engine.add(offline(1, number))
        engine.run()
    assert 16 == num_cached(engine, offline(1, 9))
    assert 16 == num_cached(engine, offline(1, 3))


def test_what_offline_left_and_online_wanted_is_kept_from_then_on(is_async):
    """Once an online request came for what was forgotten, it is online's, too."""
    engine = engine_of(is_async, num_blocks=200, max_num_seqs=2)
    engine.add(offline(1, 0))
    engine.run()
    assert 0 == num_cached(engine, offline(1, 9))
    engine.add(online_sharer(1))
    engine.run()
    for number in range(400):
        engine.add(offline(1, number))
        engine.run()
        assert 16 == num_cached(engine, offline(1, 999))
    assert 16 == num_cached(engine, offline(1, 399))


def test_offline_requests_that_go_on_where_others_ended_find_it_cached(is_async):
    """The second turn of a conversation is a surprise, the third one is not."""
    engine = engine_of(is_async, num_blocks=200)
    prompt = tokens_of(1, 0, shared=24)
    hits = []
    for turn in range(4):
        request = make_request(f"offline-{turn}", prompt, slo_class="offline", max_tokens=8)
        hits.append(num_cached(engine, request))
        engine.add(request)
        engine.run()
        prompt = prompt + engine.outputs[f"offline-{turn}"] + [(turn + i) % 1000 for i in range(8)]
    assert 0 == hits[0] == hits[1]
    assert hits[2] >= 40
    assert hits[3] >= 56


def test_offline_requests_leave_room_for_the_output_of_those_that_run(is_async):
    """They start only where all that run can end, so none is preempted for another's output."""
    engine = engine_of(is_async, num_blocks=61, max_num_seqs=16)
    for number in range(16):
        engine.add(offline(number, number, max_tokens=40))
    engine.run()
    assert 0 == engine.num_preempted
    assert max(map(len, engine.schedules)) >= 3


def test_offline_request_that_needs_all_blocks_starts_when_it_is_alone(is_async):
    """Whatever is reserved, it is not refused for ever."""
    engine = engine_of(is_async, {}, num_blocks=41)
    for number in range(4):
        engine.add(make_request(f"online-{number}", tokens_of(number, 3), max_tokens=8))
        engine.step()
    prompt = [(i * 7) % 1000 for i in range(100)]
    engine.add(make_request("offline", prompt, slo_class="offline", max_tokens=40))
    engine.run()
    assert expected_tokens(prompt, 40) == engine.outputs["offline"]


def test_thousands_of_requests_that_come_at_once_are_all_served(is_async):
    """They are put in order while others run."""
    engine = engine_of(is_async, max_num_seqs=32)
    for request in shuffled(40, 50, max_tokens=1):
        engine.add(request)
    engine.run()
    assert 2000 == len(engine.finished)
    assert 0 == len(engine.scheduler.waiting)


def engine_with_a_backlog(is_async, count, max_tokens=2, **options):
    """Return an engine that runs an online request, to which a backlog has just come."""
    engine = engine_of(is_async, **options)
    engine.add(make_request("online-0", [1] * 8, max_tokens=400))
    for _ in range(4):
        engine.step()
    for number in range(count):
        engine.add(offline(number, number, max_tokens=max_tokens))
    return engine


def test_putting_a_backlog_in_order_takes_a_fiftieth_of_the_steps(is_async):
    """A thousand requests come at once; however long steps are, their order takes its share."""
    clock = SteppingClock()
    engine = engine_with_a_backlog(is_async, 1000, clock=clock, num_blocks=2000)
    waiting = engine.scheduler.waiting.offline
    started_s = clock.now_s
    while waiting.num_new:
        engine.step()
    passed_s = clock.now_s - started_s
    assert 1000 * ORDER_S == pytest.approx(ORDERING_SHARE * passed_s, rel=0.1)


def test_batch_alone_fills_every_slot_in_its_first_step(is_async):
    """Nobody waits for the step: what could start is put in order first."""
    engine = engine_of(is_async, max_num_seqs=64, max_num_batched_tokens=8192, num_blocks=2000)
    for number in range(500):
        engine.add(offline(number, number))
    assert 64 == len(engine.step().num_scheduled_tokens)


def test_order_is_timed_by_the_clock_of_the_scheduler(is_async):
    """Where putting one in order takes a millisecond, that is what fifty milliseconds allow."""
    clock = SteppingClock()
    engine = engine_with_a_backlog(is_async, 40, max_tokens=200, clock=clock, max_num_seqs=2)
    queue = engine.scheduler.waiting.offline
    key = queue._key

    def slow_key(request):
        clock.now_s += 0.001
        return key(request)

    queue._key = slow_key
    while queue.num_new > 35:
        engine.step()
    num_steps = 0
    while queue.num_new > 25:
        engine.step()
        num_steps += 1
    expected = 10 * 0.001 / (ORDERING_SHARE * STEP_S)
    assert 0.8 * expected <= num_steps <= 1.2 * expected
