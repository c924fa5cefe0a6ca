# SPDX-License-Identifier: Apache-2.0
"""Offline requests that lack something others have: they start in the end, and hold up nobody."""

import pytest
from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.request import RequestStatus
from vllm.v1.structured_output.request import StructuredOutputRequest

from hygen_vllm.cost.learner import CostLearner
from hygen_vllm.cost.step_cost import StepCost
from hygen_vllm.lab.bare_scheduler import Limits, make_request, make_scheduler
from hygen_vllm.lane.offline_queue import NO_ROOM_S
from tests.support.classes import HYGEN
from tests.support.clocks import STEP_S, SteppingClock
from tests.support.fake_engine import FakeEngine
from tests.support.kv_transfer import storing, write_loaded

pytestmark = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
MAX_WAIT_S = 200 * STEP_S


def tokens_of(number, length):
    return [(number * 131 + i * 3) % 1000 for i in range(length)]


def offline(name, number, length=12, max_tokens=4, tenant="", **options):
    return make_request(
        f"offline-{name}",
        tokens_of(number, length),
        slo_class="offline",
        max_tokens=max_tokens,
        extra_args={"tenant": tenant},
        **options,
    )


def engine_of(is_async, hygen=None, **limits):
    hygen = {"mode": "off", "offline_max_wait_s": MAX_WAIT_S, **(hygen or {})}
    scheduler = make_scheduler(HYGEN[is_async], Limits(**limits), hygen, clock=SteppingClock())
    return FakeEngine(scheduler, depth=2 if is_async else 1)


class OnlineLoad:
    """Keeps two requests in an engine that hold half to three quarters of its 200 KV blocks."""

    def __init__(self, engine):
        self.engine = engine
        self.count = 0

    def step(self):
        scheduler = self.engine.scheduler
        here = sum(r.request_id.startswith("online") for r in scheduler.running)
        for _ in range(2 - here - scheduler.hygen.queues.num_online()):
            request = make_request(
                f"online-{self.count}", tokens_of(self.count, 200), max_tokens=100
            )
            self.engine.add(request)
            self.count += 1
        self.engine.step()


@pytest.mark.parametrize("order", ["prefix", "fcfs"])
def test_large_request_does_not_hold_up_small_ones(is_async, order):
    """Online leaves no room for it, whatever others do; they go before it, and it goes once it can.

    The small ones of another tenant, and of its own.
    """
    limits = {"num_blocks": 200, "max_num_seqs": 8, "max_num_batched_tokens": 64}
    engine = engine_of(is_async, {"offline_order": order}, max_model_len=512, **limits)
    load = OnlineLoad(engine)
    for _ in range(10):
        load.step()
    engine.add(offline("large", 50, length=460, tenant="a"))
    for number in range(40):
        engine.add(offline(f"{number}", 100 + number, tenant="ab"[number % 2]))
    for _ in range(1200):
        load.step()
    small = {f"offline-{number}" for number in range(40)}
    assert small <= engine.finished
    assert "offline-large" not in engine.finished
    engine.run()
    assert "offline-large" in engine.finished


def test_large_request_starts_in_the_end_among_small_ones_without_number(is_async):
    """Where they alone are in its way they wait for it, once it has waited as long as it may."""
    engine = engine_of(is_async, num_blocks=60, max_num_seqs=8, max_num_batched_tokens=64)
    engine.add(make_request("online-0", [1, 2, 3], max_tokens=2))
    count = 0
    for step in range(1200):
        while engine.scheduler.hygen.queues.num_offline() < 6:
            engine.add(offline(f"{count}", count, length=20, max_tokens=3 + count % 9))
            count += 1
        if step == 20:
            engine.add(offline("large", 5000, length=200, tenant="a"))
        engine.step()
        if engine.outputs.get("offline-large"):
            break
    assert engine.outputs["offline-large"]
    assert step * STEP_S < 20 * STEP_S + 2.5 * MAX_WAIT_S


@pytest.mark.parametrize("order", ["prefix", "fcfs"])
@pytest.mark.parametrize("max_num_seqs", [4, 16])
def test_other_adapter_gets_its_turn(is_async, order, max_num_seqs):
    """One LoRA slot, and a stream for another adapter of which some run at every moment."""
    engine = engine_of(is_async, {"offline_order": order}, max_loras=1, max_num_seqs=max_num_seqs)
    count = 0
    for step in range(1500):
        while engine.scheduler.hygen.queues.num_offline() < 4:
            lengths = {"length": 8, "max_tokens": 3 + (count * 7) % 11}
            engine.add(offline(f"a{count}", count, lora=1, **lengths))
            count += 1
        if step == 5:
            engine.add(offline("b", 5000, lora=2))
        engine.step()
        if engine.outputs.get("offline-b"):
            break
    assert engine.outputs["offline-b"]
    assert step * STEP_S < 2 * MAX_WAIT_S
    before = len(engine.finished)
    for _ in range(100):
        engine.step()
    assert len(engine.finished) > before, "the others go on"


