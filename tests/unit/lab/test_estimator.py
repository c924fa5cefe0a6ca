# SPDX-License-Identifier: Apache-2.0
"""StepTimeRegressor: a scikit-learn estimator whose prediction never falls with more work."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from hygen_vllm.cost.composition import FEATURES, StepComposition
from hygen_vllm.cost.curve import COARSE_KNEES
from hygen_vllm.cost.fit import Matrix
from hygen_vllm.lab.profile.estimator import STEPS_PER_KNEE, StepTimeRegressor
from tests.support.steps import TRUE, matrix, measured

X, SECONDS = measured(0, 400)
FITTED = StepTimeRegressor().fit(X, SECONDS)


def _chunks(sizes: Any) -> Matrix:
    """Return steps of one first chunk each."""
    steps = []
    for tokens in sizes:
        steps.append(StepComposition())
        steps[-1].add_prefill(int(tokens), 0)
    return matrix(steps)


# --- scikit-learn's conventions ----------------------------------------------------------------


def test_fit_returns_the_estimator_with_what_it_learned() -> None:
    """Learned values end in an underscore and agree with each other."""
    model = StepTimeRegressor(knees="coarse")
    assert model.fit(X, SECONDS) is model
    assert [model.intercept_, *model.coef_] == model.cost_.coefficients()
    assert model.n_features_in_ == len(FEATURES) == X.shape[1]
    assert model.predict(X).shape == (len(X),)


def test_parameters_are_those_of_the_constructor_and_survive_a_clone() -> None:
    """The constructor only stores; a clone has the parameters and nothing learned."""
    parameters = {"knees": (0, 64), "ridge": 1e-3}
    model = StepTimeRegressor(**parameters).fit(X, SECONDS)
    copy = clone(model)
    assert parameters == model.get_params() == copy.get_params()
    assert not hasattr(copy, "cost_")
    assert StepTimeRegressor().set_params(**parameters).get_params() == parameters


def test_predict_before_fit_says_what_to_do() -> None:
    """The error is scikit-learn's own, with the remedy."""
    with pytest.raises(NotFittedError, match=r"^call fit\(\) or load a profile before predict"):
        StepTimeRegressor().predict(X)


def test_estimator_works_in_pipelines_and_cross_validation() -> None:
    """Nothing has to be known of it beyond fit and predict; score is R^2."""
    pipeline = make_pipeline(StepTimeRegressor(knees="coarse"))
    exact = np.array([TRUE.seconds(StepComposition(*row)) for row in X])
    assert cross_val_score(pipeline, X, exact, cv=3).min() > 0.999
    assert FITTED.score(X, exact) > 0.99


def test_fit_again_forgets_the_fit_before() -> None:
    """Only the last fit counts, and the same steps give the same prices."""
    model = StepTimeRegressor().fit(X, 2 * SECONDS)
    assert model.fit(X, SECONDS).cost_ == FITTED.cost_


def test_fit_and_predict_do_not_change_their_inputs() -> None:
    """X and y are as they were, also if they are lists."""
    before = X.copy(), SECONDS.copy()
    model = StepTimeRegressor().fit(X, SECONDS)
    model.predict(X)
    assert np.array_equal(before[0], X)
    assert np.array_equal(before[1], SECONDS)
    assert StepTimeRegressor().fit(X.tolist(), SECONDS.tolist()).cost_ == model.cost_


# --- what it refuses and leaves out ------------------------------------------------------------


@pytest.mark.parametrize("columns", [1, len(FEATURES) - 1, len(FEATURES) + 1])
def test_matrix_of_another_width_is_refused_with_both_widths(columns: int) -> None:
    """Columns have names; another number of them means something else."""
    expected = rf"^X must have {len(FEATURES)} columns \({', '.join(FEATURES)}\), got {columns}$"
    with pytest.raises(ValueError, match=expected):
        StepTimeRegressor().fit(np.ones((10, columns)), np.ones(10))
    with pytest.raises(ValueError, match=expected):
        FITTED.predict(np.ones((10, columns)))


@pytest.mark.parametrize(
    ("wrong_X", "y"),
    [
        (np.ones((10, len(FEATURES))), np.ones(9)),
        (np.ones((10, len(FEATURES))), np.ones(11)),
        (np.ones((10, len(FEATURES))), np.ones((10, 2))),
        (np.ones(10), np.ones(10)),
        (np.full((10, len(FEATURES)), np.nan), np.ones(10)),
        (np.full((10, len(FEATURES)), np.inf), np.ones(10)),
        (np.full((10, len(FEATURES)), -1.0), np.ones(10)),
    ],
    ids=["y short", "y long", "y wide", "X flat", "X nan", "X inf", "X negative"],
)
def test_matrix_and_times_that_do_not_fit_are_refused(wrong_X: Any, y: Any) -> None:
    """ValueError, as everywhere in scikit-learn."""
    with pytest.raises(ValueError):  # noqa: PT011 - the texts are scikit-learn's
        StepTimeRegressor().fit(wrong_X, y)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_prediction_of_a_step_that_is_no_number_is_refused(wrong: float) -> None:
    """No seconds come out of what is no step."""
    with pytest.raises(ValueError):  # noqa: PT011 - the text is scikit-learn's
        FITTED.predict(np.full((1, len(FEATURES)), wrong))


