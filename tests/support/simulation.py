# SPDX-License-Identifier: Apache-2.0
"""Simulated runs of devices so simple that what must come out is known beforehand."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vllm.v1.core.sched.scheduler import Scheduler

from hygen_vllm.cost.engine_info import EngineInfo
from hygen_vllm.cost.profile import Profile, save_profile
from hygen_vllm.lab.bare_scheduler import Clock
from hygen_vllm.lab.policies import Policy, find_policy
from hygen_vllm.lab.simulator.figures import result_of
from hygen_vllm.lab.simulator.run_log import STEP_COLUMNS, RequestRecord
from hygen_vllm.lab.simulator.simulated_engine import SimulatedEngine
from hygen_vllm.lab.simulator.simulation import Requests, Run, simulate
from hygen_vllm.lab.simulator.step_work import StepWork
from hygen_vllm.lab.workloads.arrivals import Arrival
from tests.support.step_traces import COST, ENGINE

SETTINGS: dict[str, dict[str, Any]] = {
    "online-only": {},
    "offline-only": {},
    "vllm-fcfs": {},
    "vllm-priority": {},
    "online-first": {"mode": "off"},
    "rate-capped": {"mode": "off", "offline_rate_per_s": 0.5},
    "fixed-budget": {"mode": "fixed", "latency_budget_s": 1.5},
    "slo": {},
}
"""Settings with which each policy can run here."""


@dataclass(frozen=True)
class SimpleDevice:
    """Steps take `step_s`, and `token_s` more for each token."""

    step_s: float = 1.0
    token_s: float = 0.0

    def step_seconds(self, work: StepWork) -> float:
        return self.step_s + self.token_s * work.total_tokens


@dataclass(frozen=True)
class DeviceOf:
    """Steps take what a function of their work says."""

    seconds: Callable[[StepWork], float]

    def step_seconds(self, work: StepWork) -> float:
        return self.seconds(work)


class Clocked:
    """Gives a scheduler class of vLLM the clock of the simulation."""

    def __init__(self, *args: Any, clock: Clock, wall_clock: Clock, **kwargs: Any) -> None:
        self.clock = clock
        super().__init__(*args, **kwargs)


@dataclass(frozen=True)
class PolicyOf(Policy):
    """A policy of stock vLLM with another scheduler class."""

    cls: type[Scheduler] = Scheduler

    def clocks(self, clock: Clock) -> dict[str, Clock]:
        return {"clock": clock, "wall_clock": clock} if issubclass(self.cls, Clocked) else {}

    def scheduler_class(self, is_async: bool) -> type[Scheduler]:
        return self.cls


def engine_of(device: Any = SimpleDevice(), is_async: bool = False, **limits: Any) -> Any:
    """Return an engine with a device; `limits` are fields of EngineInfo."""
    info: EngineInfo = replace(ENGINE, is_async=is_async, **limits)
    return SimulatedEngine(info, device, knees=(0, 32))


def run_of(
    engine: SimulatedEngine,
    policy: Policy | str = "vllm-fcfs",
    *,
    online: Sequence[Arrival] = (),
    offline: Sequence[Arrival] = (),
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    until_s: float = math.inf,
    breaks: Sequence[tuple[float, float]] = (),
) -> Run:
    """Return a run; a policy by name has the settings above unless others are given."""
    if isinstance(policy, str):
        settings = SETTINGS[policy] if settings is None else settings
        policy = find_policy(policy)
    requests = Requests(online, offline, breaks)
    return simulate(engine, policy, dict(settings or {}), requests, seed=seed, until_s=until_s)


def column(run: Run, name: str) -> list[float]:
    """Return a number of each step."""
    values: list[float] = run.log.steps()[:, STEP_COLUMNS.index(name)].tolist()
    return values


def ttft_s(record: RequestRecord) -> float:
    return record.token_times_s[0] - record.arrival.time_s


def is_whole(record: RequestRecord) -> bool:
    """Whether a request was served with all its tokens."""
    arrival, has_finished = record.arrival, record.finished_s is not None
    prompt, output = record.prompt_tokens_done, record.num_output_tokens
    return has_finished and (arrival.prompt_tokens, arrival.output_tokens) == (prompt, output)


def figures(run: Run) -> dict[str, Any]:
    """Return the result of a run, without SLOs."""
    return result_of(run, "profile", 0, [], {})


def simulate_flags(folder: Path) -> list[str]:
    """Write a profile and a workload of both classes; return the flags that name them."""
    profile = save_profile(Profile(ENGINE, "measured", COST), folder / "profile").parent
    online, offline = folder / "online.csv", folder / "offline.csv"
    rows = [f"2023-11-16 18:15:{i:02}.2500000,{10 + i},{3 + i % 5}\n" for i in range(0, 40, 2)]
    online.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(rows), "utf-8")
    rows = [f"{20 + i},{9 + i % 7}\n" for i in range(30)]
    offline.write_text("num_prefill_tokens,num_decode_tokens\n" + "".join(rows), "utf-8")
    return ["--profile", str(profile), "--online", str(online), "--offline", str(offline)]


def simulate_command(
    flags: Sequence[str], *more: str, policy: str = "online-first", json: str = "-"
) -> list[str]:
    """Return the arguments of `hygen`; what comes later overrides."""
    return ["simulate", *flags, "--policy", policy, "--json", json, *more]