def test_clients_without_number_leave_a_tenant_its_share(is_async):
    """Each of their requests is of another tenant, as a client may write it."""
    engine = engine_of(is_async, max_num_seqs=4, max_num_batched_tokens=64)
    for number in range(40):
        engine.add(offline(f"victim-{number}", number, tenant="victim"))
    for step in range(3000):
        if engine.scheduler.hygen.queues.num_offline() < 60:
            engine.add(offline(f"{step}", 100 + step, tenant=f"tenant-{step}"))
        engine.step()
    assert {f"offline-victim-{number}" for number in range(40)} <= engine.finished


def test_one_that_fits_but_for_the_watermark_hides_nobody(is_async):
    """vLLM keeps a share of all blocks free when it admits a request while others run."""
    engine = engine_of(
        is_async,
        num_blocks=200,
        max_num_seqs=8,
        max_num_batched_tokens=256,
        max_model_len=700,
        scheduler_options={"watermark": 0.2},
    )
    engine.add(make_request("online-0", tokens_of(0, 300), max_tokens=400))
    for _ in range(4):
        engine.step()
    engine.add(offline("large", 1, 400))
    for number in range(4):
        engine.add(offline(f"small-{number}", 10 + number))
    for _ in range(round((NO_ROOM_S + 4 * STEP_S) / STEP_S) + 40):
        engine.step()
    assert {f"offline-small-{number}" for number in range(4)} <= engine.finished
    assert 4 == engine.scheduler.hygen.load_report.num_started


@pytest.mark.parametrize("min_chunk", [16, 512])
def test_loaded_request_needs_no_room_for_more_than_it_has_to_compute(is_async, min_chunk):
    """It has its prompt but for some tokens; new requests beside it take what is free."""
    engine = engine_of(
        is_async,
        {"min_chunk_tokens": min_chunk},
        prefix_caching=False,
        kv_transfer=storing(100),
        num_blocks=100,
        max_num_seqs=8,
        max_num_batched_tokens=256,
        max_model_len=512,
    )
    store, worker = engine.scheduler.connector, engine.worker
    engine.add(offline("loaded", 1, 40))
    engine.step()
    assert {"offline-loaded"} == store.loads.keys()
    engine.add(make_request("online-0", tokens_of(300, 100), max_tokens=200))
    store.get_num_new_matched_tokens = lambda *_: (0, False)
    execute = worker.execute

    def execute_and_load(output):
        result = execute(output)
        for load in store.loads.values():
            write_loaded(worker, load, len(load.block_ids))
        result.kv_connector_output = store.finished([*store.loads])
        worker.execute = execute
        return result

    worker.execute = execute_and_load
    for _ in range(12):
        engine.step()
    assert "offline-loaded" in engine.finished


def test_online_request_that_waits_for_its_grammar_costs_offline_work_nothing(is_async):
    """It does not run, so nothing delays it."""
    schedules = []
    for has_blocked in (False, True):
        limits = {"num_blocks": 2000, "max_num_seqs": 64, "max_num_batched_tokens": 512}
        engine = engine_of(is_async, {"mode": "slo"}, **limits)
        engine.scheduler.hygen.learner = CostLearner(StepCost(0.01, 1e-5, 0.0, 0.0, 1e-5, 0.0, 0.0))
        for number in range(60):
            engine.add(make_request(f"online-{number}", tokens_of(number, 40), max_tokens=12))
            for _ in range(6):
                engine.step()
        engine.run()
        before = len(engine.schedules)
        if has_blocked:
            blocked = make_request("online-blocked", tokens_of(500, 20), max_tokens=4)
            params = StructuredOutputsParams(regex=".*")
            blocked.structured_output_request = StructuredOutputRequest(params=params)
            blocked.status = RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR
            engine.add(blocked)
        for number in range(40):
            engine.add(offline(f"{number}", 100 + number, 100, max_tokens=100))
        for _ in range(40):
            engine.step()
        schedules.append(engine.schedules[before:])
    assert schedules[0] == schedules[1]