def test_prediction_of_a_negative_step_is_refused() -> None:
    """A step cannot hold fewer than no tokens."""
    with pytest.raises(ValueError, match="must not be negative"):
        FITTED.predict(np.full((1, len(FEATURES)), -1.0))


def test_steps_with_impossible_times_are_left_out() -> None:
    """A fit with them is the fit without them, whatever their rows hold."""
    times = [np.nan, np.inf, -np.inf, 0.0, -0.1]
    bad_rows = np.full((len(times), X.shape[1]), np.nan)
    model = StepTimeRegressor().fit(np.concatenate([bad_rows, X]), np.concatenate([times, SECONDS]))
    assert model.cost_ == FITTED.cost_


@pytest.mark.parametrize("times", [[], [0.0], [np.nan, -1.0]])
def test_steps_without_any_possible_time_are_refused_with_their_number(times: list[float]) -> None:
    """Nothing is learned from nothing."""
    expected = f"none of {len(times)} steps has a time that is finite and > 0"
    with pytest.raises(ValueError, match=expected):
        StepTimeRegressor().fit(np.ones((len(times), len(FEATURES))), times)


# --- what it learns ----------------------------------------------------------------------------


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 2000), min_size=len(FEATURES), max_size=len(FEATURES)),
    st.sampled_from(range(len(FEATURES))),
    st.integers(0, 2000),
)
def test_prediction_for_more_of_anything_is_not_less(
    row: list[int], column: int, more: int
) -> None:
    """Fitted to noise and stalls as well, more work is never predicted to be shorter."""
    larger = row.copy()
    larger[column] += more
    less_s, more_s = FITTED.predict(np.array([row, larger], dtype=np.float64))
    assert 0 < less_s <= more_s * (1 + 1e-12)


def test_prediction_from_noisy_steps_with_outliers_is_near_the_true_seconds() -> None:
    """With 5% noise and stalls, 400 steps give the true mean within a few percent."""
    rows, _ = measured(99, 200)
    true = np.array([TRUE.seconds(StepComposition(*row)) for row in rows])
    errors = np.abs(FITTED.predict(rows) / true - 1)
    assert np.median(errors) < 0.015
    assert errors.max() < 0.1


def test_staircase_in_total_tokens_is_followed() -> None:
    """With "auto" knees a jump after each multiple of 64 comes out as a jump and a flat piece."""
    sizes = np.random.default_rng(0).permutation(np.tile(np.arange(1, 513), 2))
    rows, seconds = _chunks(sizes), 0.01 + 0.004 * np.ceil(sizes / 64)
    is_flat = (sizes - 1) % 64 >= 8
    fine = StepTimeRegressor().fit(rows, seconds)
    errors = np.abs(fine.predict(rows) / seconds - 1)
    assert errors[is_flat].max() < 0.01
    coarse = StepTimeRegressor(knees="coarse").fit(rows, seconds)
    assert np.abs(coarse.predict(rows) / seconds - 1)[is_flat].max() > 0.05


def test_straight_line_in_total_tokens_gets_no_knee_of_a_staircase() -> None:
    """Where stairs predict nothing better, "auto" is "coarse": fewer prices to get wrong."""
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 513, 300)
    seconds = (0.01 + 1e-4 * sizes) * (1 + 0.03 * rng.standard_normal(300))
    model = StepTimeRegressor().fit(_chunks(sizes), seconds)
    assert model.cost_ == StepTimeRegressor(knees="coarse").fit(_chunks(sizes), seconds).cost_


@pytest.mark.parametrize(
    ("knees", "allowed"), [("coarse", COARSE_KNEES), ((0, 100), (0, 100)), ([7], (7,))]
)
def test_curve_bends_only_at_the_knees_that_were_asked_for(
    knees: Any, allowed: tuple[int, ...]
) -> None:
    """A caller who knows the device can say where it jumps."""
    model = StepTimeRegressor(knees=knees).fit(X, SECONDS)
    assert set(model.cost_.curve.knees) <= set(allowed)


def test_automatic_knees_have_steps_enough_after_them() -> None:
    """Where few steps were seen the curve goes straight on."""
    few = [*range(300, 300 + STEPS_PER_KNEE - 1)]
    sizes = np.random.default_rng(2).permutation([*range(1, 65), *range(65, 80), *few])
    seconds = 0.01 + 0.01 * (sizes > 8) + 0.01 * (sizes > 72)
    knees = StepTimeRegressor().fit(_chunks(sizes), seconds).cost_.curve.knees
    assert {8, 16} <= set(knees)
    for low, high in zip(knees, (*knees[1:], 10**6), strict=True):
        assert sum(low <= size < high for size in sizes) >= STEPS_PER_KNEE


def test_automatic_knees_with_one_step_still_fit_it() -> None:
    """One step is a fit, if a poor one."""
    model = StepTimeRegressor().fit(X[:1], SECONDS[:1])
    assert model.predict(X[:1])[0] == pytest.approx(SECONDS[0], rel=1e-3)
