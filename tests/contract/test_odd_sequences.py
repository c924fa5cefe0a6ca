# SPDX-License-Identifier: Apache-2.0
"""Requests and events in combinations that are rare: none of them ends a step with an exception."""

import dataclasses
import random
from dataclasses import replace

import pytest
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.outputs import KVConnectorOutput, ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from hygen_vllm.cost.learner import CostLearner
from hygen_vllm.cost.step_cost import StepCost
from hygen_vllm.engine import arrivals as online_arrivals
from hygen_vllm.lab.bare_scheduler import Limits, block_hasher, make_request, make_scheduler
from hygen_vllm.step.gate import LatencyGate
from tests.support.classes import HYGEN, STOCK
from tests.support.fake_engine import FakeEngine, expected_tokens
from tests.support.kv_transfer import offloading, storing, write_loaded
from tests.support.scheduler_laws import check_places

pytestmark = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


def tokens_of(number, length):
    return [(number * 131 + i * 3) % 1000 for i in range(length)]


def offline(name, number, length, max_tokens=4, **options):
    return make_request(
        f"offline-{name}",
        tokens_of(number, length),
        slo_class="offline",
        max_tokens=max_tokens,
        **options,
    )


@pytest.mark.parametrize("depth", [2, 3])
def test_priorities_without_number_beside_a_grammar(is_async, depth):
    """One waits for its grammar while others of 40 priorities come, run, are preempted and end."""
    limits = Limits(policy="priority", num_blocks=60, max_num_seqs=4, max_num_batched_tokens=64)
    engine = FakeEngine(
        make_scheduler(HYGEN[is_async], limits, {"mode": "off"}), depth=depth if is_async else 1
    )
    params = SamplingParams(
        max_tokens=5,
        structured_outputs=StructuredOutputsParams(json='{"type":"object"}'),
        extra_args={"slo_class": "offline"},
    )
    hasher = block_hasher(4)
    engine.outputs["json"] = []
    engine.scheduler.add_request(
        Request("json", [1, 2, 3, 4, 5, 6, 7, 8], params, None, priority=-1, block_hasher=hasher)
    )
    for number in range(40):
        engine.add(offline(number, number, 20, max_tokens=24, priority=number))
    for step in range(300):
        if step % 12 == 8:
            engine.add(make_request(f"on-{step}", tokens_of(step, 60), max_tokens=6, priority=0))
        engine.step()
    assert len(engine.finished) > 20


@pytest.mark.parametrize(("num_spec", "min_chunk"), [(3, 1), (3, 16), (20, 16)])
def test_last_token_that_vllm_padded_is_granted_whole_or_not_at_all(is_async, num_spec, min_chunk):
    """With speculative decoding a cached prompt comes as a decode; the budget fits a part of it."""
    limits = Limits(
        num_blocks=300,
        max_num_batched_tokens=128,
        num_speculative_tokens=num_spec,
        max_model_len=512,
    )
    settings = {"latency_budget_s": 1.0, "min_chunk_tokens": min_chunk}
    scheduler = make_scheduler(HYGEN[is_async], limits, settings)

    def step():
        """Serve without speculation: each request whose prompt is computed makes a token."""
        output = scheduler.schedule()
        ids = list(output.num_scheduled_tokens)
        places = {request_id: place for place, request_id in enumerate(ids)}
        sampled = [[] if scheduler.requests[i].is_prefill_chunk else [7] for i in ids]
        result = ModelRunnerOutput(req_ids=ids, req_id_to_index=places, sampled_token_ids=sampled)
        scheduler.update_from_output(output, result)
        return output.num_scheduled_tokens

    scheduler.add_request(offline("first", 1, 41, max_tokens=2))
    while scheduler.has_unfinished_requests():
        step()
    scheduler.add_request(make_request("online", tokens_of(2, 12), max_tokens=200))
    for _ in range(4):
        step()
    granted = set()
    for number in range(1, 60):
        scheduler.hygen.learner = CostLearner(StepCost(0.001, 1e-4, 0, 0, 1e-4, 0, 0))
        budget_s = 0.001 + 1e-4 * number
        scheduler.hygen.gate = dataclasses.replace(scheduler.hygen.gate, limit_s=budget_s)
        name = f"again-{number}"
        scheduler.add_request(offline(name, 1, 41, max_tokens=2))
        granted.add(step().get(f"offline-{name}", 0))
        scheduler.finish_requests(f"offline-{name}", RequestStatus.FINISHED_ABORTED)
    assert {0, 1 + num_spec} <= granted, "others had to compute a part of the prompt"


