# SPDX-License-Identifier: Apache-2.0
"""What the gate lets through in a step, and whose prices it takes. Virtual time throughout."""

from dataclasses import replace

import pytest
from vllm.v1.request import RequestStatus

from hygen_vllm.config import ConfigError
from hygen_vllm.cost.composition import StepComposition
from hygen_vllm.cost.learner import CostLearner
from hygen_vllm.cost.profile import Profile, save_profile
from hygen_vllm.cost.step_cost import StepCost
from hygen_vllm.engine.identity import engine_info
from hygen_vllm.lab.bare_scheduler import Limits, make_request, make_scheduler
from hygen_vllm.step.grant import Refusal
from tests.support.classes import HYGEN
from tests.support.fake_engine import FakeEngine, expected_tokens
from tests.support.virtual_device import CPU, LIMITS, VirtualDevice


def prompt_of(i, num_tokens):
    return [(i * 131 + j * 7) % 1000 for j in range(num_tokens)]


def profile_of_this_engine(folder, **changes):
    """Return the folder of a profile with the prices of CPU for the engine of LIMITS."""
    engine = engine_info(make_scheduler(HYGEN[False], LIMITS).vllm_config)
    save_profile(Profile(replace(engine, **changes), "measured", CPU), folder)
    return str(folder)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device": "A100"}, "is for device A100, not "),
        ({"dtype": "bfloat16"}, "is for dtype bfloat16, not float16; "),
        ({"tensor_parallel": 2}, "is for tensor parallel size 2, not 1; "),
        ({"pipeline_parallel": 2}, "is for pipeline parallel size 2, not 1; "),
        ({"architecture": "Gpt"}, "is for model Gpt, not LlamaForCausalLM, 1 layers, "),
    ],
)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_profile_of_another_engine_is_refused_before_the_first_step(
    tmp_path, is_async, changes, reason
):
    """Prices of another model, number format, parallelism or device never reach the gate."""
    hygen = {"profile": profile_of_this_engine(tmp_path, **changes)}
    with pytest.raises(ConfigError) as caught:
        make_scheduler(HYGEN[is_async], LIMITS, hygen)
    assert reason in str(caught.value)
    assert "hygen profile" in str(caught.value)


def test_profile_gives_the_prices_from_the_first_step(tmp_path):
    """With prices from a file the first prefill already fills the budget and keeps it."""
    hygen = {"latency_budget_s": 0.2, "profile": profile_of_this_engine(tmp_path)}
    device = VirtualDevice(HYGEN[False], CPU, hygen, noise=0.0)
    device.add(make_request("offline-0", prompt_of(0, 1000), slo_class="offline"))
    device.step()
    seconds, _, num_offline = device.steps[0]
    assert seconds <= 0.2
    assert CPU.largest_chunk(StepComposition(), 0, 1000, 0.2 - CPU.base_s) == num_offline


def test_outputs_are_those_of_the_model_under_a_tight_gate():
    """Skipping and tiny chunks change no token."""
    device = VirtualDevice(HYGEN[False], CPU, {"latency_budget_s": 0.04})
    for i in range(20):
        slo_class = ["online", "offline"][i % 2]
        prompt = prompt_of(i, 80)
        device.add(make_request(f"{slo_class}-{i}", prompt, slo_class=slo_class, max_tokens=20))
    while device.scheduler.has_requests():
        device.step()
    for name, tokens in device.outputs.items():
        assert expected_tokens(prompt_of(int(name.split("-")[1]), 80), 20) == tokens


FLAT = StepCost(0.1, 0.0, 0.0, 0.0, 1e-3, 0.0, 0.0)
"""A tenth of a second a step, a millisecond a prefill token, decodes for nothing."""


def step_with_a_running_offline_prefill(is_async, latency_budget_s, max_num_batched_tokens):
    """Return the tokens and the refusals of a step with an offline prefill that runs already.

    An online prompt of 40 tokens comes before it; a new offline one of 5 tokens waits. Chunks have
    16 tokens at least, but for what is left of a prompt.
    """
    limits = Limits(max_num_batched_tokens=max_num_batched_tokens)
    hygen = {"latency_budget_s": latency_budget_s}
    scheduler = make_scheduler(HYGEN[is_async], limits, hygen, clock=lambda: 0.0)
    scheduler.hygen.learner = CostLearner(FLAT)
    engine = FakeEngine(scheduler, depth=2 if is_async else 1)
    engine.add(make_request("offline-0", prompt_of(0, 200), slo_class="offline"))
    engine.step()
    assert "offline-0" in [request.request_id for request in scheduler.running]
    engine.add(make_request("offline-1", prompt_of(1, 5), slo_class="offline"))
    engine.add(make_request("online-0", prompt_of(2, 40)))
    tokens = engine.step().num_scheduled_tokens
    return tokens, scheduler.hygen.offline_log.refusals


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_running_offline_request_refused_for_seconds_lets_no_newcomer_in(is_async):
    """10 ms are left, 16 tokens do not fit; 5 would, but they are not for who comes later."""
    tokens, refusals = step_with_a_running_offline_prefill(is_async, 0.150, 64)
    assert {"online-0": 40} == tokens
    assert {Refusal.LATENCY: 1} == refusals


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_running_offline_request_refused_for_tokens_lets_a_newcomer_in(is_async):
    """10 tokens are left, too few for a chunk but enough for a short prompt; seconds are plenty."""
    tokens, refusals = step_with_a_running_offline_prefill(is_async, 1.0, 50)
    assert {"online-0": 40, "offline-1": 5} == tokens
    assert {Refusal.TOKENS: 1} == refusals


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_running_offline_request_that_leaves_something_lets_a_newcomer_in(is_async):
    """Both fit: the one that runs is served first, and what is left goes to the next."""
    tokens, refusals = step_with_a_running_offline_prefill(is_async, 1.0, 128)
    assert {"online-0": 40, "offline-0": 72, "offline-1": 5} == tokens
    assert {} == refusals


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_running_request_that_no_step_has_the_seconds_for_keeps_others_out_for_a_while_only(
    is_async,
):
    """Its context has grown too long beside online; those that fit get their turn, then it does."""
    cost = StepCost(0.05, 1e-3, 1e-4, 1e-4, 1e-5, 0.0, 0.0)
    device = VirtualDevice(HYGEN[is_async], cost, {"latency_budget_s": 0.2}, noise=0.0)
    device.scheduler.hygen.learner = CostLearner(cost)
    device.add(make_request("offline-long", prompt_of(0, 1600), slo_class="offline", max_tokens=50))
    while not device.outputs["offline-long"]:
        device.step()
    for i in range(20):
        device.add(make_request(f"offline-{i}", prompt_of(i, 20), slo_class="offline"))
    from_s, num_online = device.now_s, 0
    while device.now_s < from_s + 60.0:
        if not any(name.startswith("online") for name in device.scheduler.requests):
            num_online += 1
            prompt = prompt_of(100 + num_online, 20)
            device.add(make_request(f"online-{num_online}", prompt, max_tokens=500))
        device.step()
        if device.now_s < from_s + 25.0:
            assert not any(device.outputs[f"offline-{i}"] for i in range(20))
    assert all(device.outputs[f"offline-{i}"] for i in range(20))
    assert len(device.outputs["offline-long"]) < 50
    device.scheduler.finish_requests(f"online-{num_online}", RequestStatus.FINISHED_ABORTED)
    while device.scheduler.requests:
        device.step()
    assert len(device.outputs["offline-long"]) == 50
    assert not device.scheduler.hygen.builder.too_long
