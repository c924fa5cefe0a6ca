# SPDX-License-Identifier: Apache-2.0
"""The gate keeps steps short on a device whose speed it has to learn. Virtual time throughout."""

import random

import pytest

from hygen_vllm.lab.bare_scheduler import make_request
from tests.support.classes import HYGEN
from tests.support.virtual_device import CPU, GPU, VirtualDevice


def prompt_of(i, num_tokens):
    return [(i * 131 + j * 7) % 1000 for j in range(num_tokens)]


def serve(device, num_steps, online_every, seed=1):
    """Serve an offline backlog, with an online request every so many steps (0: never)."""
    rng = random.Random(seed)
    for i in range(200):
        prompt = prompt_of(i, rng.randrange(50, 400))
        device.add(make_request(f"offline-{i}", prompt, slo_class="offline", max_tokens=100))
    for step in range(num_steps):
        if online_every and step % online_every == 0:
            prompt = prompt_of(1000 + step, rng.randrange(50, 300))
            device.add(make_request(f"online-{step}", prompt, max_tokens=60))
        device.step()


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("cost", [GPU, CPU], ids=["gpu", "cpu"])
def test_fixed_budget_holds_while_the_device_is_learned(cost, is_async):
    """From the first step on, offline work hardly ever takes a step past the budget."""
    budget_s = 12 * cost.base_s if cost is CPU else 2 * cost.base_s
    device = VirtualDevice(HYGEN[is_async], cost, {"latency_budget_s": budget_s})
    serve(device, 600, online_every=12)
    gated = [s for s, online_s, n in device.steps if n and (online_s or 0) <= budget_s]
    assert sum(s > 1.25 * budget_s for s in gated) <= 0.01 * len(gated)
    assert sum(s > 1.1 * budget_s for s in gated[300:]) <= 0.02 * len(gated[300:])
    # and the budget is used: a gate that refuses everything would pass the lines above
    assert sum(s > 0.8 * budget_s for s in gated[300:]) >= 0.3 * len(gated[300:])


@pytest.mark.parametrize("num_tokens", [(30, 30), (400, 400), (10, 600)], ids=str)
@pytest.mark.parametrize("num_at_a_time", [1, 2])
@pytest.mark.parametrize("cost", [GPU, CPU], ids=["gpu", "cpu"])
def test_offline_work_is_tried_beside_online_requests_without_a_pause(
    cost, num_at_a_time, num_tokens
):
    """What a decode or a chunk adds to a step is found out, however few shared one so far."""
    settings = {"latency_budget_s": 4 * cost.base_s}
    device = VirtualDevice(HYGEN[False], cost, settings)
    rng, num_online = random.Random(5), 0
    for i in range(100):
        prompt = prompt_of(i, rng.randrange(50, 400))
        device.add(make_request(f"offline-{i}", prompt, slo_class="offline", max_tokens=100))
    for _ in range(300):
        while sum(r.startswith("online") for r in device.scheduler.requests) < num_at_a_time:
            prompt = prompt_of(1000 + num_online, rng.randint(*num_tokens))
            device.add(make_request(f"online-{num_online}", prompt, max_tokens=50))
            num_online += 1
        device.step()
    assert sum(n for _, _, n in device.steps) >= 3 * len(device.steps)


@pytest.mark.parametrize("cost", [GPU, CPU], ids=["gpu", "cpu"])
def test_default_mode_between_online_requests_keeps_steps_short(cost):
    """With offline work alone a step takes about idle_step_s, so an arrival waits no longer."""
    device = VirtualDevice(HYGEN[False], cost, {})
    device.add(make_request("online", [1, 2, 3], slo_class="online", max_tokens=1))
    serve(device, 400, online_every=0)
    steps = [s for s, _, n in device.steps[50:] if n]
    assert sum(s > 1.25 * 0.1 for s in steps) <= 0.02 * len(steps)
    assert max(steps) > 0.05


def test_default_mode_before_any_online_request_takes_full_steps():
    """Nobody is expected to wait: an engine for batch work alone is as fast as it can be."""
    device = VirtualDevice(HYGEN[False], CPU, {})
    serve(device, 100, online_every=0)
    assert max(s for s, _, _ in device.steps) > 4 * 0.1
    assert device.steps[0][0] > 4 * 0.1, "nothing has to be learned first"
