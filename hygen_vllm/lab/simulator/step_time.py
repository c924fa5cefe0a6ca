# SPDX-License-Identifier: Apache-2.0
"""How long a step really takes in a simulation: a device model or a profile, and what disturbs it.

This is the truth of a simulated run. What the scheduler under test believes about it is made in
`predictor.py` and known only there.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from hygen_vllm.cost.profile import find_profile, load_profile
from hygen_vllm.cost.step_cost import StepCost
from hygen_vllm.lab.simulator.device_model import FILE_NAME, load_device
from hygen_vllm.lab.simulator.step_work import StepWork


class Device(Protocol):
    """Says how long a step takes."""

    def step_seconds(self, work: StepWork) -> float:
        """Return the seconds of a step, > 0."""


@dataclass(frozen=True)
class PricedDevice:
    """A device whose steps take exactly what a profile says."""

    cost: StepCost

    def step_seconds(self, work: StepWork) -> float:
        return self.cost.seconds(work.composition())


def load_step_times(profile: str | Path) -> Device:
    """Return the device model in a profile's folder, or the profile itself if there is none.

    Raises: ConfigError, one line.
    """
    file = find_profile(profile)
    if (file.parent / FILE_NAME).is_file():
        return load_device(file.parent)
    return PricedDevice(load_profile(file).cost)


@dataclass(frozen=True)
class Disturbance:
    """What happens to the times of a device.

    Args:
        noise: standard deviation of the logarithm of a step's time, lognormal, mean 1.
        slowdowns: (time_s, factor): steps that begin from then on take `factor` times as long.
        stalls: (time_s, seconds): the first step that begins from then on takes so much longer.
    """

    noise: float = 0.0
    slowdowns: tuple[tuple[float, float], ...] = ()
    stalls: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"noise must be >= 0, got {self.noise}")
        if not all(time_s >= 0 and 0 < factor < math.inf for time_s, factor in self.slowdowns):
            raise ValueError("a slowdown needs a time >= 0 and a factor > 0")
        if not all(time_s >= 0 and 0 <= seconds < math.inf for time_s, seconds in self.stalls):
            raise ValueError("a stall needs a time >= 0 and seconds >= 0")


class StepClock:
    """The seconds of step after step of a device that is disturbed."""

    def __init__(self, device: Device, disturbance: Disturbance, seed: int) -> None:
        self._device = device
        self._noise = disturbance.noise
        self._rng = np.random.default_rng(seed)
        self._slowdowns = sorted(disturbance.slowdowns)
        self._stalls = sorted(disturbance.stalls)
        self._factor = 1.0

    def step_seconds(self, work: StepWork, begins_s: float) -> float:
        """Return the seconds of a step that begins then; times must not fall from call to call."""
        while self._slowdowns and self._slowdowns[0][0] <= begins_s:
            self._factor = self._slowdowns.pop(0)[1]
        seconds = self._factor * self._device.step_seconds(work)
        if self._noise:
            seconds *= math.exp(self._rng.normal(-0.5 * self._noise**2, self._noise))
        while self._stalls and self._stalls[0][0] <= begins_s:
            seconds += self._stalls.pop(0)[1]
        return seconds