@pytest.mark.parametrize(
    "hygen", [{"latency_budget_s": 1e-6}, {"slos": ["tbt_p99=0.001ms", "ttft_mean=+1%"]}, {}]
)
def test_offline_request_whose_kv_load_failed_holds_up_nobody(is_async, hygen):
    """It has no KV any more; there is no time for it, and online requests come and are served."""
    transfer = {**offloading(1 << 20), "kv_load_failure_policy": "recompute"}
    limits = Limits(num_blocks=60, max_num_seqs=8, kv_transfer=transfer)
    scheduler = make_scheduler(HYGEN[is_async], limits, hygen)
    engine = FakeEngine(scheduler, depth=2 if is_async else 1)
    for number in range(40):  # prices and statistics are known then
        engine.add(make_request(f"warm-{number}", tokens_of(700 + number, 12), max_tokens=6))
        engine.run()
    engine.add(offline("first", 1, 40))
    engine.run()
    scheduler.reset_prefix_cache()
    again = offline("again", 1, 40)
    engine.add(again)
    engine.add(make_request("online-0", tokens_of(300, 8), max_tokens=30))
    for _ in range(50):
        engine.step()
        if again.status == RequestStatus.WAITING_FOR_REMOTE_KVS:
            break
    assert again.status == RequestStatus.WAITING_FOR_REMOTE_KVS
    end = engine.worker.offloading.end

    def failing(output):
        found = end(output)
        if again.request_id in (found.finished_recving or ()):
            return replace(found, failed_recving={again.request_id})
        return found

    engine.worker.offloading.end = failing
    scheduler.connector.get_num_new_matched_tokens = lambda request, n: (0, False)
    engine.add(make_request("online-long", tokens_of(399, 8), max_tokens=40))
    for _ in range(4):
        engine.step()
        check_places(scheduler)
    for number in range(1, 4):
        engine.add(make_request(f"online-{number}", tokens_of(300 + number, 8), max_tokens=5))
    for _ in range(40):
        engine.step()
    assert {f"online-{number}" for number in range(1, 4)} <= engine.finished
    engine.run()
    assert again.request_id in engine.finished


def loading(engine):
    """Let an engine with a KvStore load for ever; return a function that ends all loads there are.

    They end with the next step.
    """
    store, execute, ended = engine.scheduler.connector, engine.worker.execute, []

    def execute_and_load(output):
        result = execute(output)
        if ended:
            for name in ended:
                write_loaded(engine.worker, store.loads[name], len(store.loads[name].block_ids))
            result.kv_connector_output = store.finished(ended)
            ended.clear()
        return result

    engine.worker.execute = execute_and_load
    return lambda: ended.extend(store.loads)


@pytest.mark.parametrize(("length", "max_tokens"), [(43, 5), (28, 12)], ids=["starts", "grows"])
def test_online_request_gets_the_blocks_that_an_offline_one_has_loaded(
    is_async, length, max_tokens
):
    """Whether it starts or grows: it waits for a load under way, and then for nobody."""
    limits = Limits(num_blocks=18, prefix_caching=False, kv_transfer=storing(100))
    scheduler = make_scheduler(HYGEN[is_async], limits, {"min_chunk_tokens": 4})
    engine = FakeEngine(scheduler, depth=2 if is_async else 1)
    store = scheduler.connector
    finish_loads = loading(engine)
    engine.add(offline("loaded", 1, 40))
    engine.step()
    assert {"offline-loaded"} == store.loads.keys()
    finish_loads()
    engine.step()
    store.get_num_new_matched_tokens = lambda request, n: (0, False)
    online = make_request("online-0", tokens_of(300, length), max_tokens=max_tokens)
    engine.add(online)
    for _ in range(max_tokens + 4):
        engine.step()
    assert "online-0" in engine.finished
    assert 0 == online.num_preemptions
    engine.run()
    assert "offline-loaded" in engine.finished
    assert expected_tokens(tokens_of(1, 40), 4) == engine.outputs["offline-loaded"]


