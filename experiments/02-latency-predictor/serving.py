# SPDX-License-Identifier: Apache-2.0
"""Serves online and offline requests in virtual time with the real scheduler, and traces it."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import numpy as np

from hygen_vllm import HyGenScheduler
from hygen_vllm.bare_scheduler import Limits, make_request, make_scheduler
from hygen_vllm.latency.cost_learner import CostLearner
from hygen_vllm.latency.step_cost import StepCost
from hygen_vllm.latency.step_features import StepComposition
from hygen_vllm.simulator.device_model import DeviceModel
from hygen_vllm.simulator.virtual_engine import VirtualEngine
from hygen_vllm.workloads.arrival_processes import generate_azure_like

PROFILES = Path(__file__).parents[2] / "profiles"
LIMITS = Limits(
    max_num_seqs=128,
    max_num_batched_tokens=512,
    max_model_len=4096,
    num_blocks=2600,
    block_size=16,
    prefix_caching=False,
)
ONLINE_PER_S = 1.1
NUM_OFFLINE_WAITING = 20


class WatchedScheduler(HyGenScheduler):
    """Says of each step what is in it, and what it was expected to take."""

    def schedule(self, throttle_prefills: bool = False):
        output = super().schedule(throttle_prefills)
        self.composition = self._composition(output)
        self.predicted_s = self.learner.predict(self.composition)
        return output


@dataclass(frozen=True)
class ServedStep:
    """A step of a virtual engine; seconds without the noise of the measurement."""

    composition: StepComposition
    predicted_s: float | None
    true_s: float
    measured_s: float
    online_s: float
    """Seconds that its online part would take alone; 0 if it has none."""
    has_offline: bool


@dataclass(frozen=True)
class Disturbance:
    """What happens to the times of a device; functions of the number of the step.

    Args:
        noise: standard deviation of the logarithm of measured / true seconds.
        slowdown: factor on the true seconds.
    """

    noise: float = 0.0
    slowdown: Callable[[int], float] = lambda _: 1.0


class DisturbedDevice:
    """A device model with a disturbance; remembers the last step."""

    def __init__(self, device: DeviceModel, disturbance: Disturbance, seed: int) -> None:
        self._device = device
        self._disturbance = disturbance
        self._rng = np.random.default_rng(seed)
        self._num_steps = 0
        self.true_s = 0.0
        self.measured_s = 0.0

    def step_seconds(self, work: Sequence[tuple[int, int]]) -> float:
        self.true_s = self.true_seconds(work)
        noise = float(np.exp(self._rng.normal(0.0, self._disturbance.noise)))
        self.measured_s = self.true_s * noise
        self._num_steps += 1
        return self.measured_s

    def true_seconds(self, work: Sequence[tuple[int, int]]) -> float:
        return self._device.seconds(work) * self._disturbance.slowdown(self._num_steps)


def serve(
    device: DisturbedDevice,
    hygen: dict[str, Any],
    num_steps: int,
    *,
    seed: int,
    given: StepCost | None = None,
) -> list[ServedStep]:
    """Return the steps of an engine that serves an Azure-like load beside an offline backlog.

    Args:
        hygen: the scheduler's settings.
        given: the prices it starts with, as from a profile.
    """
    scheduler = make_scheduler(WatchedScheduler, LIMITS, hygen)
    scheduler.learner = CostLearner(given)
    engine = VirtualEngine(scheduler, device.step_seconds)
    requests = Requests(engine, seed)
    served: list[ServedStep] = []
    while len(served) < num_steps:
        requests.add_due()
        work = engine.step()
        if not work:
            engine.now_s = max(engine.now_s, requests.next_arrival_s)
            continue
        online = [each for name, each in work.items() if name.startswith("online")]
        served.append(
            ServedStep(
                scheduler.composition,
                scheduler.predicted_s,
                device.true_s,
                device.measured_s,
                device.true_seconds(online) if online else 0.0,
                has_offline=len(online) < len(work),
            )
        )
    return served


class Requests:
    """Online requests when their time has come, offline ones so that some always wait."""

    def __init__(self, engine: VirtualEngine, seed: int) -> None:
        self._engine = engine
        self._rng = np.random.default_rng(seed)
        self._arrivals = iter(generate_azure_like(ONLINE_PER_S, 3600.0, seed))
        self._next = next(self._arrivals)
        self._num_added = 0

    @property
    def next_arrival_s(self) -> float:
        return self._next.time_s

    def add_due(self) -> None:
        while self._next.time_s <= self._engine.now_s:
            self._add("online", self._next.prompt_tokens, self._next.output_tokens)
            self._next = next(self._arrivals)
        while len(self._engine.scheduler.waiting.offline) < NUM_OFFLINE_WAITING:
            self._add("offline", *map(int, self._rng.integers((200, 20), (3000, 300))))

    def _add(self, slo_class: str, prompt_tokens: int, output_tokens: int) -> None:
        self._num_added += 1
        prompt_tokens = min(prompt_tokens, LIMITS.max_model_len - output_tokens - 1)
        request = make_request(
            f"{slo_class}-{self._num_added}",
            [(i * 7) % 1000 for i in range(prompt_tokens)],
            slo_class=slo_class,
            max_tokens=output_tokens,
            block_size=LIMITS.block_size,
        )
        self._engine.add(request)
