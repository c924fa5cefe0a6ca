# SPDX-License-Identifier: Apache-2.0
"""PredictionError: factors from steps of online alone, a margin from those with offline work."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hygen_vllm.step.terms import StepForecast
from hygen_vllm.targets.prediction_error import (
    DEVIATIONS,
    FACTOR_GAIN,
    LARGEST_ERROR,
    MARGIN_GAIN,
    PredictionError,
)

ALONE = StepForecast(0.02, 0.02)
MIXED = StepForecast(0.01, 0.02)
FIRST_MARGIN = math.exp(DEVIATIONS * 0.01)


def _after(
    forecast: StepForecast, ratios: list[float], has_prefill: bool = False
) -> PredictionError:
    """Return what is known after steps that took so many times their forecast."""
    errors = PredictionError()
    for ratio in ratios:
        errors.observe(forecast, ratio * forecast.total_s, has_prefill)
    return errors


def test_error_before_any_step_is_none() -> None:
    """The forecast is right, and nearly sure."""
    errors = PredictionError()
    assert {False: 1.0, True: 1.0} == errors.factors
    assert pytest.approx(FIRST_MARGIN) == errors.margin


@pytest.mark.parametrize("has_prefill", [False, True])
def test_factor_of_steps_alone_goes_to_what_they_take(has_prefill: bool) -> None:
    """Each step moves it by a gain; steps of the other kind have their own."""
    errors = _after(ALONE, [1.2, 1.2, 1.2], has_prefill)
    expected = 1.2 ** (1 - (1 - FACTOR_GAIN) ** 3)
    assert pytest.approx(expected) == errors.factors[has_prefill]
    assert 1.0 == errors.factors[not has_prefill]


@pytest.mark.parametrize("ratio", [0.8, 1.0, 1.25])
def test_factor_after_many_steps_alone_is_their_ratio(ratio: float) -> None:
    """A systematic error is corrected."""
    assert pytest.approx(ratio, rel=1e-3) == _after(ALONE, [ratio] * 1000).factors[False]


def test_factor_weighs_too_long_and_too_short_alike() -> None:
    """Twice a ratio and once its square downwards cancel out, in any unit of time."""
    factor = _after(ALONE, [1.25, 0.8] * 500).factors[False]
    assert pytest.approx(1.0, abs=2e-3) == factor


@pytest.mark.parametrize(("ratio", "sign"), [(1e6, 1), (2.0, 1), (0.5, -1), (0.0, -1), (-3.0, -1)])
def test_step_that_stalled_says_no_more_than_the_largest_error(ratio: float, sign: int) -> None:
    """Nor does a clock that went wrong."""
    alone, mixed = _after(ALONE, [ratio]), _after(MIXED, [ratio])
    assert pytest.approx(math.exp(sign * LARGEST_ERROR * FACTOR_GAIN)) == alone.factors[False]
    mean = sign * LARGEST_ERROR * MARGIN_GAIN
    variance = (1 - MARGIN_GAIN) * 1e-4 + MARGIN_GAIN * LARGEST_ERROR**2
    assert pytest.approx(math.exp(mean + DEVIATIONS * math.sqrt(variance))) == mixed.margin


def test_step_within_the_largest_error_counts_as_it_is() -> None:
    """The bound itself is far from what steps usually do."""
    assert pytest.approx(1.3**FACTOR_GAIN) == _after(ALONE, [1.3]).factors[False]
    assert pytest.approx(0.8**FACTOR_GAIN) == _after(ALONE, [0.8]).factors[False]


def test_step_alone_leaves_the_margin_as_it_is() -> None:
    """What is planned is a step with offline work."""
    assert pytest.approx(FIRST_MARGIN) == _after(ALONE, [1.2] * 50).margin


@pytest.mark.parametrize("has_prefill", [False, True])
def test_step_with_offline_work_leaves_the_factors_as_they_are(has_prefill: bool) -> None:
    """Online alone is not what was measured."""
    assert {False: 1.0, True: 1.0} == _after(MIXED, [1.2] * 50, has_prefill).factors


def test_margin_after_two_steps_is_the_mean_and_the_deviations_in_the_formula() -> None:
    """Each surprise is how far a step is from the mean of those before it."""
    first, second = math.log(1.1), math.log(0.95)
    mean = MARGIN_GAIN * first
    variance = 1e-4 + MARGIN_GAIN * (first**2 - 1e-4)
    surprise = second - mean
    mean += MARGIN_GAIN * surprise
    variance += MARGIN_GAIN * (surprise**2 - variance)
    expected = math.exp(mean + DEVIATIONS * math.sqrt(variance))
    assert pytest.approx(expected, rel=1e-12) == _after(MIXED, [1.1, 0.95]).margin


@pytest.mark.parametrize("ratio", [0.9, 1.0, 1.2])
def test_margin_of_steps_that_all_err_alike_is_their_error(ratio: float) -> None:
    """What is systematic needs no deviations."""
    assert pytest.approx(ratio, rel=1e-3) == _after(MIXED, [ratio] * 3000).margin


def test_margin_of_steps_that_spread_is_above_nearly_all_of_them() -> None:
    """Ten percent up and down ask for twenty."""
    margin = _after(MIXED, [1.1, 1 / 1.1] * 1500).margin
    assert pytest.approx(1.1**DEVIATIONS, rel=0.01) == margin


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(0, 1e3)), max_size=30))
def test_factors_and_margin_after_any_steps_stay_inside_their_bounds(
    steps: list[tuple[bool, bool, float]],
) -> None:
    """No sequence of steps makes a forecast absurd."""
    errors, most = PredictionError(), math.exp(LARGEST_ERROR)
    for is_alone, has_prefill, seconds in steps:
        errors.observe(ALONE if is_alone else MIXED, seconds, has_prefill)
    assert all(1 / most <= factor <= most for factor in errors.factors.values())
    assert 1 / most <= errors.margin <= most ** (1 + 2 * DEVIATIONS)