FULL = {
    "slots": {"max_num_seqs": 2, "num_blocks": 400},
    "adapters": {"max_num_seqs": 4, "num_blocks": 400, "max_loras": 1},
    "blocks": {"num_blocks": 66},
    "slots while new ones are paused": {"max_num_seqs": 2, "num_blocks": 400},
}


@pytest.mark.parametrize("full", FULL)
def test_online_request_that_has_loaded_runs_at_once_whatever_offline_ones_hold(is_async, full):
    """They took the last slot, the LoRA slot or all blocks while it was loading."""

    def steps_to_run(with_offline):
        limits = Limits(prefix_caching=False, kv_transfer=storing(100), **FULL[full])
        scheduler = make_scheduler(HYGEN[is_async], limits, {"mode": "off"})
        engine = FakeEngine(scheduler, depth=2 if is_async else 1)
        finish_loads = loading(engine)
        loras = (1, 2) if limits.max_loras else (0, 0)
        prompt = tokens_of(300, 40)
        online = make_request("online-0", prompt, slo_class="online", max_tokens=8, lora=loras[0])
        engine.add(online)
        engine.step()
        assert {"online-0"} == scheduler.connector.loads.keys()
        scheduler.connector.get_num_new_matched_tokens = lambda request, n: (0, False)
        for number in range(4 if with_offline else 0):
            engine.add(offline(number, number, 20, max_tokens=200, lora=loras[1]))
        pool, num_steps = scheduler.kv_cache_manager.block_pool, 30
        while num_steps or (full == "blocks" and with_offline and pool.get_num_free_blocks()):
            num_steps = max(0, num_steps - 1)
            engine.step()
        if "paused" in full:
            scheduler.set_pause_state(PauseState.PAUSED_NEW)
        finish_loads()
        count = 0
        while online.status != RequestStatus.RUNNING and count < 20:
            engine.step()
            count += 1
        scheduler.set_pause_state(PauseState.UNPAUSED)
        engine.run()
        assert expected_tokens(prompt, 8) == engine.outputs["online-0"]
        assert 0 == online.num_preemptions
        assert (5 if with_offline else 1) == len(engine.finished)
        return count

    assert steps_to_run(False) == steps_to_run(True)


def session(number, length):
    return make_request(
        "online-session",
        tokens_of(number, length),
        slo_class="online",
        max_tokens=4,
        resumable=True,
    )


def between_turns(is_async, num_blocks):
    """Return an engine, one request of which waits for the second turn of its user."""
    scheduler = make_scheduler(HYGEN[is_async], Limits(num_blocks=num_blocks), {"mode": "off"})
    engine = FakeEngine(scheduler, depth=2 if is_async else 1)
    engine.add(session(1, 20))
    while len(engine.outputs["online-session"]) < 4:
        engine.step()
    status = scheduler.requests["online-session"].status
    assert status == RequestStatus.WAITING_FOR_STREAMING_REQ
    return engine


def test_next_turn_of_a_session_gets_the_blocks_of_offline_requests(is_async):
    """Its first token comes as soon as without them."""

    def steps_to_answer(with_offline):
        engine = between_turns(is_async, num_blocks=120)
        pool = engine.scheduler.kv_cache_manager.block_pool
        for number in range(3 if with_offline else 0):
            engine.add(offline(number, 10 + number, 40, max_tokens=400))
        while with_offline and pool.get_num_free_blocks() > 30:
            engine.step()
        request = engine.scheduler.requests["online-session"]
        engine.scheduler.add_request(session(2, 200))
        count = 0
        while len(engine.outputs["online-session"]) == 4 and count < 40:
            engine.step()
            count += 1
        while len(engine.outputs["online-session"]) < 8:
            engine.step()
        assert 0 == request.num_preemptions
        return count, engine.outputs["online-session"]

    assert steps_to_answer(False) == steps_to_answer(True)


