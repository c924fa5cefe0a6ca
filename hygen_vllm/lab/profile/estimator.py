# SPDX-License-Identifier: Apache-2.0
"""StepTimeRegressor: the price of a step as a scikit-learn estimator.

For fitting profiles and comparing with other models; the scheduler itself uses the StepCost that
comes out (`cost_`) and never imports scikit-learn.
"""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import (
    check_array,
    check_consistent_length,
    check_is_fitted,
)

from hygen_vllm.cost.composition import FEATURES
from hygen_vllm.cost.curve import COARSE_KNEES, fine_knees
from hygen_vllm.cost.fit import Matrix, fit_cost, predict_seconds, total_tokens
from hygen_vllm.lab.profile.read_trace import is_measured

STEPS_PER_KNEE = 5
"""A knee is used only if so many steps lie between it and the next one."""
NUM_FOLDS = 4
STEPS_TO_CHOOSE = 10_000
"""Steps that decide between few knees and many."""

Knees = tuple[int, ...]


class StepTimeRegressor(RegressorMixin, BaseEstimator):
    """Seconds of a step, additive over its requests on top of a curve in its total tokens.

    Minimises the mean absolute relative error; no coefficient is negative and the curve never
    falls, so more work never predicts less.

    Args:
        knees: total tokens at which the curve may bend. "coarse": 64, 128, 256 and 512; "auto":
            these, or where tiled matrix products make stairs, whichever predicts steps better that
            it has not seen; or a sequence of int.
        ridge: shares the price among sums that were only seen together.

    Learned by fit():
        cost_: the StepCost.
        coef_: float64 (n_features_in_,), seconds per unit of each column of X.
        intercept_: seconds of an empty step.
        n_features_in_: always len(FEATURES).

    HyGen (arXiv 2501.14808, section 4.1) fits S_p, S_d, S_p^2, N_p and N_d by least squares.
    """

    def __init__(self, knees: Any = "auto", ridge: float = 1e-8) -> None:
        self.knees = knees
        self.ridge = ridge

    def fit(self, X: Any, y: Any) -> "StepTimeRegressor":
        """Fit to steps: X float64 (num_steps, len(FEATURES)), y seconds float64 (num_steps,).

        Steps whose seconds are not finite and > 0 are left out. Raises ValueError if nothing is
        left, or for a matrix of another shape.
        """
        y = np.asarray(y, dtype=np.float64)
        if y.ndim != 1:
            raise ValueError(f"y must have one time a step, got an array of shape {y.shape}")
        check_consistent_length(X, y)
        measured = is_measured(y)
        if not measured.any():
            raise ValueError(f"none of {len(measured)} steps has a time that is finite and > 0")
        X, y = check_array(np.asarray(X)[measured], dtype=np.float64), y[measured]
        self._check_columns(X)
        self.cost_ = fit_cost(X, y, self._knees(X, y), self.ridge)
        self.n_features_in_ = X.shape[1]
        self.intercept_, *coefficients = self.cost_.coefficients()
        self.coef_ = np.array(coefficients)
        return self

    def predict(self, X: Any) -> Matrix:
        """Return predicted seconds, float64 (num_steps,). Raises NotFittedError before fit()."""
        check_is_fitted(self, msg="call fit() or load a profile before predict()")
        X = check_array(X, dtype=np.float64)
        self._check_columns(X)
        return predict_seconds(self.cost_, X)

    def _check_columns(self, X: Matrix) -> None:
        if X.shape[1] != len(FEATURES):
            raise ValueError(
                f"X must have {len(FEATURES)} columns ({', '.join(FEATURES)}), got {X.shape[1]}"
            )
        if (X < 0).any():
            raise ValueError("X must not be negative: it counts tokens and requests")

    def _knees(self, X: Matrix, y: Matrix) -> Knees:
        if isinstance(self.knees, str) and self.knees == "coarse":
            return COARSE_KNEES
        if not (isinstance(self.knees, str) and self.knees == "auto"):
            return tuple(int(knee) for knee in self.knees)
        fine = _supported(fine_knees(int(total_tokens(X).max())), total_tokens(X))
        return min((COARSE_KNEES, fine), key=lambda knees: _held_out_error(X, y, knees))


def _supported(knees: Knees, tokens: Matrix) -> Knees:
    """Return the knees that have steps enough before the next one, the first always."""
    ordered = np.sort(tokens)
    kept: list[int] = []
    for knee in reversed(knees):
        end = kept[-1] if kept else np.inf
        inside = np.searchsorted(ordered, end) - np.searchsorted(ordered, knee)
        if inside >= STEPS_PER_KNEE:
            kept.append(knee)
    return tuple(reversed(kept)) or knees[:1]


def _held_out_error(X: Matrix, y: Matrix, knees: Knees) -> float:
    """Return the MAPE of a fit on steps that it has not seen."""
    rng = np.random.default_rng(0)
    if len(y) > STEPS_TO_CHOOSE:
        chosen = rng.choice(len(y), STEPS_TO_CHOOSE, replace=False)
        X, y = X[chosen], y[chosen]
    fold = np.arange(len(y)) * NUM_FOLDS // len(y)
    errors = []
    for number in range(NUM_FOLDS):
        held = fold == number
        if held.any() and not held.all():
            cost = fit_cost(X[~held], y[~held], knees)
            errors.append(np.abs(predict_seconds(cost, X[held]) / y[held] - 1.0))
    return float(np.concatenate(errors).mean()) if errors else 0.0
