# SPDX-License-Identifier: Apache-2.0
"""Learns the price of a step from measured steps while the engine serves.

Keeps the latest steps of each kind (with or without prefill, by size), so that a long time of one
kind does not wash out the others, and refits by non-negative least squares of the relative error.
A step that took far too long has a relative residual below 1, so one stall moves little.
"""

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from hygen_vllm.latency.step_cost import StepCost
from hygen_vllm.latency.step_features import NUM_FEATURES, StepComposition

SAMPLES_PER_KIND = 32
REFIT_EVERY = 32
"""Steps between two fits once there are many; the first steps are all fitted at once."""
RIDGE = 1e-3


class CostLearner:
    """Holds the current StepCost: a given one, a learned one, or none yet.

    Args:
        cost: known prices, for example from a profile; learning goes on from there, and prices of
            what the engine has not done yet stay as they are.
    """

    def __init__(self, cost: StepCost | None = None) -> None:
        self.cost = cost
        self.largest_prefill_tokens = 0
        """Most prefill tokens seen in one step; the model is not trusted far beyond."""
        self._given = cost
        self._samples: dict[tuple[bool, int], deque[tuple[list[float], float]]] = {}
        self._num_observed = 0
        self._next_refit = 1

    @property
    def trusts_any_size(self) -> bool:
        """True if the prices were given rather than learned from steps seen so far."""
        return self._given is not None

    @property
    def is_new(self) -> bool:
        """True while every step should be measured."""
        return self._num_observed < 4 * SAMPLES_PER_KIND

    def observe(self, step: StepComposition, seconds: float) -> None:
        """Record a measured step; refit when due. Ignores times that are not finite and > 0."""
        if not 0 < seconds < math.inf or step.total_tokens == 0:
            return
        kind = step.num_prefills > 0, step.total_tokens.bit_length()
        ring = self._samples.setdefault(kind, deque(maxlen=SAMPLES_PER_KIND))
        ring.append((step.features(), seconds))
        self.largest_prefill_tokens = max(self.largest_prefill_tokens, step.prefill_tokens)
        self._num_observed += 1
        if self._num_observed >= self._next_refit:
            self.cost = self._fit()
            self._next_refit = self._num_observed + min(REFIT_EVERY, 1 + self._num_observed // 8)

    def _fit(self) -> StepCost:
        rows = [sample for ring in self._samples.values() for sample in ring]
        features = np.array([row[0] for row in rows])
        seconds = np.array([row[1] for row in rows])
        given = np.array(self._given.coefficients() if self._given else [0.0] * NUM_FEATURES)
        return StepCost.from_coefficients(fit_relative(features, seconds, given).tolist())


def fit_relative(
    features: NDArray[np.float64], seconds: NDArray[np.float64], given: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return non-negative coefficients that minimise the squared relative error.

    Args:
        features: float64 (num_steps, NUM_FEATURES).
        seconds: float64 (num_steps,), all > 0.
        given: float64 (NUM_FEATURES,), returned for features that are 0 in every step.
    A small ridge towards `given` decides among features that always move together.
    """
    relative = features / seconds[:, None]
    scale = np.sqrt((relative**2).mean(axis=0))
    unseen = scale == 0
    scale[unseen] = 1.0
    ridge = math.sqrt(RIDGE * len(seconds)) * np.eye(NUM_FEATURES)
    system = np.vstack([relative / scale, ridge])
    target = np.concatenate([np.ones(len(seconds)), ridge @ (given * scale)])
    triangle = np.asarray(np.linalg.qr(np.column_stack([system, target]), mode="r"))
    solution, _ = nnls(triangle[:NUM_FEATURES, :NUM_FEATURES], triangle[:NUM_FEATURES, -1])
    return np.where(unseen, given, solution / scale)
