# SPDX-License-Identifier: Apache-2.0
"""When a simulated run ends, and what it will not begin."""

import pytest

from hygen_vllm.cost.profile import Profile, save_profile
from hygen_vllm.lab.simulator.simulated_engine import SimulatedEngine
from hygen_vllm.lab.simulator.simulation import STUCK_S, Requests, limits_of
from hygen_vllm.lab.workloads.arrivals import Arrival
from tests.support.simulation import SimpleDevice, column, engine_of, figures, run_of
from tests.support.step_traces import COST, ENGINE

ASYNC = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


@ASYNC
def test_end_inside_a_step_leaves_its_tokens_out(is_async):
    """Steps of one second until 3.5 s: the prompt and three tokens are done, the fourth is not."""
    run = run_of(engine_of(is_async=is_async), online=[Arrival(0.0, 10, 9)], until_s=3.5)
    assert (3.5, 3, 13) == (
        run.virtual_s,
        run.log.num_steps,
        sum(column(run, "online_tokens_done")),
    )
    assert pytest.approx(13 / 3.5) == figures(run)["online"]["tokens_per_s"]
    assert run.log.records["online-0"].finished_s is None


@ASYNC
def test_end_at_a_completion_counts_its_step(is_async):
    """What completes at the last moment was done in time."""
    run = run_of(engine_of(is_async=is_async), online=[Arrival(0.0, 10, 3)], until_s=3.0)
    assert (3.0, 3, 1) == (run.virtual_s, run.log.num_steps, run.log.num_finished)


@ASYNC
def test_run_ends_when_all_is_done(is_async):
    """Sooner than asked for, at the completion of the last step."""
    run = run_of(engine_of(is_async=is_async), online=[Arrival(2.0, 10, 3)], until_s=100.0)
    assert (5.0, 1) == (run.virtual_s, run.log.num_finished)


def test_run_waits_for_what_is_still_to_come():
    """An idle engine goes on to the next arrival, or to the end if that comes first."""
    online = [Arrival(0.0, 10, 1), Arrival(50.0, 10, 1), Arrival(90.0, 10, 1)]
    run = run_of(engine_of(), online=online, until_s=70.0)
    assert (70.0, 2, 2) == (run.virtual_s, run.log.num_steps, len(run.log.records))


@pytest.mark.parametrize("until_s", [10.0, float("inf")])
def test_run_without_requests_is_over_at_once(until_s):
    """Nothing was served in no time, and all figures can still be made."""
    run = run_of(engine_of(), until_s=until_s)
    result = figures(run)
    assert (0.0, 0) == (run.virtual_s, result["steps"])
    assert 0.0 == result["total_tokens_per_s"] == result["offline"]["prefix_hit_rate"]
    assert {None} == set(result["online"]["ttft_s"].values())


@ASYNC
def test_arrivals_during_the_last_step_count_as_unserved(is_async):
    """They came in time, and waited until the end."""
    online = [Arrival(0.0, 10, 9), Arrival(3.25, 10, 1), Arrival(3.75, 10, 1)]
    run = run_of(engine_of(is_async=is_async), online=online, until_s=3.5)
    details = figures(run)["details"]
    assert ({"online": 2, "offline": 0}, 1) == (details["arrived"], details["unserved"])
    assert [1.0, 0.25] == details["quantiles"]["ttft_s"][-1:] + details["quantiles"]["ttft_s"][:1]


@ASYNC
@pytest.mark.parametrize("policy", ["vllm-fcfs", "online-first"])
def test_request_that_can_never_run_ends_the_run_with_one_line(policy, is_async, monkeypatch):
    """More tokens than all KV blocks hold: the engine would ask for ever."""
    monkeypatch.setattr("hygen_vllm.lab.simulator.simulation.STUCK_S", 1.0)
    engine = engine_of(is_async=is_async, num_kv_blocks=20)
    never = [Arrival(0.0, 120, 2)]
    with pytest.raises(RuntimeError, match=r"nothing has run for 1 virtual seconds") as caught:
        run_of(engine, policy, online=[Arrival(0.0, 10, 4)], offline=never)
    assert "1 requests wait for ever" in str(caught.value)
    assert "\n" not in str(caught.value)


@ASYNC
def test_idle_time_before_the_last_request_is_no_reason_to_give_up(is_async):
    """The engine had nothing to run until then."""
    online = [Arrival(0.0, 10, 2), Arrival(3.0 * STUCK_S, 10, 2)]
    assert 2 == run_of(engine_of(is_async=is_async), online=online).log.num_finished


@ASYNC
def test_step_longer_than_any_patience_is_no_reason_to_give_up(is_async):
    """A slow device is slow, not stuck."""
    engine = engine_of(SimpleDevice(2.0 * STUCK_S), is_async)
    assert 1 == run_of(engine, online=[Arrival(0.0, 10, 4)]).log.num_finished


@pytest.fixture
def profile(tmp_path):
    """The folder of a profile of ENGINE."""
    return str(save_profile(Profile(ENGINE, "measured", COST), tmp_path / "profile").parent)


def test_kv_blocks_too_few_for_max_model_len_shorten_it(profile):
    """The profile's own length gives way, as little as it must; vLLM keeps one block to itself."""
    assert 128 == SimulatedEngine.load(profile, num_kv_blocks=33).info.max_model_len
    engine = SimulatedEngine.load(profile, num_kv_blocks=32)
    assert (124, 124) == (engine.info.max_model_len, limits_of(engine).max_model_len)


def test_kv_blocks_too_few_for_the_length_asked_for_are_refused(profile):
    """Whoever asks for a length means it."""
    assert (
        100 == SimulatedEngine.load(profile, num_kv_blocks=26, max_model_len=100).info.max_model_len
    )
    with pytest.raises(
        ValueError, match="25 KV blocks hold 96 tokens, fewer than max_model_len 100"
    ):
        SimulatedEngine.load(profile, num_kv_blocks=25, max_model_len=100)


@pytest.mark.parametrize(
    "limits", [{"num_kv_blocks": 0}, {"num_kv_blocks": 1}, {"max_model_len": 1}]
)
def test_engine_without_room_for_a_request_is_refused(profile, limits):
    """A prompt token and an output token are the least; a profile may not know its KV blocks."""
    with pytest.raises(
        ValueError, match=r"a request has 2 tokens at least, got .* KV blocks"
    ) as caught:
        SimulatedEngine.load(profile, **limits)
    assert "\n" not in str(caught.value)


def test_longest_request_that_fits_is_served():
    """As long as all KV blocks but vLLM's own."""
    for is_async in (False, True):
        for policy in ("vllm-fcfs", "online-first"):
            engine = engine_of(is_async=is_async, num_kv_blocks=20, max_model_len=76)
            requests = [Arrival(0.0, 75, 1), Arrival(0.0, 60, 16)]
            run = run_of(engine, policy, online=requests, offline=requests)
            assert 4 == run.log.num_finished


def test_requests_too_long_are_cut_to_what_the_model_can_serve():
    """Those that fit stay as they are, and the others are counted."""
    requests = Requests([Arrival(0.0, 10, 5), Arrival(1.0, 99, 5)], [Arrival(0.0, 50, 80)])
    fitted, num_shortened = requests.fitted(60)
    assert 2 == num_shortened
    assert requests.online[0] is fitted.online[0]
    lengths = [(a.prompt_tokens, a.output_tokens) for a in (*fitted.online, *fitted.offline)]
    assert [(10, 5), (55, 5), (30, 30)] == lengths
