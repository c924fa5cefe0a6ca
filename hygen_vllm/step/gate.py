# SPDX-License-Identifier: Apache-2.0
"""Gates: what says how long a step may take with offline work in it. Pure."""

import math
from dataclasses import dataclass
from typing import Protocol

from hygen_vllm.config import HyGenConfig
from hygen_vllm.step.terms import OnlineLoad, StepTerms, idle_limit_s


class Gate(Protocol):
    """Says what offline work may do in a step."""

    @property
    def mode(self) -> str:
        """Name of the mode, as in HyGenConfig; `batch` for BATCH_GATE."""

    def terms(self, load: OnlineLoad) -> StepTerms:
        """Return the terms of a step with this online load."""


@dataclass(frozen=True, slots=True)
class LatencyGate:
    """The modes in which a step's limit follows from its online work alone."""

    mode: str
    latency_budget_s: float
    interference_tolerance: float
    idle_step_s: float

    @classmethod
    def from_config(cls, config: HyGenConfig) -> "LatencyGate":
        return cls(
            mode=config.gate_mode,
            latency_budget_s=config.latency_budget_s or math.inf,
            interference_tolerance=config.tolerance,
            idle_step_s=config.idle_step_s,
        )

    def terms(self, load: OnlineLoad) -> StepTerms:
        """Return the terms of a step: a limit, no price."""
        if self.mode == "off":
            return StepTerms()
        if self.mode == "fixed":
            return StepTerms(self.latency_budget_s)
        if not load.has_online:
            return StepTerms(idle_limit_s(load, self.idle_step_s), is_idle=True)
        return StepTerms(load.alone_s * (1.0 + self.interference_tolerance))


BATCH_GATE = LatencyGate("batch", math.inf, math.inf, math.inf)
"""For an engine that has had no online request yet: no arrival is expected to wait for a step."""
