# SPDX-License-Identifier: Apache-2.0
"""Offline requests that lack something others have: they start in the end, and hold up nobody."""

import pytest

from hygen_vllm.bare_scheduler import Limits, make_request, make_scheduler
from tests.support.classes import HYGEN
from tests.support.clocks import STEP_S, SteppingClock
from tests.support.fake_engine import FakeEngine

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
        for _ in range(2 - here - scheduler.num_waiting_online()):
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
        while engine.scheduler.num_waiting_offline() < 6:
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
        while engine.scheduler.num_waiting_offline() < 4:
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
        if engine.scheduler.num_waiting_offline() < 60:
            engine.add(offline(f"{step}", 100 + step, tenant=f"tenant-{step}"))
        engine.step()
    assert {f"offline-victim-{number}" for number in range(40)} <= engine.finished
