# SPDX-License-Identifier: Apache-2.0
"""Draws requests: when they come by a stochastic process, how long they are like a real trace's.

The processes, all with a mean of `rate_per_s`:

    poisson   independent arrivals
    gamma     gaps with a coefficient of variation of 3: bursts and lulls
    diurnal   a day pressed into the run: a sine from 0.2 to 1.8 times the mean
    on-off    a minute at twice the mean, a minute of nothing, in turn (mean over pairs of minutes)
    spike     three times the rate in the middle fifth of the run
    steps     half the mean, three times that, and again, a quarter of the run each

Lengths are drawn from quantiles of the Azure 2023 conversation trace (CC-BY-4.0; Splitwise, ISCA
2024) and of the arXiv summarization and ShareGPT sets (project-etalon/etalon, Apache-2.0), or have
the means that were published of CNN/DailyMail, 781 and 56 tokens (See et al., ACL 2017).
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from hygen_vllm.lab.workloads.arrivals import Arrival

GAP_VARIATION = 1.09
"""Coefficient of variation of the gaps in the Azure conversation trace."""
BURST_VARIATION = 3.0
DAY_SWING = 0.8
HALF_PERIOD_S = 60.0
NUM_STEPS = 4
SPIKE = 3.0
SPIKE_FROM, SPIKE_TO = 0.4, 0.6
"""Where the spike is, as shares of the run."""

RateShape = Callable[[float, float], float]
"""(time_s, duration_s) -> rate at that time over the mean rate."""


@dataclass(frozen=True)
class Lengths:
    """How long requests are: tokens at QUANTILE_LEVELS, straight between them."""

    prompt: tuple[int, ...]
    output: tuple[int, ...]

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """Return (prompt tokens, output tokens) of one request."""
        return _draw(rng, self.prompt), _draw(rng, self.output)


QUANTILE_LEVELS = (0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1)
# 19,366 requests. The means, 1155 and 211 tokens, follow from the quantiles within 2 %.
AZURE_LENGTHS = Lengths(
    prompt=(
        *(2, 181, 207, 387, 403, 703, 1020, 1071, 1130, 1315),
        *(2734, 4083, 4142, 6179, 14050),
    ),
    output=(7, 41, 54, 77, 91, 103, 129, 177, 384, 400, 424, 451, 601, 954, 1000),
)
# 26,989 requests of at least 100 prompt and at most 1000 output tokens; means 2686 and 186.
ARXIV_LENGTHS = Lengths(
    prompt=(
        *(107, 1135, 1491, 1928, 2247, 2533, 2789, 3043, 3282, 3508),
        *(3712, 3818, 3936, 4013, 4054),
    ),
    output=(5, 60, 77, 102, 122, 141, 162, 185, 212, 249, 315, 388, 636, 921, 999),
)
# 30,731 requests; means 2340 and 439.
SHAREGPT_LENGTHS = Lengths(
    prompt=(
        *(1, 29, 74, 382, 777, 1203, 1730, 2401, 3235, 4278),
        *(5696, 6563, 7434, 7854, 8141),
    ),
    output=(2, 44, 84, 181, 271, 346, 415, 493, 581, 683, 834, 920, 998, 1021, 1024),
)
# Log-normal with the published means; coefficients of variation of 0.5 and 0.4 are assumed.
CNN_LENGTHS = Lengths(
    prompt=(
        *(148, 321, 381, 469, 545, 620, 699, 787, 895, 1040),
        *(1280, 1519, 2096, 3007, 4047),
    ),
    output=(15, 28, 32, 38, 42, 47, 52, 57, 64, 72, 85, 98, 127, 171, 218),
)


def gamma_times(rate_per_s: float, duration_s: float, variation: float, seed: int) -> list[float]:
    """Return times in [0, duration_s) with gamma gaps of that coefficient of variation."""
    rng = np.random.default_rng(seed)
    return [*_gamma_times(rng, rate_per_s, duration_s, variation)]


def _gamma_times(
    rng: np.random.Generator, rate_per_s: float, duration_s: float, variation: float
) -> Iterator[float]:
    shape = variation**-2
    time_s = rng.gamma(shape, 1 / (rate_per_s * shape))
    while time_s < duration_s:
        yield time_s
        time_s += rng.gamma(shape, 1 / (rate_per_s * shape))


def poisson_times(rate_per_s: float, duration_s: float, seed: int) -> Iterator[float]:
    """Yield the times of `process_times("poisson", ...)` one by one: duration_s may be infinite."""
    return _gamma_times(np.random.default_rng(seed), rate_per_s, duration_s, 1.0)


def shaped_times(rate_per_s: float, duration_s: float, shape: RateShape, seed: int) -> list[float]:
    """Return times of a Poisson process whose rate changes: rate_per_s * shape(time, duration).

    Candidates come at the highest rate and are kept with the share of it that the rate has at
    their time (Lewis and Shedler, 1979).
    """
    rng = np.random.default_rng(seed)
    highest = max(shape(i / 1000 * duration_s, duration_s) for i in range(1000))
    candidates = _gamma_times(rng, rate_per_s * highest, duration_s, 1.0)
    return [t for t in candidates if rng.random() * highest < shape(t, duration_s)]


def _diurnal(time_s: float, duration_s: float) -> float:
    return 1.0 - DAY_SWING * math.cos(2.0 * math.pi * time_s / duration_s)


def _on_off(time_s: float, _: float) -> float:
    return 0.0 if int(time_s // HALF_PERIOD_S) % 2 else 2.0


def _steps(time_s: float, duration_s: float) -> float:
    return 1.5 if int(NUM_STEPS * time_s / duration_s) % 2 else 0.5


def _spike(time_s: float, duration_s: float) -> float:
    base = 1.0 / (1.0 + (SPIKE - 1.0) * (SPIKE_TO - SPIKE_FROM))
    is_spike = SPIKE_FROM <= time_s / duration_s < SPIKE_TO
    return SPIKE * base if is_spike else base


_SHAPES: dict[str, RateShape] = {
    "diurnal": _diurnal,
    "on-off": _on_off,
    "spike": _spike,
    "steps": _steps,
}
PROCESSES = ("poisson", "gamma", *_SHAPES)


def process_times(name: str, rate_per_s: float, duration_s: float, seed: int) -> list[float]:
    """Return the times of one of PROCESSES. Raises ValueError for another name."""
    if name in _SHAPES:
        return shaped_times(rate_per_s, duration_s, _SHAPES[name], seed)
    variations = {"poisson": 1.0, "gamma": BURST_VARIATION}
    if name not in variations:
        raise ValueError(f"process must be one of {', '.join(PROCESSES)}, got {name!r}")
    return gamma_times(rate_per_s, duration_s, variations[name], seed)


def generate_azure_like(rate_per_s: float, duration_s: float, seed: int) -> list[Arrival]:
    """Return arrivals with gamma gaps and lengths distributed like the Azure trace's."""
    rng = np.random.default_rng(seed)
    times_s = _gamma_times(rng, rate_per_s, duration_s, GAP_VARIATION)
    return [Arrival(time_s, *AZURE_LENGTHS.draw(rng)) for time_s in times_s]


def generate_process(name: str, rate_per_s: float, duration_s: float, seed: int) -> list[Arrival]:
    """Return arrivals of one of PROCESSES with the lengths of the Azure trace."""
    rng = np.random.default_rng([seed, 1])
    times_s = process_times(name, rate_per_s, duration_s, seed)
    return [Arrival(time_s, *AZURE_LENGTHS.draw(rng)) for time_s in times_s]


def generate_backlog(lengths: Lengths, count: int, seed: int) -> list[Arrival]:
    """Return requests that are there from the start."""
    rng = np.random.default_rng(seed)
    return [Arrival(0.0, *lengths.draw(rng)) for _ in itertools.repeat(None, count)]


def _draw(rng: np.random.Generator, quantiles: tuple[int, ...]) -> int:
    return round(float(np.interp(rng.random(), QUANTILE_LEVELS, quantiles)))
