# SPDX-License-Identifier: Apache-2.0
"""What a simulated scheduler believes about step times: fitted to noise, or wrong on purpose."""

import random

import numpy as np
import pytest

from hygen_vllm.cost.composition import StepComposition
from hygen_vllm.cost.fit import predict_seconds
from hygen_vllm.cost.learner import CostLearner
from hygen_vllm.lab.profile.batch_shapes import design
from hygen_vllm.lab.simulator.predictor import DistortedLearner, Distortion, profile_device
from hygen_vllm.lab.simulator.step_time import PricedDevice, load_step_times
from hygen_vllm.lab.simulator.step_work import StepWork
from tests.support.step_traces import COST, ENGINE

DEVICE = PricedDevice(COST)
WORKS = [StepWork.of(shape) for shape in design(ENGINE, num_mixes=300, seed=9)]
"""Steps other than those that prices are fitted to."""
ERRORS = pytest.mark.parametrize("mape", [0.05, 0.2])


@pytest.fixture(scope="module")
def profiled():
    """Prices fitted to DEVICE, and the sums they were fitted to."""
    return profile_device(DEVICE, ENGINE, COST.curve.knees, seed=0)


def mean_error(cost, works=WORKS, device=DEVICE):
    """Return the mean of |price / seconds on the device - 1|."""
    errors = [cost.seconds(w.composition()) / device.step_seconds(w) - 1.0 for w in works]
    return float(np.abs(errors).mean())


def test_profiled_prices_are_close_to_the_device_but_not_equal(profiled):
    """As after a real profile run: the noise of its steps is averaged, not removed."""
    cost, X = profiled
    assert 5e-4 < mean_error(cost) < 0.01
    assert COST.coefficients() != cost.coefficients()
    assert (COST.curve.knees, 6) == (cost.curve.knees, X.shape[1])


def test_profiled_prices_follow_a_device_of_another_form():
    """A roofline is not the form of the prices; they come within a few percent of it."""
    device = load_step_times("a100-llama2-7b")
    cost, _ = profile_device(device, ENGINE, (0, 32), seed=0)
    assert 0.0 < mean_error(cost, device=device) < 0.03


def test_profiling_is_seeded(profiled):
    """The same seed gives the same prices, another one others."""
    again, _ = profile_device(DEVICE, ENGINE, COST.curve.knees, seed=0)
    other, _ = profile_device(DEVICE, ENGINE, COST.curve.knees, seed=1)
    assert profiled[0] == again
    assert profiled[0] != other


@ERRORS
@pytest.mark.parametrize("seed", range(4))
def test_distortion_has_the_error_that_was_asked_for(profiled, mape, seed):
    """On the steps it was made for exactly, on others of that kind about."""
    cost, X = profiled
    distorted = Distortion(cost, X, mape, seed)(cost)
    errors = predict_seconds(distorted, X) / predict_seconds(cost, X) - 1.0
    assert pytest.approx(mape, rel=1e-6) == np.abs(errors).mean()
    assert pytest.approx(mape, rel=0.15, abs=0.005) == mean_error(distorted)


def test_distortion_is_seeded(profiled):
    """The same seed gives the same error, another one another of the same size."""
    cost, X = profiled
    assert Distortion(cost, X, 0.2, 5)(cost) == Distortion(cost, X, 0.2, 5)(cost)
    assert Distortion(cost, X, 0.2, 5)(cost) != Distortion(cost, X, 0.2, 6)(cost)


def test_distortion_is_all_too_high_or_all_too_low(profiled):
    """Errors of a seed do not cancel out in a step; either direction comes up among the seeds."""
    cost, X = profiled
    is_high = set()
    for seed in range(8):
        errors = predict_seconds(Distortion(cost, X, 0.2, seed)(cost), X) / predict_seconds(cost, X)
        is_high |= set((errors > 1.0).tolist())
        assert 1 == len(set(np.sign(errors - 1.0)))
    assert {True, False} == is_high


def test_distortion_gives_each_price_an_error_of_its_own(profiled):
    """No common factor puts them right: decodes are off by another share than prefills."""
    cost, X = profiled
    distorted = Distortion(cost, X, 0.2, seed=0)(cost)
    pairs = zip(distorted.coefficients(), cost.coefficients(), strict=True)
    shares = [abs(wrong / right - 1.0) for wrong, right in pairs if right]
    shares.append(abs(distorted.curve.seconds(64) / cost.curve.seconds(64) - 1.0))
    assert 1.3 * min(shares) < max(shares) <= 3.0 * min(shares)
    assert 0.2 / 3 <= min(shares) < 0.2 < max(shares) <= 3 * 0.2


@ERRORS
def test_distortion_keeps_prices_monotone(profiled, mape):
    """More work never costs less, so the largest chunk is still found by inversion."""
    cost, X = profiled
    distorted = Distortion(cost, X, mape, seed=3)(cost)
    rng = random.Random(0)
    for _ in range(200):
        total, new, computed = rng.randrange(64), rng.randrange(1, 64), rng.randrange(128)
        step = StepComposition(num_prefills=1, prefill_tokens=total)
        one_more = distorted.added_chunk_seconds(step, new + 1, computed)
        seconds = distorted.added_chunk_seconds(step, new, computed)
        assert 0.0 < seconds <= one_more
        assert seconds <= distorted.added_chunk_seconds(step, new, computed + 1)
        assert new <= distorted.largest_chunk(step, computed, 999, seconds * (1 + 1e-9))


@ERRORS
def test_distorted_learner_keeps_its_error_while_it_learns(profiled, mape):
    """After hundreds of true steps an ordinary learner is right, and this one as wrong as ever."""
    cost, X = profiled
    distorted = DistortedLearner(cost, Distortion(cost, X, mape, seed=2))
    ordinary = CostLearner(cost)
    assert pytest.approx(mape, rel=0.15) == mean_error(distorted.cost)
    rng = random.Random(1)
    for work in rng.choices(WORKS, k=700):
        for learner in (distorted, ordinary):
            learner.observe(work.composition(), 1.3 * DEVICE.step_seconds(work))
    slow = PricedDevice(COST.scaled(1.3))
    assert mean_error(ordinary.cost, device=slow) < 0.02
    assert pytest.approx(mape, rel=0.15, abs=0.01) == mean_error(distorted.cost, device=slow)


def test_distorted_learner_without_an_error_learns_as_any_other(profiled):
    """Nothing but the distortion sets it apart."""
    cost, X = profiled
    distorted, ordinary = DistortedLearner(cost, Distortion(cost, X, 0.0, 0)), CostLearner(cost)
    for work in WORKS[:100]:
        for learner in (distorted, ordinary):
            learner.observe(work.composition(), DEVICE.step_seconds(work))
    expected = pytest.approx(ordinary.cost.coefficients(), rel=1e-6)
    assert expected == distorted.cost.coefficients()
