# SPDX-License-Identifier: Apache-2.0
"""Parts of the policy that raise: no step ends with that, and no request notices but by waiting."""

import inspect
import random
from collections import Counter

import pytest

from hygen_vllm.cost.learner import CostLearner
from hygen_vllm.engine import arrivals as online_arrivals
from hygen_vllm.engine import hook as open_step
from hygen_vllm.engine import step_builder
from hygen_vllm.engine.hook import OpenStep
from hygen_vllm.engine.kv_reserve import KvReserve
from hygen_vllm.engine.leftovers import Leftovers
from hygen_vllm.engine.make_room import RoomMaker
from hygen_vllm.engine.slo_control import SloControl
from hygen_vllm.engine.step_builder import StepBuilder
from hygen_vllm.lab.bare_scheduler import Limits, make_request, make_scheduler
from hygen_vllm.labels import ClassRule
from hygen_vllm.lane.offline_queue import OfflineQueue
from hygen_vllm.operate.faults import PolicyFaults
from hygen_vllm.step.feedback import StepFeedback
from hygen_vllm.targets.controller import TargetController
from tests.support.classes import HYGEN
from tests.support.fake_engine import FakeEngine, expected_tokens
from tests.support.scheduler_laws import check_blocks, check_empty, check_places

PARTS = [
    (ClassRule, "classify"),
    *((OfflineQueue, name) for name in ("start_scan", "next_candidate", "take", "add")),
    *((OfflineQueue, name) for name in ("add_first", "put_back", "discard", "settle")),
    *((KvReserve, name) for name in ("start_step", "blocks_to_start", "started", "left")),
    (KvReserve, "remaining_tokens"),
    *((Leftovers, name) for name in ("came", "started", "left")),
    *((OpenStep, name) for name in ("__init__", "limit")),
    *((OpenStep, name) for name in ("_limit_offline_decode", "_limit_offline_prefill")),
    *((RoomMaker, name) for name in ("make_room", "_free_blocks", "_preempt_until")),
    *((SloControl, name) for name in ("came", "started", "left", "foresee", "completed")),
    *((TargetController, name) for name in ("terms", "completed", "came")),
    (CostLearner, "observe"),
    *((StepFeedback, name) for name in ("scheduled", "completed")),
    *((step_builder, name) for name in ("chunk_caps", "expected_arrivals", "room_of_decodes")),
    (StepBuilder, "_pace"),
    (open_step, "grant_chunk"),
    (open_step, "grant_decode"),
    (online_arrivals, "is_ready"),
]


class BrokenError(Exception):
    """What a part raises that is broken on purpose."""


@pytest.fixture
def faults_are_caught(monkeypatch):
    """As in an engine."""
    monkeypatch.setattr(PolicyFaults, "are_raised", False)


def prompt_of(number):
    length = 8 + 7 * number % 40
    return [(number % 3 * 131 + i * 3) % 1000 for i in range(length)] + [number]


def serve(is_async, seed):
    """Serve requests of both classes in a small KV cache; return engine, prompts and classes."""
    limits = Limits(num_blocks=60, max_num_seqs=6, max_num_batched_tokens=48, max_loras=1)
    engine = FakeEngine(make_scheduler(HYGEN[is_async], limits, {}), depth=2 if is_async else 1)
    prompts = {}
    rng = random.Random(seed)
    for step in range(160):
        for slo_class, likely in (("online", 0.12), ("offline", 0.3)):
            if rng.random() < likely:
                name = f"{slo_class}-{step}"
                prompts[name] = prompt_of(step)
                labels = {"slo_class": slo_class, "lora": step % 3}
                engine.add(make_request(name, prompts[name], max_tokens=3 + step % 9, **labels))
        if step % 20 == 19:
            here = sorted({*prompts} & {*engine.scheduler.requests})
            for name in rng.sample(here, min(2, len(here))):
                engine.abort(name)
                del prompts[name]
        engine.step()
        check_places(engine.scheduler)
        check_blocks(engine.scheduler)
    engine.run(max_steps=20_000)
    check_empty(engine.scheduler)
    return engine, prompts


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("owner", "name"), PARTS, ids=[f"{owner.__name__}.{name}" for owner, name in PARTS]
)
def test_part_that_raises_now_and_then_costs_nobody_anything(
    owner, name, is_async, monkeypatch, faults_are_caught, caplog
):
    """All requests get all their tokens, the KV cache adds up, and the log says it once a place."""
    whole, rng, calls = getattr(owner, name), random.Random(7), Counter()

    def broken(*arguments, **options):
        calls["all"] += 1
        if rng.random() < 0.4:
            calls["broken"] += 1
            raise BrokenError(name)
        return whole(*arguments, **options)

    is_static = isinstance(inspect.getattr_static(owner, name), staticmethod)
    monkeypatch.setattr(owner, name, staticmethod(broken) if is_static else broken)
    engine, prompts = serve(is_async, seed=3)
    assert calls["broken"] > 0
    for request, prompt in prompts.items():
        num_tokens = len(engine.outputs[request])
        assert expected_tokens(prompt, num_tokens) == engine.outputs[request]
        assert 3 + int(request.split("-")[1]) % 9 == num_tokens
    faults = engine.scheduler.faults
    assert faults.num >= 1
    lines = [r for r in caplog.records if r.message.startswith("HyGen failed in its")]
    assert len(faults.counts) == len(lines)
    assert all(line.exc_info[0] is BrokenError for line in lines)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("has_online", [False, True])
