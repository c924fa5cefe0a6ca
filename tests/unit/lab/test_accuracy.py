# SPDX-License-Identifier: Apache-2.0
"""Accuracy: relative errors, by kind and size, beside the error that noise alone makes."""

import math

import numpy as np
import pytest

from hygen_vllm.cost.composition import StepComposition
from hygen_vllm.lab.profile.accuracy import Accuracy, by_region, noise_floor
from tests.support.steps import matrix

SIGMA = 0.03


def _step(num_decodes: int, chunk: int) -> StepComposition:
    step = StepComposition(decode_tokens=num_decodes)
    if chunk:
        step.add_prefill(chunk, 0)
    return step


def test_accuracy_of_predictions_is_their_relative_error() -> None:
    """Mean, median and tail of its size; the bias keeps its sign."""
    measured = np.array([1.0, 2.0, 4.0, 10.0])
    accuracy = Accuracy.of(np.array([1.5, 2.0, 3.0, 10.0]), measured)
    assert accuracy.num_steps == 4
    assert accuracy.mape == (0.5 + 0.25) / 4
    assert accuracy.median == 0.125
    assert accuracy.bias == (0.5 - 0.25) / 4
    assert accuracy.p95 == pytest.approx(0.25 + 0.85 * (0.5 - 0.25))


def test_accuracy_of_exact_predictions_is_zero_error() -> None:
    """One step is enough."""
    times = np.array([0.02])
    assert Accuracy.of(times, times) == Accuracy(1, mape=0, median=0, p95=0, bias=0)


@pytest.mark.parametrize("num_repeats", [2, 4, 9])
def test_noise_floor_of_gaussian_noise_is_its_mean_deviation(num_repeats: int) -> None:
    """Normal noise of relative size sigma: sigma * sqrt(2 / pi), whatever the means are."""
    rng = np.random.default_rng(num_repeats)
    batch = np.repeat(np.arange(8000 // num_repeats), num_repeats).astype(np.float64)
    means = rng.uniform(0.01, 1.0, len(batch))[batch.astype(int)]
    seconds = means * (1 + SIGMA * rng.standard_normal(len(batch)))
    floor = noise_floor(seconds, batch)
    assert floor == pytest.approx(SIGMA * math.sqrt(2 / math.pi), rel=0.03)


def test_noise_floor_is_the_error_of_the_true_mean() -> None:
    """It is what a prediction would have that knows every mean."""
    rng = np.random.default_rng(1)
    batch = np.repeat(np.arange(2000.0), 4)
    means = 0.01 + 0.001 * batch
    seconds = means * (1 + SIGMA * rng.standard_normal(len(batch)))
    assert noise_floor(seconds, batch) == pytest.approx(Accuracy.of(means, seconds).mape, rel=0.03)


def test_noise_floor_of_a_slow_drift_is_small() -> None:
    """Neighbours in time are compared, so a device that slowly warms up is no noise."""
    seconds = np.linspace(1.0, 1.5, 500)
    floor = noise_floor(seconds, np.zeros(500))
    assert floor is not None
    assert 0 < floor < 0.001


def test_noise_floor_weighs_batches_by_their_steps() -> None:
    """Two batches of the same mean deviation, one of none and twice the size: a third of it."""
    seconds = np.array([0.9, 1.1, 2.0, 2.0, 2.0, 2.0])
    batch = np.array([0.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    assert noise_floor(seconds, batch) == pytest.approx(0.2 / math.sqrt(2) / 3)


def test_noise_floor_leaves_out_steps_without_a_batch_or_a_second_time() -> None:
    """What was measured once, or is of no batch, says nothing of noise."""
    seconds = np.array([1.0, 1.0, 5.0, 9.0, 700.0])
    batch = np.array([0.0, 0.0, 1.0, np.nan, np.nan])
    assert noise_floor(seconds, batch) == 0


@pytest.mark.parametrize("batch", [[], [np.nan, np.nan], [0.0, 1.0]])
def test_noise_floor_without_a_repeated_step_is_unknown(batch: list[float]) -> None:
    """None is not 0: nothing is known."""
    assert noise_floor(np.ones(len(batch)), np.array(batch)) is None


def test_regions_hold_the_steps_of_each_kind_and_size() -> None:
    """Kinds do not overlap, sizes neither, and only those that occur are there."""
    steps = [_step(16, 0), _step(17, 0), _step(0, 64), _step(1, 64), _step(0, 1024), _step(1, 1024)]
    times = np.ones(len(steps))
    regions = by_region(matrix(steps), 1.1 * times, times)
    assert {
        "decodes only": 2,
        "prefills only": 2,
        "both": 2,
        "1 to 16 tokens": 1,
        "17 to 64 tokens": 2,
        "65 to 256 tokens": 1,
        "257 to 1024 tokens": 1,
        "more than 1024 tokens": 1,
    } == {name: accuracy.num_steps for name, accuracy in regions.items()}


def test_regions_have_the_errors_of_their_own_steps() -> None:
    """An error in prefills does not show in decodes."""
    X = matrix([_step(4, 0), _step(4, 0), _step(0, 100)])
    regions = by_region(X, np.array([1.0, 2.0, 6.0]), np.array([1.0, 2.0, 4.0]))
    assert ["decodes only", "prefills only", "1 to 16 tokens", "65 to 256 tokens"] == [*regions]
    assert regions["decodes only"] == regions["1 to 16 tokens"] == Accuracy(2, 0, 0, 0, 0)
    assert regions["prefills only"] == Accuracy(1, mape=0.5, median=0.5, p95=0.5, bias=0.5)
