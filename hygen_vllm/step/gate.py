# SPDX-License-Identifier: Apache-2.0
"""Gates: what says how long a step may take with offline work in it. Pure."""

import math
from dataclasses import dataclass
from typing import Protocol

from hygen_vllm.config import HyGenConfig
from hygen_vllm.step.online_share import OnlineShare
from hygen_vllm.step.terms import StepTerms


class Gate(Protocol):
    """Says what offline work may do in a step."""

    @property
    def mode(self) -> str:
        """Name of the mode, as in HyGenConfig; `batch` for BATCH_GATE."""

    def terms(self, share: OnlineShare) -> StepTerms:
        """Return the terms of a step with this online share."""


@dataclass(frozen=True, slots=True)
class LatencyGate:
    """The modes in which every step has the same limit, or none."""

    mode: str
    limit_s: float = math.inf

    @classmethod
    def from_config(cls, config: HyGenConfig) -> "LatencyGate":
        return cls(config.gate_mode, config.latency_budget_s or math.inf)

    def terms(self, _: OnlineShare) -> StepTerms:
        """Return the terms of a step: a limit, no price."""
        return StepTerms(self.limit_s)


BATCH_GATE = LatencyGate("batch")
"""For an engine that has had no online request yet: no arrival is expected to wait for a step."""