@pytest.mark.parametrize("limits", [{}, {"max_num_seqs": 4}, {"max_loras": 2}, {"num_blocks": 80}])
def test_sessions_get_the_same_tokens_in_each_step_as_without_offline_requests(is_async, limits):
    """Turns come while others run, wait or think; offline requests fill whatever is free."""
    rng = random.Random(5)
    plans = []
    for number in range(26):
        kind = ("session", "online", "offline")[min(number // 3, 2)]
        options = {
            "slo_class": "offline" if kind == "offline" else "online",
            "resumable": kind == "session",
            "lora": number % 3 if "max_loras" in limits else 0,
        }
        for _ in range(4 if kind == "session" else 1):
            prompt = tokens_of(rng.randrange(999), rng.randrange(4, 60))
            options["max_tokens"] = rng.randrange(2, 60 if kind == "offline" else 12)
            plans.append((rng.randrange(90), f"{kind}-{number}", prompt, {**options}))

    def serve(cls, classes):
        scheduler = make_scheduler(cls[is_async], Limits(prefix_caching=False, **limits))
        engine = FakeEngine(scheduler, depth=2 if is_async else 1)
        online_tokens = []
        for step in range(200):
            for at, name, prompt, options in plans:
                if at == step and options["slo_class"] in classes:
                    engine.outputs.setdefault(name, [])
                    scheduler.add_request(make_request(name, prompt, **options))
            output = engine.step()
            tokens = output.num_scheduled_tokens if output else {}
            online_tokens.append({r: n for r, n in tokens.items() if r[:7] != "offline"})
        return online_tokens

    assert serve(STOCK, {"online"}) == serve(HYGEN, {"online", "offline"})


def test_nobody_is_preempted_for_a_next_turn_that_would_not_fit_without_them(is_async):
    """An online request holds the blocks that it lacks; it has them when that one ends."""
    engine = between_turns(is_async, num_blocks=57)
    engine.add(make_request("online-long", tokens_of(5, 100), slo_class="online", max_tokens=40))
    engine.add(offline("short", 9, 8, max_tokens=20))
    for _ in range(6):
        engine.step()
    engine.scheduler.add_request(session(2, 120))
    while len(engine.outputs["online-session"]) == 4:
        engine.step()
    assert "online-long" in engine.finished
    while "offline-short" not in engine.finished:
        engine.step()
    assert 0 == engine.num_preempted


def test_offline_requests_that_have_loaded_take_no_slot_from_an_online_one(is_async):
    """Two run, three more have loaded, and an online request comes: the slot made free is its."""
    limits = Limits(max_num_seqs=2, prefix_caching=False, kv_transfer=storing(100))
    scheduler = make_scheduler(HYGEN[is_async], limits, {"mode": "off"})
    engine = FakeEngine(scheduler, depth=2 if is_async else 1)
    finish_loads = loading(engine)
    for number in range(5):
        engine.add(offline(f"{number}", number, 20, max_tokens=30))
    engine.step()
    assert 5 == len(scheduler.connector.loads)
    finish_loads()
    for _ in range(4):
        engine.step()
    assert 2 == len(scheduler.running)
    scheduler.connector.get_num_new_matched_tokens = lambda request, n: (0, False)
    engine.add(make_request("online-0", tokens_of(300, 8), max_tokens=5))
    engine.step()
    assert "online-0" in engine.schedules[-1]
    engine.run()
    assert 6 == len(engine.finished)


@pytest.mark.parametrize("short_of", ["slots", "blocks"])
def test_offline_requests_that_have_loaded_at_once_leave_room_for_an_online_one(is_async, short_of):
    """There is room for it and for one of them: the others go on in later steps."""
    few = {"max_num_seqs": 3} if short_of == "slots" else {"num_blocks": 45}
    limits = Limits(prefix_caching=False, kv_transfer=storing(100), **few)
    scheduler = make_scheduler(HYGEN[is_async], limits, {"mode": "off"})
    engine = FakeEngine(scheduler, depth=2 if is_async else 1)
    finish_loads, find = loading(engine), scheduler.connector.get_num_new_matched_tokens
    scheduler.connector.get_num_new_matched_tokens = lambda request, n: (0, False)
    engine.add(offline("first", 1, 20, max_tokens=60))
    engine.step()
    scheduler.connector.get_num_new_matched_tokens = find
    for number in range(3):
        engine.add(offline(f"{number}", 2 + number, 40, max_tokens=30))
    for _ in range(3):
        engine.step()
    assert 2 <= len(scheduler.connector.loads)
    finish_loads()
    engine.step()
    scheduler.connector.get_num_new_matched_tokens = lambda request, n: (0, False)
    while len(scheduler.running) > 1 or not len(scheduler.kv_holding_waiting):
        engine.step()
    engine.add(make_request("online-0", tokens_of(300, 8), max_tokens=5))
    engine.step()
    assert "online-0" in engine.schedules[-1]
    engine.run()
    assert 5 == len(engine.finished)


def test_request_whose_load_failed_loads_again_only_when_there_is_time(is_async):
    """Its next load is a start like any other: the budget of the step is asked first."""
    limits = Limits(num_blocks=60, prefix_caching=False, kv_transfer=storing(100))
    scheduler = make_scheduler(HYGEN[is_async], limits, {"mode": "off"})
    scheduler.hygen.learner = CostLearner(StepCost(0.01, 1e-5, 0.0, 1e-4, 0.0, 0.0, 0.0))
    engine = FakeEngine(scheduler, depth=2 if is_async else 1)
    store, execute = scheduler.connector, engine.worker.execute
    found = {"offline-again": (36, True), "online-0": (0, False)}
    store.get_num_new_matched_tokens = lambda request, n: found[request.request_id]
    engine.add(offline("again", 1, 40))
    engine.step()
    assert {"offline-again"} == store.loads.keys()
    engine.add(make_request("online-0", tokens_of(300, 8), max_tokens=40))
    engine.step()

    def execute_and_fail(output):
        result = execute(output)
        result.kv_connector_output = KVConnectorOutput(
            finished_recving={"offline-again"}, failed_recving={"offline-again"}
        )
        store.loads.clear()
        engine.worker.execute = execute
        return result

    open_gate, scheduler.hygen.gate = scheduler.hygen.gate, LatencyGate("fixed", 0.0101)
    engine.worker.execute = execute_and_fail
    for _ in range(10):
        engine.step()
    assert {} == store.loads, "there is no time for it"
    scheduler.hygen.gate = open_gate
    engine.step()
    assert {"offline-again"} == store.loads.keys()


def test_burst_that_shares_a_prefix_is_looked_at_once_for_each_request(is_async, monkeypatch):
    """However many come at once, and however long the prefix: what each takes is added up."""
    counts = []
    num_held = online_arrivals.Hits.num_held

    def counted(hits, *arguments):
        counts.append(1)
        return num_held(hits, *arguments)

    monkeypatch.setattr(online_arrivals.Hits, "num_held", counted)
    burst, prefix = 64, tokens_of(1, 400)
    limits = Limits(
        max_num_seqs=128, max_num_batched_tokens=4096, max_model_len=600, num_blocks=1000
    )
    scheduler = make_scheduler(HYGEN[is_async], limits, {"mode": "off"})
    engine = FakeEngine(scheduler, depth=2 if is_async else 1)
    engine.add(make_request("online-first", [*prefix, 1], max_tokens=90))
    engine.add(offline("one", 9, 40, max_tokens=90))
    for _ in range(6):
        engine.step()
    for number in range(burst):
        engine.add(make_request(f"online-{number}", [*prefix, number, 3], max_tokens=5))
    counts.clear()
    engine.step()
    assert sum(name.startswith("online") for name in engine.schedules[-1]) > burst
    assert len(counts) <= 6 * burst


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_step_and_report_look_at_a_part_of_a_long_queue(is_async, policy, monkeypatch):
    """What thousands of waiting online requests hold is told by some of them."""
    num_waiting, looked_at = 3000, []
    limits = Limits(policy=policy, max_num_seqs=4, num_blocks=20_000)
    scheduler = make_scheduler(HYGEN[is_async], limits, {})
    engine = FakeEngine(scheduler, depth=2 if is_async else 1)
    engine.add(offline("one", 9, 40, max_tokens=400))
    for number in range(num_waiting):
        engine.add(make_request(f"online-{number}", tokens_of(number, 20), max_tokens=200))
    engine.step()
    num_tokens = Request.num_tokens.fget

    def counted(request):
        looked_at.append(request)
        return num_tokens(request)

    monkeypatch.setattr(Request, "num_tokens", property(counted))
    for _ in range(16):
        engine.step()
    report = scheduler.hygen.load_report.now()
    assert len(looked_at) < num_waiting
    assert num_waiting == report.num_online
    waiting = 20 * scheduler.hygen.queues.num_online()
    assert waiting <= report.online_prefill_tokens <= waiting + 20 * 4
