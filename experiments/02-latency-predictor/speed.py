# SPDX-License-Identifier: Apache-2.0
"""Microseconds of pricing one more request, of solving for a chunk, and of a fit; speed.csv."""

import statistics
import time
import timeit
from pathlib import Path

import numpy as np
from tables import write_table

from hygen_vllm.latency.cost_learner import CostLearner
from hygen_vllm.latency.estimator import StepTimeRegressor
from hygen_vllm.latency.profile_file import load_profile
from hygen_vllm.latency.step_features import StepComposition

HERE = Path(__file__).parent
PROFILE = HERE.parents[1] / "profiles/a100/llama2-7b"
NUM_FIT_STEPS = 80_000
REPEATS = 5
NUM_CALLS = 20_000


def random_steps(num_steps: int, seed: int) -> np.ndarray:
    """Return X of steps with up to 128 decodes and 4 chunks, float64 (num_steps, 6)."""
    rng = np.random.default_rng(seed)
    decodes = rng.integers(0, 128, num_steps)
    chunks = rng.integers(1, 5, num_steps)
    tokens = rng.integers(4, 384, num_steps)
    computed = rng.integers(0, 3000, num_steps)
    attention = tokens * (computed + tokens / chunks / 2)
    context = decodes * rng.integers(1, 4000, num_steps)
    return np.column_stack(
        [decodes, context, chunks, tokens, attention, chunks * computed + tokens]
    ).astype(np.float64)


def us_per_call(call) -> list[float]:
    """Return microseconds of a call in each of REPEATS runs, after a warm-up."""
    timeit.timeit(call, number=NUM_CALLS // 10)
    return [1e6 * t / NUM_CALLS for t in timeit.repeat(call, number=NUM_CALLS, repeat=REPEATS)]


def fit_seconds(cost, num_steps: int) -> list[float]:
    X = random_steps(num_steps, seed=0)
    exact = StepTimeRegressor().fit(X[:100], np.ones(100))
    exact.cost_ = cost
    seconds = exact.predict(X) * np.exp(np.random.default_rng(1).normal(0.0, 0.03, num_steps))
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        StepTimeRegressor().fit(X, seconds)
        times.append(time.perf_counter() - started)
    return times


def observe_us(cost) -> list[float]:
    """Return microseconds of learning one step, refits included, on average over 3,000 steps."""
    times = []
    for repeat in range(REPEATS):
        learner = CostLearner(cost)
        rng = np.random.default_rng(repeat)
        steps = [StepComposition(*map(int, features)) for features in random_steps(3000, repeat)]
        started = time.perf_counter()
        for step in steps:
            learner.observe(step, cost.seconds(step) * float(np.exp(rng.normal(0.0, 0.03))))
        times.append(1e6 * (time.perf_counter() - started) / len(steps))
    return times


def main() -> None:
    cost = load_profile(PROFILE).cost
    step = StepComposition()
    step.add_decode(1, 800)
    step.add_prefill(300, 900)
    measured = {
        ("price one more decode", "us", 2.0): us_per_call(
            lambda: cost.added_decode_seconds(90, 1, 700)
        ),
        ("price one more chunk", "us", 2.0): us_per_call(
            lambda: cost.added_chunk_seconds(90, 200, 700)
        ),
        ("largest chunk for a time", "us", 5.0): us_per_call(
            lambda: cost.largest_chunk(90, 700, 400, 0.012)
        ),
        ("price a whole step", "us", None): us_per_call(lambda: cost.seconds(step)),
        ("learn from one step", "us", None): observe_us(cost),
        (f"fit {NUM_FIT_STEPS} steps", "s", 1.0): fit_seconds(cost, NUM_FIT_STEPS),
    }
    rows = [
        {
            "what": what,
            "unit": unit,
            "aim": aim,
            "min": f"{min(times):.3g}",
            "median": f"{statistics.median(times):.3g}",
            "max": f"{max(times):.3g}",
        }
        for (what, unit, aim), times in measured.items()
    ]
    write_table("speed.csv", rows)


if __name__ == "__main__":
    main()
