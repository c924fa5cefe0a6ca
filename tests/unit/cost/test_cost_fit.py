# SPDX-License-Identifier: Apache-2.0
"""Fits: known prices come back from noisy steps with outliers, and none is ever negative."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hygen_vllm.cost.composition import FEATURES, StepComposition
from hygen_vllm.cost.curve import COARSE_KNEES, TokenCurve
from hygen_vllm.cost.fit import (
    Matrix,
    fit_cost,
    fit_relative,
    has_prefill,
    predict_seconds,
    refit_cost,
    total_tokens,
)
from hygen_vllm.cost.step_cost import StepCost
from tests.support.costs import costs
from tests.support.steps import TRUE, matrix, measured, mixed_steps

LAW = settings(derandomize=True, deadline=None, max_examples=60)
KNEES = TRUE.curve.knees
UNSEEN = matrix([*mixed_steps(seed=99, count=200)])
"""Steps that no fit here has seen."""


def _errors(cost: StepCost, true: StepCost = TRUE, X: Matrix = UNSEEN) -> Matrix:
    return predict_seconds(cost, X) / predict_seconds(true, X) - 1


# --- fit_cost ----------------------------------------------------------------------------------


def test_fit_of_exact_steps_returns_their_coefficients_and_curve() -> None:
    """Without noise every price comes back, and the curve stays flat at a knee too many.

    A knee at 0 would be one more price of every token, which no step can tell from the others.
    """
    X, seconds = measured(0, 400, share=0, stalls=0)
    cost = fit_cost(X, seconds, (64, *KNEES), ridge=1e-12)
    assert TRUE.coefficients() == pytest.approx(cost.coefficients(), rel=1e-3)
    tokens = np.arange(0.0, 900.0, 50.0)
    expected = TRUE.curve.seconds_of(tokens)
    assert expected == pytest.approx(cost.curve.seconds_of(tokens), rel=1e-3, abs=1e-6)


def test_fit_tells_what_any_prefill_costs_from_what_each_chunk_costs() -> None:
    """A step with prefill is launched in pieces: a jump, and the rest of the prices stay right."""
    X, seconds = measured(0, 400, share=0, stalls=0)
    jump_s = 0.5 * TRUE.base_s
    cost = fit_cost(X, seconds + jump_s * has_prefill(X), KNEES, ridge=1e-12)
    assert jump_s == pytest.approx(cost.first_prefill_s, rel=1e-3)
    assert TRUE.coefficients() == pytest.approx(cost.coefficients(), rel=1e-3)
    again = refit_cost(X, 2 * predict_seconds(cost, X), cost, ridge=1e-12)
    assert 2 * jump_s == pytest.approx(again.first_prefill_s, rel=1e-3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fit_of_noisy_steps_with_outliers_returns_the_true_prices(seed: int) -> None:
    """5% noise and one step in 50 twenty times too long: prices within 10%, no bias."""
    X, seconds = measured(seed, 4000)
    cost = fit_cost(X, seconds, KNEES)
    seen = ("base_s", "decode_token_s", "prefill_token_s")
    expected = [getattr(TRUE, name) for name in seen]
    assert expected == pytest.approx([getattr(cost, name) for name in seen], rel=0.1)
    errors = _errors(cost)
    assert np.abs(errors).max() < 0.03
    assert abs(errors.mean()) < 0.005


def test_fit_with_outliers_is_the_fit_without_them() -> None:
    """How long a stalled step took does not matter."""
    X, seconds = measured(3, 1000, stalls=0)
    plain = predict_seconds(fit_cost(X, seconds, KNEES), UNSEEN)
    for factor in (20, 1e6):
        stalled = seconds.copy()
        stalled[::50] *= factor
        predicted = predict_seconds(fit_cost(X, stalled, KNEES), UNSEEN)
        assert np.abs(predicted / plain - 1).max() < 0.01


def test_fit_of_stairs_follows_them_where_the_knees_allow() -> None:
    """A curve may bend downwards too: steep piece, flat piece, steep piece."""
    stairs = TokenCurve((0, 64, 72, 128, 136), (0.0, 1e-3, 0.0, 1e-3, 0.0))
    true = StepCost(0.01, 0, 0, 0, 0, 0, 0, stairs)
    steps = []
    for tokens in range(1, 200):
        steps.append(StepComposition())
        steps[-1].add_prefill(tokens, 0)
    X = matrix(steps)
    cost = fit_cost(X, predict_seconds(true, X), stairs.knees)
    assert np.abs(_errors(cost, true, X)).max() < 1e-3


SAMPLES = st.lists(
    st.tuples(
        st.integers(0, 64), st.integers(0, 10**6), st.integers(0, 8192), st.floats(1e-6, 1e6)
    ),
    min_size=1,
    max_size=20,
)


def _steps_of(samples: list[tuple[int, int, int, float]]) -> tuple[Matrix, Matrix]:
    steps = []
    for num_decodes, computed_tokens, new_tokens, _ in samples:
        step = StepComposition(decode_tokens=num_decodes, decode_context_tokens=computed_tokens)
        if new_tokens:
            step.add_prefill(new_tokens, computed_tokens)
        steps.append(step)
    return matrix(steps), np.array([sample[3] for sample in samples])


@LAW
@given(SAMPLES, st.sampled_from([1e-8, 1e-3]))
def test_fit_of_any_steps_gives_prices_finite_and_not_negative(
    samples: list[tuple[int, int, int, float]], ridge: float
) -> None:
    """Whatever was measured, more work never costs less and learning never fails."""
    X, seconds = _steps_of(samples)
    cost = fit_cost(X, seconds, COARSE_KNEES, ridge)
    numbers = np.array([*cost.coefficients(), *cost.curve.slopes_s])
    assert np.isfinite(numbers).all()
    assert (numbers >= 0).all()
    again = refit_cost(X, seconds, cost, ridge)
    assert min(*again.coefficients(), *again.curve.slopes_s, 0.0) == 0


@settings(LAW, max_examples=40)
@given(SAMPLES, st.sampled_from(FEATURES), st.integers(0, 1000))
def test_fit_of_any_steps_predicts_no_less_for_more(
    samples: list[tuple[int, int, int, float]], name: str, more: int
) -> None:
    """No sum lowers the price, however the measured times ran."""
    X, seconds = _steps_of(samples)
    larger = X.copy()
    larger[:, FEATURES.index(name)] += more
    cost = fit_cost(X, seconds, COARSE_KNEES, 1e-3)
    assert (predict_seconds(cost, larger) >= predict_seconds(cost, X) * (1 - 1e-12)).all()


def test_fit_does_not_change_the_steps_it_is_given() -> None:
    """X, seconds and prior are as they were."""
    X, seconds = measured(4, 60)
    prior = np.ones(X.shape[1])
    before = X.copy(), seconds.copy(), prior.copy()
    refit_cost(X, seconds, fit_cost(X, seconds, KNEES), 1e-3)
    fit_relative(X, seconds, prior, 1e-3)
    for was, now in zip(before, (X, seconds, prior), strict=True):
        assert np.array_equal(was, now)


# --- refit_cost --------------------------------------------------------------------------------


def test_refit_keeps_the_given_prices_of_what_was_not_seen() -> None:
    """Decodes say nothing of prefills, nor of a part of the curve they never reach."""
    X = matrix([StepComposition(n, 100 * n * (n % 7)) for n in range(1, 65)])
    slower = 2 * predict_seconds(TRUE, X)
    cost = refit_cost(X, slower, TRUE, ridge=1e-3)
    assert TRUE.coefficients()[3:] == cost.coefficients()[3:]
    assert cost.curve == TRUE.curve
    assert predict_seconds(cost, X) == pytest.approx(slower, rel=0.03)


def test_refit_to_many_steps_corrects_wrong_given_prices() -> None:
    """What was measured outweighs what was given."""
    X, seconds = measured(5, 600)
    wrong = replace(TRUE, base_s=0.5 * TRUE.base_s, prefill_token_s=3 * TRUE.prefill_token_s)
    before, after = (np.abs(_errors(cost)) for cost in (wrong, refit_cost(X, seconds, wrong, 1e-3)))
    assert before.max() > 0.5
    assert np.median(after) < 0.02
    assert after.max() < 0.1


def test_refit_keeps_the_shape_of_the_given_curve() -> None:
    """Few steps tell how high a curve is, not where it bends."""
    X, seconds = measured(6, 300, cost=replace(TRUE, curve=TRUE.curve.scaled(3)))
    cost = refit_cost(X, seconds, TRUE, ridge=1e-8)
    assert cost.curve.knees == TRUE.curve.knees
    ratios = np.array(cost.curve.slopes_s) / np.array(TRUE.curve.slopes_s)
    assert ratios[1] == pytest.approx(ratios[0])
    assert ratios[0] == pytest.approx(3, rel=0.2)


# --- fit_relative ------------------------------------------------------------------------------


def test_fit_of_a_column_never_seen_returns_its_prior() -> None:
    """Data without a kind of work says nothing of its price."""
    columns = np.array([[1.0, 0.0], [1.0, 0.0]])
    solution = fit_relative(columns, np.array([2.0, 2.0]), np.array([0.0, 7.0]), 1e-3)
    assert solution.tolist() == [pytest.approx(2.0, rel=0.01), 7.0]


def test_fit_of_columns_that_move_together_shares_the_price_among_them() -> None:
    """Where data cannot tell columns apart none of them takes all: each takes as much."""
    chunks = np.arange(40) % 5
    columns = np.column_stack([np.ones(40), np.outer(chunks, [1, 16, 128, 16])])
    solution = fit_relative(columns, 0.02 + 0.01 * chunks, np.zeros(5), 1e-3)
    shares = solution[1:] * [1, 16, 128, 16]
    assert shares == pytest.approx(np.full(4, 0.01 / 4), rel=0.02)
    assert solution[0] == pytest.approx(0.02, rel=0.02)


@pytest.mark.parametrize("prior", [[1.0, 3.0], [3.0, 1.0], [2.0, 2.0]])
def test_fit_of_columns_that_move_together_shares_the_price_as_the_prior_does(
    prior: list[float],
) -> None:
    """Where data cannot tell columns apart, what was known before does."""
    column = np.arange(1.0, 20.0)
    solution = fit_relative(np.column_stack([column, column]), 4 * column, np.array(prior), 1e-3)
    assert prior == pytest.approx(solution.tolist(), rel=1e-6)


def test_fit_of_one_column_is_the_median_of_the_relative_times_not_their_mean() -> None:
    """The absolute relative error is minimised: a third of wild times moves it little."""
    seconds = np.array([1.0] * 20 + [50.0] * 10)
    solution = fit_relative(np.ones((30, 1)), seconds, np.zeros(1), 1e-8)
    assert solution[0] == pytest.approx(1.0, rel=0.05)


def test_fit_that_would_be_negative_is_zero() -> None:
    """A column that goes with shorter times gets no price, and the others stay right."""
    falling = np.arange(20.0)
    columns = np.column_stack([np.ones(20), falling])
    solution = fit_relative(columns, 2.0 - 0.05 * falling, np.zeros(2), 1e-8)
    assert solution[1] == 0
    assert 1.05 <= solution[0] <= 2.0


# --- predict_seconds ---------------------------------------------------------------------------


@LAW
@given(costs(st.integers(0, 20)), st.integers(0, 50))
def test_predicted_seconds_of_many_steps_are_those_of_each(cost: StepCost, seed: int) -> None:
    """Matrix and single step are one formula."""
    steps = [*mixed_steps(seed, 5)]
    assert [cost.seconds(step) for step in steps] == predict_seconds(cost, matrix(steps)).tolist()


def test_total_tokens_are_decode_and_prefill_tokens() -> None:
    """Contexts and counts are no tokens of the step."""
    steps = [*mixed_steps(7, 20)]
    assert [step.total_tokens for step in steps] == total_tokens(matrix(steps)).tolist()
