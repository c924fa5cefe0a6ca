# SPDX-License-Identifier: Apache-2.0
"""Disturbances and wrong predictions reach a simulated run, and only where they belong."""

from dataclasses import replace

import numpy as np
import pytest

from hygen_vllm.lab.simulator.step_time import Disturbance
from hygen_vllm.lab.workloads.arrivals import Arrival
from tests.support.simulation import SimpleDevice, column, engine_of, figures, run_of

ASYNC = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
DEVICE = SimpleDevice(step_s=0.2, token_s=0.002)


def durations_s(run):
    """Return the seconds of each step."""
    return [b - a for a, b in zip(column(run, "begins_s"), column(run, "ends_s"), strict=True)]


def mixed(count, seed=0):
    """Return online and offline requests of many lengths."""
    rng = np.random.default_rng(seed)
    lengths = [(int(rng.integers(2, 90)), int(rng.integers(1, 30))) for _ in range(2 * count)]
    online = [Arrival(0.5 * i, *lengths[i]) for i in range(count)]
    return online, [Arrival(0.0, *pair) for pair in lengths[count:]]


@ASYNC
def test_slowdown_and_stall_reach_the_steps_of_a_run(is_async):
    """One-second steps: from 3 s on they take two, and the one that begins at 7 s two more."""
    disturbance = Disturbance(slowdowns=((3.0, 2.0),), stalls=((6.0, 2.0),))
    engine = replace(engine_of(is_async=is_async), disturbance=disturbance)
    run = run_of(engine, online=[Arrival(0.0, 10, 7)])
    assert [0.0, 1.0, 2.0, 3.0, 5.0, 7.0, 11.0] == column(run, "begins_s")
    assert [1.0, 1.0, 1.0, 2.0, 2.0, 4.0, 2.0] == durations_s(run)


def test_noise_reaches_the_steps_of_a_run_by_its_seed():
    """Times spread as asked; another seed draws others for the same steps."""
    engine = replace(engine_of(max_model_len=1000), disturbance=Disturbance(noise=0.1))
    runs = [run_of(engine, online=[Arrival(0.0, 4, 900)], seed=seed) for seed in (0, 0, 1)]
    first, again, other = (durations_s(run) for run in runs)
    assert first == again
    assert first != other
    assert pytest.approx(0.1, rel=0.1) == np.log(first).std()


@ASYNC
@pytest.mark.parametrize("policy", ["online-first", "slo"])
def test_prediction_is_as_good_as_a_profile(policy, is_async):
    """Fitted to steps with 3 % of noise, and learning on, it misses by less than that."""
    online, offline = mixed(60)
    run = run_of(engine_of(DEVICE, is_async), policy, online=online, offline=offline)
    assert 0.0 < figures(run)["details"]["predictor_mape"] < 0.03


@ASYNC
@pytest.mark.parametrize("error", [0.05, 0.2])
def test_prediction_is_as_bad_as_asked_for(error, is_async):
    """Learning from hundreds of true steps does not remove it.

    These steps are not those of a profile, on which the error is exact.
    """
    online, offline = mixed(60)
    found = []
    for seed in range(3):
        engine = replace(engine_of(DEVICE, is_async), predictor_error=error)
        run = run_of(engine, "online-first", online=online, offline=offline, seed=seed)
        found.append(figures(run)["details"]["predictor_mape"])
    assert len(set(found)) == 3
    assert 0.6 * error < np.mean(found) < 1.5 * error


def test_noise_counts_as_an_error_of_the_prediction():
    """Nobody can predict it: 10 % of noise are 8 % of mean absolute error."""
    online, offline = mixed(60)
    engine = replace(engine_of(DEVICE), disturbance=Disturbance(noise=0.1))
    run = run_of(engine, "online-first", online=online, offline=offline)
    assert pytest.approx(0.08, rel=0.3) == figures(run)["details"]["predictor_mape"]


def test_stock_policy_predicts_nothing():
    """vLLM's own scheduler has no prices."""
    engine = replace(engine_of(DEVICE), predictor_error=0.2)
    result = figures(run_of(engine, "vllm-fcfs", online=[Arrival(0.0, 10, 7)]))
    assert result["details"]["predictor_mape"] is None
    assert {None} == set(result["details"]["series"]["limit_s"])


def test_wrong_prediction_changes_the_schedule_not_the_device():
    """Steps take what they take; only what offline is granted differs."""
    online, offline = mixed(30)
    right = engine_of(DEVICE)
    settings = {"mode": "fixed", "latency_budget_s": 0.27}
    runs = [
        run_of(engine, "fixed-budget", online=online, offline=offline, settings=settings)
        for engine in (right, replace(right, predictor_error=0.2))
    ]
    assert column(runs[0], "ends_s") != column(runs[1], "ends_s")
    for run in runs:
        names = ("online_decodes", "offline_decodes", "online_prefill_tokens")
        tokens = np.sum([column(run, n) for n in (*names, "offline_prefill_tokens")], axis=0)
        assert np.allclose(0.2 + 0.002 * tokens, durations_s(run))
