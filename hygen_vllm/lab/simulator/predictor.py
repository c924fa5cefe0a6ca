# SPDX-License-Identifier: Apache-2.0
"""What the scheduler of a simulated engine believes about step times.

As in life it is fitted to noisy measurements of the device, not taken from it; and it can be made
wrong on purpose, by a systematic error that learning from steps does not remove.
"""

import numpy as np

from hygen_vllm.cost.engine_info import EngineInfo
from hygen_vllm.cost.fit import Matrix, fit_cost, predict_seconds
from hygen_vllm.cost.learner import CostLearner
from hygen_vllm.cost.step_cost import StepCost
from hygen_vllm.lab.profile.batch_shapes import design
from hygen_vllm.lab.simulator.step_time import Device
from hygen_vllm.lab.simulator.step_work import StepWork

NUM_MIXES = 600
NOISE = 0.03
"""Standard deviation of the logarithm of measured over true seconds, while profiling."""
LEAST_FACTOR = 0.05


def profile_device(
    device: Device, engine: EngineInfo, knees: tuple[int, ...], seed: int
) -> tuple[StepCost, Matrix]:
    """Return costs fitted to noisy steps of a device, and the sums of those steps.

    Args: knees: where the curve of the costs may bend.
    """
    works = [StepWork.of(shape) for shape in design(engine, NUM_MIXES, seed)]
    X = np.array([work.composition().features() for work in works], dtype=np.float64)
    noise = np.random.default_rng(seed).lognormal(-0.5 * NOISE**2, NOISE, len(works))
    seconds = np.array([device.step_seconds(work) for work in works]) * noise
    return fit_cost(X, seconds, knees), X


class Distortion:
    """A systematic error of costs: all are too high, or all too low, each by a share of its own.

    Which and by how much is seeded. The shares are half to one and a half times `mape` and such
    that predictions of the given steps are off by `mape` on average; what steps an engine really
    takes is not known before, so it is about that in a run. What was monotone stays so.
    """

    def __init__(self, cost: StepCost, X: Matrix, mape: float, seed: int) -> None:
        rng = np.random.default_rng([seed, 2])
        sign = rng.choice((-1.0, 1.0))
        shares = rng.uniform(0.5, 1.5, len(cost.coefficients()) + 1)
        true_s = predict_seconds(cost, X)
        mean_share = (predict_seconds(_scaled(cost, shares), X) / true_s).mean()
        self._factors = np.maximum(LEAST_FACTOR, 1.0 + sign * mape / mean_share * shares)

    def __call__(self, cost: StepCost) -> StepCost:
        """Return costs that are off."""
        return _scaled(cost, self._factors)


def _scaled(cost: StepCost, factors: Matrix) -> StepCost:
    """Return costs with each coefficient, and last the curve, times a factor of its own."""
    *some, curve_factor = factors.tolist()
    values = [factor * value for factor, value in zip(some, cost.coefficients(), strict=True)]
    first_prefill_s = curve_factor * cost.first_prefill_s
    return StepCost.from_coefficients(values, cost.curve.scaled(curve_factor), first_prefill_s)


class DistortedLearner(CostLearner):
    """Learns as CostLearner does, and publishes costs that are off all the same."""

    def __init__(self, given: StepCost, distortion: Distortion) -> None:
        self._distortion = distortion
        super().__init__(given)
        self.cost = distortion(given)

    def _publish(self) -> None:
        super()._publish()
        assert self.cost is not None
        self.cost = self._distortion(self.cost)
