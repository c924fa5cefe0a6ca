# SPDX-License-Identifier: Apache-2.0
"""What a simulation is asked for, and the engine and the requests that this names.

Does not import vLLM: who only asks for simulations finds bad input at once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hygen_vllm.lab.policies import Policy
from hygen_vllm.lab.simulator.simulated_engine import SimulatedEngine
from hygen_vllm.lab.simulator.step_time import Disturbance
from hygen_vllm.lab.workloads.sources import OnlineQuery, Workload, find_offline, find_online
from hygen_vllm.lab.workloads.tokenizers import HashTokenizer, Tokenizer, load_tokenizer

NOTHING = Workload([], "none")


@dataclass(frozen=True)
class SimulateOptions:
    """The flags of the command, under their names."""

    profile: str
    policy: str
    online: str | None = None
    online_rate: float | None = None
    offline: str | None = None
    offline_requests: int | None = None
    offline_from: list[float] = field(default_factory=list)
    offline_until: list[float] = field(default_factory=list)
    slo: list[str] = field(default_factory=list)
    seconds: float | None = None
    seed: int = 0
    json: str = "-"
    kv_blocks: int | None = None
    max_tokens_per_step: int | None = None
    max_seqs: int | None = None
    max_model_len: int | None = None
    stepping: str | None = None
    tokenizer: Path | None = None
    noise: float = 0.0
    slowdown: list[tuple[float, float]] = field(default_factory=list)
    stall: list[tuple[float, float]] = field(default_factory=list)
    latency_budget_ms: float | None = None
    offline_rate: float | None = None
    setting: list[tuple[str, Any]] = field(default_factory=list)
    predictor_error: float = 0.0
    unprofiled: bool = False
    replicas: int | None = None
    router: str | None = None

    @property
    def until_s(self) -> float:
        return math.inf if self.seconds is None else self.seconds

    @property
    def offline_stretches(self) -> list[tuple[float, float]]:
        """The times with offline work, (from, until) in virtual seconds. Raises ValueError."""
        starts, ends = self.offline_from or [0.0], [*self.offline_until]
        if len(ends) == len(starts) - 1:
            ends.append(math.inf)
        if len(ends) != len(starts):
            raise ValueError(
                "--offline-from and --offline-until must come in pairs (the last until may be "
                f"left out), got {len(self.offline_from)} and {len(self.offline_until)}"
            )
        times = [each for pair in zip(starts, ends, strict=True) for each in pair]
        if times != sorted(times) or len(set(times)) != len(times):
            raise ValueError(
                "--offline-from and --offline-until must rise in turn, got "
                + " ".join(f"{time_s:g}" for time_s in times)
            )
        return list(zip(starts, ends, strict=True))


def breaks_between(stretches: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the times before, between and after stretches of time that begin at 0 or later."""
    starts, ends = zip(*stretches, strict=True)
    breaks = zip([0.0, *ends], [*starts, math.inf], strict=True)
    return [(from_s, until_s) for from_s, until_s in breaks if from_s < until_s]


def load_engine(options: SimulateOptions) -> SimulatedEngine:
    """Return the engine that the flags ask for. Raises ConfigError or ValueError."""
    engine = SimulatedEngine.load(
        options.profile,
        num_kv_blocks=options.kv_blocks,
        max_num_batched_tokens=options.max_tokens_per_step,
        max_num_seqs=options.max_seqs,
        max_model_len=options.max_model_len,
        is_async=None if options.stepping is None else options.stepping == "async",
    )
    disturbance = Disturbance(options.noise, tuple(options.slowdown), tuple(options.stall))
    return replace(
        engine,
        disturbance=disturbance,
        predictor_error=options.predictor_error,
        is_profiled=not options.unprofiled,
    )


def load_workloads(options: SimulateOptions, policy: Policy) -> tuple[Workload, Workload]:
    """Return what the policy is given of the online and the offline requests."""
    wants_online = policy.has_online and options.online is not None
    wants_offline = policy.has_offline and options.offline is not None
    if not (wants_online or wants_offline):
        needed = [name for name in ("online", "offline") if getattr(policy, f"has_{name}")]
        raise ValueError(
            f"policy {policy.name} needs {' or '.join(f'--{name}' for name in needed)}"
        )
    tokenizer = tokenizer_of(options)
    online = offline = NOTHING
    if wants_online:
        assert options.online is not None
        query = OnlineQuery(options.online, options.online_rate, options.seconds, options.seed)
        online = find_online(query, tokenizer)
    if wants_offline:
        assert options.offline is not None
        count = options.offline_requests
        offline = find_offline(options.offline, count, options.seed, tokenizer)
    return online, offline


def tokenizer_of(options: SimulateOptions) -> Tokenizer:
    """Return what makes tokens of text. Raises ValueError if there is no such folder."""
    if options.tokenizer is None:
        return HashTokenizer(options.seed)
    if not options.tokenizer.is_dir():
        raise ValueError(f"--tokenizer must name a folder, got {options.tokenizer}")
    tokenizer: Tokenizer = load_tokenizer(options.tokenizer)
    return tokenizer
