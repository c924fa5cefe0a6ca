# SPDX-License-Identifier: Apache-2.0
"""Microseconds of pricing one more request, of solving for a chunk, and of a fit; speed.csv.

Each is timed in turn with a reference that nothing here changes: a call with a loop of plain
Python, or NumPy's least squares for the same steps. The ratio to that says the same on any machine;
NumPy has one thread, however many cores there are. With --check FILE: are ratios still what FILE
says?
"""

import argparse
import os
import statistics
import sys
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from harness.provenance import stamp_out
from harness.regression import Row, add_check, compare, read_rows, report
from tables import write_table

from hygen_vllm.cost.composition import StepComposition
from hygen_vllm.cost.learner import CostLearner
from hygen_vllm.cost.profile import load_profile
from hygen_vllm.lab.profile.estimator import StepTimeRegressor

HERE = Path(__file__).parent
PROFILE = HERE.parents[1] / "profiles/a100/llama2-7b"
MEASURES = (
    "hygen_vllm/cost/*.py",
    "hygen_vllm/lab/profile/estimator.py",
    "hygen_vllm/lab/profile/read_trace.py",
    "experiments/02-latency-predictor/speed.py",
    "profiles/a100/llama2-7b/*.json",
)
NUM_FIT_STEPS = 80_000
NUM_LEARNED = 3000
REPEATS = 5
NUM_CALLS = 20_000

Pairs = list[tuple[float, float]]
"""Of each repeat what was measured, and the reference in the same unit."""


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


def reference_call() -> float:
    """Do what takes plain Python about a microsecond."""
    total = 0.0
    for number in range(20):
        total += 0.5 * number
    return total


def us_of(call: Callable[[], object]) -> float:
    """Return microseconds of a call."""
    return 1e6 * timeit.timeit(call, number=NUM_CALLS) / NUM_CALLS


def calls(call: Callable[[], object], repeats: int) -> Pairs:
    """Time a call, after a warm-up."""
    timeit.timeit(call, number=NUM_CALLS // 10)
    return [(us_of(call), us_of(reference_call)) for _ in range(repeats)]


def fits(cost: Any, repeats: int) -> Pairs:
    """Time fits of many steps, seconds."""
    X = random_steps(NUM_FIT_STEPS, seed=0)
    exact = StepTimeRegressor().fit(X[:100], np.ones(100))
    exact.cost_ = cost
    noise = np.exp(np.random.default_rng(1).normal(0.0, 0.03, NUM_FIT_STEPS))
    seconds = exact.predict(X) * noise
    pairs = []
    for _ in range(repeats):
        started = time.perf_counter()
        StepTimeRegressor().fit(X, seconds)
        fitted = time.perf_counter()
        np.linalg.lstsq(X, seconds, rcond=None)
        pairs.append((fitted - started, time.perf_counter() - fitted))
    return pairs


def learnings(cost: Any, repeats: int) -> Pairs:
    """Time learning one step, refits included, on average over many."""
    pairs = []
    for repeat in range(repeats):
        learner = CostLearner(cost)
        rng = np.random.default_rng(repeat)
        X = random_steps(NUM_LEARNED, repeat)
        steps = [StepComposition(*map(int, features)) for features in X]
        started = time.perf_counter()
        for step in steps:
            learner.observe(step, cost.seconds(step) * float(np.exp(rng.normal(0.0, 0.03))))
        each = 1e6 * (time.perf_counter() - started) / len(steps)
        pairs.append((each, us_of(reference_call)))
    return pairs


def cases() -> dict[str, tuple[str, float | None, Callable[[int], Pairs]]]:
    """Return (unit, the most it should be, what measures it so many times) by name."""
    cost = load_profile(PROFILE).cost
    step = StepComposition()
    step.add_decode(1, 800)
    step.add_prefill(300, 900)
    few = StepComposition(num_prefills=1, prefill_tokens=90)

    def timed(call: Callable[[], object]) -> Callable[[int], Pairs]:
        return lambda repeats: calls(call, repeats)

    return {
        "price one more decode": ("us", 2.0, timed(lambda: cost.added_decode_seconds(few, 1, 700))),
        "price one more chunk": ("us", 2.0, timed(lambda: cost.added_chunk_seconds(few, 200, 700))),
        "largest chunk for a time": (
            "us",
            5.0,
            timed(lambda: cost.largest_chunk(few, 700, 400, 0.012)),
        ),
        "price a whole step": ("us", None, timed(lambda: cost.seconds(step))),
        "learn from one step": ("us", None, lambda repeats: learnings(cost, repeats)),
        f"fit {NUM_FIT_STEPS} steps": ("s", 1.0, lambda repeats: fits(cost, repeats)),
    }


def ratio_of(pairs: Pairs) -> float:
    """Return the ratio of the shortest times, which programs beside it prolong least."""
    return min(measured for measured, _ in pairs) / min(reference for _, reference in pairs)


def rows() -> list[dict[str, Any]]:
    found = []
    for what, (unit, aim, measure) in cases().items():
        pairs = measure(REPEATS)
        times = [measured for measured, _ in pairs]
        found.append(
            {
                "what": what,
                "unit": unit,
                "aim": aim,
                "min": f"{min(times):.3g}",
                "median": f"{statistics.median(times):.3g}",
                "max": f"{max(times):.3g}",
                "ratio": f"{ratio_of(pairs):.3g}",
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "speed.csv", help="%(default)s")
    add_check(parser)
    options = parser.parse_args()
    if options.check is not None:
        known = cases()

        def ratio(row: Row, effort: int) -> float:
            return ratio_of(known[row["what"]][2](REPEATS * effort))

        verdicts = compare(read_rows(options.check), ["what"], ratio)
        sys.exit(report(verdicts, options.verdicts))
    write_table(options.out, rows())
    stamp_out(options.out, MEASURES)


if __name__ == "__main__":
    main()
