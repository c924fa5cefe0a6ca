# SPDX-License-Identifier: Apache-2.0
"""Steps of a device whose prices are known, with noise and stalls, all seeded."""

import math
import random
from collections.abc import Iterator, Sequence

import numpy as np

from hygen_vllm.cost.composition import StepComposition
from hygen_vllm.cost.curve import TokenCurve
from hygen_vllm.cost.fit import Matrix
from hygen_vllm.cost.step_cost import StepCost

TRUE = StepCost(0.02, 2e-4, 3e-8, 1e-3, 1.2e-4, 2e-8, 1e-7, TokenCurve((128, 512), (5e-5, 1.5e-4)))
"""About a small model on a CPU: 20 ms a step, 0.12 ms a prefill token, bends at 128 and 512."""


def decodes(rng: random.Random, most: int = 48) -> StepComposition:
    """Return a step of 1 to `most` decodes."""
    step = StepComposition()
    for _ in range(rng.randint(1, most)):
        step.add_decode(1, rng.randint(1, 2000))
    return step


def mixed(rng: random.Random) -> StepComposition:
    """Return a step of decodes and up to two chunks."""
    step = decodes(rng)
    for _ in range(rng.randint(0, 2)):
        step.add_prefill(rng.randint(1, 400), rng.choice([0, 0, rng.randint(1, 2000)]))
    return step


def mixed_steps(seed: int, count: int) -> Iterator[StepComposition]:
    """Return so many mixed steps."""
    rng = random.Random(seed)
    return (mixed(rng) for _ in range(count))


def noise(rng: random.Random, share: float = 0.05) -> float:
    """Return 1 give or take a share."""
    return math.exp(rng.gauss(0, share))


def matrix(steps: Sequence[StepComposition]) -> Matrix:
    """Return the sums of steps as rows."""
    return np.array([step.features() for step in steps], dtype=np.float64)


def measured(
    seed: int, count: int, cost: StepCost = TRUE, share: float = 0.05, stalls: float = 0.02
) -> tuple[Matrix, Matrix]:
    """Return X and seconds of mixed steps, some of them twenty times too long."""
    rng = random.Random(seed + 1000)
    steps = [*mixed_steps(seed, count)]
    seconds = [
        cost.seconds(step) * noise(rng, share) * (20 if rng.random() < stalls else 1)
        for step in steps
    ]
    return matrix(steps), np.array(seconds)
