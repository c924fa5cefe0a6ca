# SPDX-License-Identifier: Apache-2.0
"""The policies that can be simulated: each is a real scheduler class and its configuration."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hygen_vllm.slo import Slo

if TYPE_CHECKING:
    from vllm.v1.core.sched.scheduler import Scheduler

RATE = "offline_rate_per_s"
"""A setting of `rate_capped.RateCappedScheduler` beside the fields of HyGenConfig."""


@dataclass(frozen=True)
class PolicyInput:
    """What a policy's settings are made of."""

    latency_budget_s: float | None = None
    offline_rate_per_s: float | None = None
    slos: Sequence[Slo] = ()


def _no_settings(_: PolicyInput) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Policy:
    """A row of a comparison.

    Args:
        settings: fields of HyGenConfig; used by HyGen's scheduler only.
        modes: those of HyGenConfig that go by this policy's name.
        own_settings: of its scheduler, beside the fields of HyGenConfig.
        vllm_policy: vLLM's own --scheduling-policy.
    """

    name: str
    what: str
    is_hygen: bool = False
    has_online: bool = True
    has_offline: bool = True
    vllm_policy: str = "fcfs"
    settings: Callable[[PolicyInput], dict[str, Any]] = _no_settings
    modes: tuple[str, ...] = ("off",)
    own_settings: frozenset[str] = frozenset()

    def scheduler_class(self, is_async: bool) -> "type[Scheduler]":
        """Return the class of the scheduler."""
        from vllm.v1.core.sched.async_scheduler import AsyncScheduler
        from vllm.v1.core.sched.scheduler import Scheduler

        from hygen_vllm.engine.scheduler import HyGenScheduler, asynchronous
        from hygen_vllm.lab.rate_capped import RateCappedScheduler

        if not self.is_hygen:
            return AsyncScheduler if is_async else Scheduler
        cls = RateCappedScheduler if RATE in self.own_settings else HyGenScheduler
        return asynchronous(cls) if is_async else cls

    def clocks(self, clock: Callable[[], float]) -> dict[str, Callable[[], float]]:
        """Return the arguments of the scheduler's class that give it a clock; vLLM's has none."""
        return {"clock": clock, "wall_clock": clock} if self.is_hygen else {}


def _rate_capped(given: PolicyInput) -> dict[str, Any]:
    if given.offline_rate_per_s is None:
        raise ValueError("policy rate-capped needs --offline-rate, offline requests per second")
    return {"mode": "off", RATE: given.offline_rate_per_s}


def _fixed_budget(given: PolicyInput) -> dict[str, Any]:
    if given.latency_budget_s is None:
        raise ValueError("policy fixed-budget needs --latency-budget-ms, what a step may take")
    return {"mode": "fixed", "latency_budget_s": given.latency_budget_s}


def _slo(given: PolicyInput) -> dict[str, Any]:
    return {"slos": [str(slo) for slo in given.slos]} if given.slos else {}


POLICIES = (
    Policy("online-only", "stock vLLM, online requests alone", has_offline=False),
    Policy("offline-only", "stock vLLM, offline requests alone", has_online=False),
    Policy("vllm-fcfs", "stock vLLM, first come, first served"),
    Policy("vllm-priority", "stock vLLM, its priority policy", vllm_policy="priority"),
    Policy(
        "online-first",
        "HyGen without a gate (Sarathi++)",
        is_hygen=True,
        settings=lambda _: {"mode": "off"},
    ),
    Policy(
        "rate-capped",
        "online-first and a cap on offline starts (HyGen*)",
        is_hygen=True,
        settings=_rate_capped,
        own_settings=frozenset({RATE}),
    ),
    Policy(
        "fixed-budget",
        "HyGen with a fixed latency budget (the paper's)",
        is_hygen=True,
        settings=_fixed_budget,
        modes=("fixed",),
    ),
    Policy("slo", "HyGen with SLOs", is_hygen=True, settings=_slo, modes=("slo",)),
)
NAMES = tuple(policy.name for policy in POLICIES)


def find_policy(name: str) -> Policy:
    """Return a policy by name. Raises ValueError that lists the choices."""
    for policy in POLICIES:
        if policy.name == name:
            return policy
    raise ValueError(f"policy must be one of {', '.join(NAMES)}, got {name!r}")
