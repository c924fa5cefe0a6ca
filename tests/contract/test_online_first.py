# SPDX-License-Identifier: Apache-2.0
"""Online requests are served as if no offline request existed."""

import pytest

from hygen_vllm.lab.bare_scheduler import Limits, make_scheduler
from tests.support.classes import HYGEN, STOCK
from tests.support.fake_engine import FakeEngine, expected_tokens
from tests.support.traffic import plan_traffic

ASYNC = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
SETTINGS = {
    "plain": {},
    "few blocks": {"num_blocks": 40},
    "few slots": {"max_num_seqs": 2},
    "few tokens": {"max_num_batched_tokens": 16},
    "priority policy": {"policy": "priority", "num_blocks": 60},
    "loras": {"max_loras": 2},
    "speculative": {"num_speculative_tokens": 3, "num_blocks": 60},
    "v2 runner": {"v2_runner": True, "num_blocks": 40},
    "no chunked prefill": {
        "max_num_batched_tokens": 512,
        "scheduler_options": {"enable_chunked_prefill": False},
    },
    "chunk threshold": {
        "scheduler_options": {
            "long_prefill_token_threshold": 8,
            "long_prefill_token_threshold_adaptive": True,
        }
    },
}


def run_lockstep(engine, plans, online_only, throttle_every=0):
    """Serve plans by step number; return the tokens of the online requests in each step."""
    waiting = [p for p in plans if p.slo_class == "online" or not online_only]
    schedules = []
    for step in range(400):
        while waiting and waiting[0].step <= step:
            engine.add(waiting.pop(0).request())
        throttle = bool(throttle_every) and step % throttle_every != 0
        output = engine.step(throttle_prefills=throttle)
        tokens = output.num_scheduled_tokens if output else {}
        schedules.append({r: n for r, n in tokens.items() if r.startswith("online")})
    engine.run()
    return schedules


def limits_of(name, **more):
    return Limits(**{**SETTINGS[name], **more})


def traffic_of(name, offline_share):
    return plan_traffic(
        0,
        40,
        offline_share=offline_share,
        num_priorities=3 if name == "priority policy" else 1,
        num_loras=4 if name == "loras" else 0,
    )


@ASYNC
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(
    ("hygen", "throttle_every"),
    [({}, 0), ({"slos": ["tbt_p99=1ms"]}, 3)],
    ids=["default", "slo, throttled"],
)
def test_without_offline_the_schedule_is_stock(is_async, name, throttle_every, hygen):
    """Each step has the same tokens, blocks and preemptions as vLLM's own scheduler."""
    depth = 2 if is_async else 1
    plans = traffic_of(name, offline_share=0.0)
    stock = FakeEngine(make_scheduler(STOCK[is_async], limits_of(name)), depth)
    ours = FakeEngine(make_scheduler(HYGEN[is_async], limits_of(name), hygen), depth)
    expected = run_lockstep(stock, plans, True, throttle_every)
    assert expected == run_lockstep(ours, plans, True, throttle_every)
    assert stock.outputs == ours.outputs
    assert stock.worker.kv_cache == ours.worker.kv_cache
    assert stock.num_preempted == ours.num_preempted


@ASYNC
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(
    ("hygen", "throttle_every"),
    [
        ({"mode": "off"}, 0),
        ({"mode": "off"}, 3),
        ({"latency_budget_s": 0.05}, 3),
        ({"slos": ["tbt_mean=+20%", "ttft_p99=+20%"]}, 0),
    ],
    ids=["off", "off, throttled", "fixed, throttled", "slo"],
)
def test_online_schedule_does_not_depend_on_offline(is_async, name, throttle_every, hygen):
    """Online requests get the same tokens in the same steps with and without offline load."""
    depth = 2 if is_async else 1
    limits = limits_of(name, prefix_caching=False)
    plans = traffic_of(name, offline_share=0.6)
    alone = FakeEngine(make_scheduler(STOCK[is_async], limits), depth)
    mixed = FakeEngine(make_scheduler(HYGEN[is_async], limits, hygen), depth)
    expected = run_lockstep(alone, plans, True, throttle_every)
    assert expected == run_lockstep(mixed, plans, False, throttle_every)
    for plan in plans:
        tokens = expected_tokens(plan.prompt, plan.max_tokens)
        assert tokens == mixed.outputs[plan.request_id], plan
