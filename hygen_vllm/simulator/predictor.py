# SPDX-License-Identifier: Apache-2.0
"""What the scheduler of a simulated engine believes about step times.

As in life it is fitted to noisy measurements of the device, not taken from it; and it can be made
wrong on purpose, by a systematic error that learning from steps does not remove.
"""

import numpy as np

from hygen_vllm.latency.cost_fit import Matrix, fit_cost, predict_seconds
from hygen_vllm.latency.cost_learner import CostLearner
from hygen_vllm.latency.engine_info import EngineInfo
from hygen_vllm.latency.step_cost import StepCost
from hygen_vllm.latency.token_curve import TokenCurve
from hygen_vllm.profiler.batch_shapes import design
from hygen_vllm.simulator.step_time import Device
from hygen_vllm.simulator.step_work import StepWork

NUM_MIXES = 600
NOISE = 0.03
"""Standard deviation of the logarithm of measured over true seconds, while profiling."""
LARGEST_SPREAD = 8.0


def profile_device(
    device: Device, engine: EngineInfo, knees: tuple[int, ...], seed: int
) -> tuple[StepCost, Matrix]:
    """Return prices fitted to noisy steps of a device, and the sums of those steps.

    Args: knees: where the curve of the prices may bend.
    """
    works = [StepWork.of(shape) for shape in design(engine, NUM_MIXES, seed)]
    X = np.array([work.composition().features() for work in works], dtype=np.float64)
    noise = np.random.default_rng(seed).lognormal(-0.5 * NOISE**2, NOISE, len(works))
    seconds = np.array([device.step_seconds(work) for work in works]) * noise
    return fit_cost(X, seconds, knees), X


class Distortion:
    """A systematic error of prices: each is off by a factor of its own, seeded.

    The factors are spread so that predictions of the given steps are off by `mape` on average.
    What was monotone stays so.
    """

    def __init__(self, cost: StepCost, X: Matrix, mape: float, seed: int) -> None:
        rng = np.random.default_rng([seed, 2])
        self._logs = rng.standard_normal(len(cost.coefficients()) + 1)
        self._spread = 0.0
        true_s = predict_seconds(cost, X)
        low, high = 0.0, LARGEST_SPREAD
        for _ in range(40):
            self._spread = 0.5 * (low + high)
            error = np.abs(predict_seconds(self(cost), X) / true_s - 1.0).mean()
            low, high = (self._spread, high) if error < mape else (low, self._spread)

    def __call__(self, cost: StepCost) -> StepCost:
        """Return prices that are off."""
        *factors, curve_factor = np.exp(self._spread * self._logs).tolist()
        values = [f * value for f, value in zip(factors, cost.coefficients(), strict=True)]
        curve: TokenCurve = cost.curve.scaled(curve_factor)
        return StepCost.from_coefficients(values, curve)


class DistortedLearner(CostLearner):
    """Learns as CostLearner does, and publishes prices that are off all the same."""

    def __init__(self, given: StepCost, distortion: Distortion) -> None:
        self._distortion = distortion
        super().__init__(given)
        self.cost = distortion(given)

    def _publish(self) -> None:
        super()._publish()
        assert self.cost is not None
        self.cost = self._distortion(self.cost)