@pytest.mark.parametrize(
    ("module", "name"),
    [(StepBuilder, "_pace"), (step_builder, "chunk_caps"), (RoomMaker, "make_room")],
)
def test_part_that_always_raises_leaves_online_as_with_vllm(
    is_async, has_online, module, name, monkeypatch, faults_are_caught
):
    """Offline requests wait while online ones are here; they run when nobody else does."""

    def broken(*_, **__):
        raise BrokenError

    monkeypatch.setattr(module, name, broken)
    limits = Limits(max_num_seqs=4)
    engine = FakeEngine(make_scheduler(HYGEN[is_async], limits, {}), depth=2 if is_async else 1)
    for number in range(6):
        engine.add(make_request(f"offline-{number}", prompt_of(number), slo_class="offline"))
    if has_online:
        for number in range(6):
            engine.add(make_request(f"online-{number}", prompt_of(50 + number)))
    engine.run()
    assert (12 if has_online else 6) == len(engine.finished)
    order = list(dict.fromkeys(name for step in engine.schedules for name in step))
    assert sorted(order, key=lambda name: name.startswith("offline")) == order


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("short_of", ["slots", "blocks"])
def test_part_that_always_raises_hands_back_what_offline_holds(
    is_async, short_of, monkeypatch, faults_are_caught
):
    """Online requests that come into a full engine get in, though no plan makes room for them."""
    limits = Limits(**({"max_num_seqs": 4} if short_of == "slots" else {"num_blocks": 40}))
    engine = FakeEngine(make_scheduler(HYGEN[is_async], limits, {}), depth=2 if is_async else 1)
    for number in range(12):
        prompt = prompt_of(number)
        engine.add(make_request(f"offline-{number}", prompt, slo_class="offline", max_tokens=60))
    for _ in range(10):
        engine.step()

    def broken(*_, **__):
        raise BrokenError

    monkeypatch.setattr(step_builder, "expected_arrivals", broken)
    for number in range(3):
        engine.add(make_request(f"online-{number}", prompt_of(50 + number), max_tokens=8))
    for _ in range(40):
        engine.step()
    assert {f"online-{number}" for number in range(3)} <= set(engine.finished)
    engine.run()
    assert len(engine.finished) == 15


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_preemption_that_fails_ends_no_engine(is_async, monkeypatch, faults_are_caught):
    """Where a plan fails again and again, offline requests make way one way or another."""

    def broken(*_, **__):
        raise BrokenError

    engine = FakeEngine(
        make_scheduler(HYGEN[is_async], Limits(max_num_seqs=3), {}), depth=2 if is_async else 1
    )
    for number in range(3):
        prompt = [number, 5, 7]
        engine.add(make_request(f"offline-{number}", prompt, slo_class="offline", max_tokens=9))
    for _ in range(3):
        engine.step()
    monkeypatch.setattr(StepBuilder, "_pace", broken)
    with monkeypatch.context() as patch:
        patch.setattr(HYGEN[is_async], "_preempt_request", broken)
        engine.add(make_request("online-0", [1, 2, 3], slo_class="online", max_tokens=3))
        for _ in range(4):
            engine.step()
        check_places(engine.scheduler)
    engine.run()
    assert 4 == len(engine.finished)
