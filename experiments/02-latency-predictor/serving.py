# SPDX-License-Identifier: Apache-2.0
"""Serves online and offline requests in virtual time with the real scheduler, and traces it."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import numpy as np

from hygen_vllm import HyGenScheduler
from hygen_vllm.cost.composition import StepComposition
from hygen_vllm.cost.learner import CostLearner
from hygen_vllm.cost.step_cost import StepCost
from hygen_vllm.lab.bare_scheduler import Limits, make_request, make_scheduler
from hygen_vllm.lab.simulator.device_model import DeviceModel
from hygen_vllm.lab.simulator.step_work import StepWork
from hygen_vllm.lab.simulator.virtual_engine import VirtualClock, VirtualEngine, VirtualStep
from hygen_vllm.lab.workloads.arrival_processes import generate_azure_like

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

    def step_seconds(self, work: StepWork, _: float) -> float:
        self.true_s = self.true_seconds(work)
        noise = float(np.exp(self._rng.normal(0.0, self._disturbance.noise)))
        self.measured_s = self.true_s * noise
        self._num_steps += 1
        return self.measured_s

    def true_seconds(self, work: StepWork) -> float:
        return self._device.step_seconds(work) * self._disturbance.slowdown(self._num_steps)


class Watcher:
    """Notes of each step what is in it, what it was expected to take, and what it took."""

    def __init__(self, scheduler: HyGenScheduler, device: DisturbedDevice) -> None:
        self.served: list[ServedStep] = []
        self._learner = scheduler.hygen.learner
        self._device = device

    def made(self, step: VirtualStep) -> None:
        if not step.work.total_tokens:
            return
        online = self._online_part(step)
        composition = step.work.composition()
        self.served.append(
            ServedStep(
                composition,
                self._learner.predict(composition),
                self._device.true_s,
                self._device.measured_s,
                self._device.true_seconds(online) if online.total_tokens else 0.0,
                has_offline=online.total_tokens < step.work.total_tokens,
            )
        )

    def completed(self, step: VirtualStep, outputs: list[Any]) -> None:
        pass

    @staticmethod
    def _online_part(step: VirtualStep) -> StepWork:
        contexts = [computed for request, computed in step.decodes if is_online(request)]
        chunks = [sizes for request, *sizes in step.chunks if is_online(request)]
        return StepWork(len(contexts), sum(contexts), chunks)


def is_online(request: Any) -> bool:
    return request.request_id.startswith("online")


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
    clock = VirtualClock()
    scheduler = make_scheduler(HyGenScheduler, LIMITS, hygen, clock=clock, wall_clock=clock)
    scheduler.hygen.learner = CostLearner(given)
    watcher = Watcher(scheduler, device)
    engine = VirtualEngine(scheduler, clock, device.step_seconds, observer=watcher)
    requests = Requests(engine, seed)
    while len(watcher.served) < num_steps:
        requests.add_due()
        engine.turn()
    return watcher.served


class Requests:
    """Online requests when their time has come, offline ones so that some always wait."""

    def __init__(self, engine: VirtualEngine, seed: int) -> None:
        self._engine = engine
        self._rng = np.random.default_rng(seed)
        self._arrivals = iter(generate_azure_like(ONLINE_PER_S, 3600.0, seed))
        self._next = next(self._arrivals)
        self._num_added = 0

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
