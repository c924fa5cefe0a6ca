# SPDX-License-Identifier: Apache-2.0
"""Fits the costs of a step: non-negative, by the absolute relative error, deaf to outliers.

The mean of |predicted / measured - 1| is what users of a prediction see (MAPE), and one step that
stalled counts in it once, however long it took. It is minimised by a few rounds of weighted
non-negative least squares; a round costs one pass over the steps.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from hygen_vllm.cost.composition import FEATURES
from hygen_vllm.cost.curve import TokenCurve, segments
from hygen_vllm.cost.step_cost import NUM_COEFFICIENTS, StepCost

Matrix = NDArray[np.float64]

SUMS = ("base", *FEATURES, "has_prefill")
"""Columns of the matrix that costs are fitted to, before those of the curve."""
LAUNCHES_AND_CONTEXTS = [
    i for i, name in enumerate(SUMS) if name not in ("base", "decode_tokens", "prefill_tokens")
]
NUM_ROUNDS = 8
"""Of reweighting; a solution hardly changes after some five."""
SMALL_ERROR = 5e-3
"""Relative errors below this weigh alike."""
BASE_RIDGE, TOKEN_RIDGE = 0.01, 0.1
"""Parts of the ridge. What sums that were only seen together share falls to the base of a step,
then to its tokens, and only then to launches and contexts. One more decode or a small chunk is so
taken to cost little until it was tried: taken to cost much, it never would be."""


def fit_cost(X: Matrix, seconds: Matrix, knees: Sequence[int], ridge: float = 1e-8) -> StepCost:
    """Return the cost that fits measured steps, with a curve that bends at `knees`.

    Args:
        X: float64 (num_steps, len(FEATURES)).
        seconds: float64 (num_steps,), all finite and > 0.
        ridge: shares the cost among sums that have only been seen together; see BASE_RIDGE.
    """
    columns = np.column_stack([_base_and_sums(X), has_prefill(X), segments(total_tokens(X), knees)])
    ridges = np.full(columns.shape[1], ridge * TOKEN_RIDGE)
    ridges[LAUNCHES_AND_CONTEXTS] = ridge
    if not has_prefill(X).all():  # else a first prefill would be taken for the base
        ridges[0] = ridge * BASE_RIDGE
    solution = fit_relative(columns, seconds, np.zeros(columns.shape[1]), ridges).tolist()
    sums, first_prefill_s = solution[:NUM_COEFFICIENTS], solution[NUM_COEFFICIENTS]
    curve = TokenCurve(tuple(knees), tuple(solution[NUM_COEFFICIENTS + 1 :])).simplified()
    return StepCost.from_coefficients(sums, curve, first_prefill_s)


def refit_cost(X: Matrix, seconds: Matrix, given: StepCost, ridge: float) -> StepCost:
    """Return the cost that fits measured steps and resembles `given` where they say nothing.

    The curve keeps the shape it has in `given`; only its height is fitted.
    """
    on_curve = given.curve.seconds_of(total_tokens(X))
    columns = np.column_stack([_base_and_sums(X), has_prefill(X), on_curve])
    prior = np.array([*given.coefficients(), given.first_prefill_s, 1.0])
    *sums, first_prefill_s, height = fit_relative(columns, seconds, prior, ridge).tolist()
    return StepCost.from_coefficients(sums, given.curve.scaled(height), first_prefill_s)


def predict_seconds(cost: StepCost, X: Matrix) -> Matrix:
    """Return the predicted seconds of each step of X, float64 (num_steps,)."""
    sums: Matrix = _base_and_sums(X) @ np.array(cost.coefficients())
    sums += cost.first_prefill_s * has_prefill(X)
    return sums + cost.curve.seconds_of(total_tokens(X))


def has_prefill(X: Matrix) -> Matrix:
    """Return 1.0 for each step with a prefill chunk, else 0.0, float64 (num_steps,)."""
    found: Matrix = (X[:, FEATURES.index("num_prefills")] > 0).astype(np.float64)
    return found


def total_tokens(X: Matrix) -> Matrix:
    """Return the tokens of each step, float64 (num_steps,)."""
    tokens: Matrix = X[:, FEATURES.index("decode_tokens")] + X[:, FEATURES.index("prefill_tokens")]
    return tokens


def fit_relative(columns: Matrix, seconds: Matrix, prior: Matrix, ridge: Matrix | float) -> Matrix:
    """Return non-negative coefficients that minimise the mean absolute relative error.

    Args:
        columns: float64 (num_steps, num_columns).
        seconds: float64 (num_steps,), all finite and > 0.
        prior: float64 (num_columns,), returned for columns that are 0 in every step.
        ridge: weight of the squared relative distance to `prior`, in steps per step; one for all
            columns, or float64 (num_columns,).
    """
    relative = columns / seconds[:, None]
    scale = np.sqrt((relative**2).mean(axis=0))
    unseen = scale == 0
    scale[unseen] = 1.0
    relative /= scale
    weights = np.ones(len(seconds))
    for _ in range(NUM_ROUNDS):
        solution = _weighted_round(relative, weights, prior * scale, ridge)
        error = np.abs(relative @ solution - 1.0)
        weights = 1.0 / np.maximum(error, max(SMALL_ERROR, 0.5 * float(np.median(error))))
        weights /= weights.mean()
    return np.where(unseen, prior, solution / scale)


def _weighted_round(
    relative: Matrix, weights: Matrix, prior: Matrix, ridge: Matrix | float
) -> Matrix:
    """Solve one weighted non-negative least squares problem by its normal equations."""
    num_steps, num_columns = relative.shape
    weighted = relative * weights[:, None]
    gram = weighted.T @ relative + np.diag(np.broadcast_to(ridge * num_steps, num_columns))
    target = weighted.sum(axis=0) + ridge * num_steps * prior
    triangle = np.linalg.cholesky(gram)
    solution, _ = nnls(triangle.T, np.linalg.solve(triangle, target), maxiter=50 * num_columns)
    return np.asarray(solution)


def _base_and_sums(X: Matrix) -> Matrix:
    return np.column_stack([np.ones(len(X)), X])
