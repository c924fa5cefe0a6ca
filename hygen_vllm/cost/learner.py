# SPDX-License-Identifier: Apache-2.0
"""Learns the cost of a step from measured steps while the engine serves.

Two things are learned at two speeds. The form: the latest steps of each kind (with or without
prefill, by size) are kept, so that a long time of one kind does not wash out the others, and the
cost is fitted to them again every so often. The level: how long everything takes now, compared with
the form, follows each measured step by a bounded part of the difference, so that a slower neighbour
is noticed within tens of steps and a single stray step hardly at all.

At each fit the two are settled. Either the engine did change: then all kept steps are brought to
the present level, also those of kinds not seen since. Or the form was wrong, for example about
longer contexts than it had seen: then a new form explains the steps as they were measured, and the
level starts anew. The second is believed unless the first explains the steps better by 1 %; where
costs were given, the first is, unless it explains them worse by 2 %.
"""

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from hygen_vllm.cost.composition import StepComposition
from hygen_vllm.cost.curve import COARSE_KNEES
from hygen_vllm.cost.fit import Matrix, fit_cost, predict_seconds, refit_cost
from hygen_vllm.cost.step_cost import StepCost

STEPS_PER_KIND = 32
"""Steps that tell the form of a kind: several for each of the nine coefficients."""
REFIT_EVERY = 32
"""Steps between two fits once there are many; the first steps are all fitted at once."""
RIDGE = 1e-3
"""Of a fit to few steps: a coefficient that they say little about stays as it was."""
LEVEL_GAIN = 0.1
"""Share of a step's difference by which the level follows."""
LARGEST_SURPRISE = 0.1
"""Logarithm of measured / predicted beyond which a step says no more: 10 times as long moves the
level by LEVEL_GAIN * LARGEST_SURPRISE, 1 %."""
LEVEL_TO_PUBLISH = 0.005
"""Change of the level below which costs stay as they are: half a percent decides nothing."""
CLEARLY_BETTER = 0.01
"""Difference of mean relative errors that decides between a change of level and a new form."""


@dataclass(slots=True)
class _Kept:
    features: list[float]
    seconds: float
    level: float
    """The level when it was measured, 0 if that was before the last fit."""


class CostLearner:
    """Holds the current StepCost: a given one, a learned one, or none yet.

    Args:
        given: known costs, for example from a profile; learning goes on from there, and costs of
            what the engine has not done yet stay as they are but for the level.
    """

    def __init__(self, given: StepCost | None = None) -> None:
        self.cost = given
        """Costs at the present level."""
        self.largest_prefill_tokens = 0
        """Most prefill tokens seen in one step; the model is not trusted far beyond."""
        self._given = given
        self._form = given
        self._level = 0.0
        """Logarithm of what steps take now over what the form says."""
        self._published_level = 0.0
        self._kept: dict[tuple[bool, int], deque[_Kept]] = {}
        self._num_observed = 0
        self._next_refit = 1 if given is None else REFIT_EVERY

    @property
    def trusts_any_size(self) -> bool:
        """True if the costs were given rather than learned from steps seen so far."""
        return self._given is not None

    @property
    def is_new(self) -> bool:
        """True while every step should be measured."""
        return self._num_observed < 4 * STEPS_PER_KIND

    def predict(self, step: StepComposition) -> float | None:
        """Return the seconds expected of a step, None while nothing is known."""
        if self._form is None:
            return None
        return self._form.seconds(step) * math.exp(self._level)

    def observe(self, step: StepComposition, seconds: float) -> None:
        """Learn from a measured step. Ignores times that are not finite and > 0."""
        if not 0 < seconds < math.inf or step.total_tokens == 0:
            return
        predicted_s = self.predict(step)
        if predicted_s:
            surprise = math.log(seconds / predicted_s)
            surprise = min(LARGEST_SURPRISE, max(-LARGEST_SURPRISE, surprise))
            self._level += LEVEL_GAIN * surprise
        kind = step.has_prefill, step.total_tokens.bit_length()
        ring = self._kept.setdefault(kind, deque(maxlen=STEPS_PER_KIND))
        ring.append(_Kept(step.features(), seconds, self._level))
        self.largest_prefill_tokens = max(self.largest_prefill_tokens, step.prefill_tokens)
        self._num_observed += 1
        if self._num_observed >= self._next_refit:
            self._refit()
            self._next_refit = self._num_observed + min(REFIT_EVERY, 1 + self._num_observed // 8)
        elif abs(self._level - self._published_level) > LEVEL_TO_PUBLISH:
            self._publish()

    def _refit(self) -> None:
        """Settle form and level; see the module docstring."""
        kept = [step for ring in self._kept.values() for step in ring]
        X = np.array([step.features for step in kept])
        seconds = np.array([step.seconds for step in kept])
        changes = self._level - np.array([step.level for step in kept])
        self._form, error = self._fit(X, seconds, self._given)
        if np.abs(changes).max() > LEVEL_TO_PUBLISH:
            given = self._given.scaled(math.exp(self._level)) if self._given else None
            form, error_if_changed = self._fit(X, seconds * np.exp(changes), given)
            if self._is_change(X, seconds, given, error, error_if_changed):
                self._form, self._given = form, given
                for step, change in zip(kept, changes.tolist(), strict=True):
                    step.seconds *= math.exp(change)
        for step in kept:
            step.level = 0.0
        self._level = 0.0
        self._publish()

    @staticmethod
    def _is_change(
        X: Matrix, seconds: Matrix, given: StepCost | None, error: float, error_if_changed: float
    ) -> bool:
        """Whether a change of level explains the steps, rather than a new form.

        Given costs that need nothing but another level are believed to be right otherwise.
        """
        if given is not None and _error(given, X, seconds) < error + 2 * CLEARLY_BETTER:
            return True
        return error_if_changed < error - CLEARLY_BETTER

    @staticmethod
    def _fit(X: Matrix, seconds: Matrix, given: StepCost | None) -> tuple[StepCost, float]:
        """Return the cost that fits the steps, and its mean absolute relative error."""
        if given is None:
            cost = fit_cost(X, seconds, COARSE_KNEES, RIDGE)
        else:
            cost = refit_cost(X, seconds, given, RIDGE)
        return cost, _error(cost, X, seconds)

    def _publish(self) -> None:
        assert self._form is not None
        self.cost = self._form.scaled(math.exp(self._level))
        self._published_level = self._level


def _error(cost: StepCost, X: Matrix, seconds: Matrix) -> float:
    return float(np.abs(predict_seconds(cost, X) / seconds - 1.0).mean())
