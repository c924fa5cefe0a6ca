# SPDX-License-Identifier: Apache-2.0
"""The plan of one step: what the online class needs, and what it leaves. Pure.

A plan is made before vLLM builds the step and spent while it does. Online requests are charged,
never gated (HyGen, arXiv 2501.14808, Alg. 1). vLLM walks running requests before waiting ones, so
what waiting online requests will need is reserved up front; running online requests come first and
are charged as they pass. The first question about an offline request closes the online side and
fixes the seconds the step may take.
"""

import math
from dataclasses import dataclass, field

from hygen_vllm.config import HyGenConfig
from hygen_vllm.latency.step_cost import StepCost
from hygen_vllm.latency.step_features import StepComposition


@dataclass(frozen=True, slots=True)
class LatencyGate:
    """The seconds a step may take."""

    mode: str
    latency_budget_s: float
    interference_tolerance: float
    idle_step_s: float

    @classmethod
    def from_config(cls, config: HyGenConfig) -> "LatencyGate":
        return cls(
            mode=config.gate_mode,
            latency_budget_s=config.latency_budget_s or math.inf,
            interference_tolerance=config.interference_tolerance,
            idle_step_s=config.idle_step_s,
        )

    def limit_s(self, online_s: float | None) -> float:
        """Return the limit of a step whose online work takes `online_s`; None: it has none."""
        if self.mode == "off":
            return math.inf
        if self.mode == "fixed":
            return self.latency_budget_s
        if online_s is None:
            return self.idle_step_s
        return online_s * (1.0 + self.interference_tolerance)


@dataclass(slots=True)
class StepPlan:
    """What is left of one step for the offline class.

    Args:
        gate: limits the seconds of the step.
        cost: prices; None while nothing is known yet, or if nothing is to be priced.
        tokens_left: step tokens not taken; a request takes its tokens plus `slots_per_request`.
        blocks_left: free KV blocks that offline may take.
        prefill_tokens_left: offline prefill tokens up to which the prices are trusted.
        slots_per_request: input slots a request takes beside its tokens (speculative drafting).
        has_online: online requests run or can start in this step.
    """

    gate: LatencyGate
    cost: StepCost | None
    tokens_left: int
    blocks_left: int
    prefill_tokens_left: int
    slots_per_request: int = 0
    has_online: bool = False
    has_offline: bool = False
    online: StepComposition = field(default_factory=StepComposition)
    total_tokens: int = 0
    seconds: float = 0.0
    limit_s: float = math.inf
    is_closed: bool = False

    def charge_online(self, new_tokens: int, computed_tokens: int, is_decode: bool) -> None:
        """Charge an online request that vLLM is scheduling, or will schedule in this step."""
        self.tokens_left -= new_tokens + self.slots_per_request
        if self.is_closed:
            self._charge_late(new_tokens, computed_tokens, is_decode)
        elif is_decode:
            self.online.decode_tokens += new_tokens
            self.online.decode_context_tokens += computed_tokens
        else:
            self.online.add_prefill(new_tokens, computed_tokens)

    def _charge_late(self, new_tokens: int, computed_tokens: int, is_decode: bool) -> None:
        """Charge online work that was not foreseen when offline work was first granted."""
        if self.cost is not None:
            price = self.cost.added_decode_seconds if is_decode else self.cost.added_chunk_seconds
            self.seconds += price(self.total_tokens, new_tokens, computed_tokens)
        self.total_tokens += new_tokens

    def close_online(self) -> None:
        """Fix the seconds the step may take, now that all online work is charged."""
        self.is_closed = True
        self.total_tokens = self.online.total_tokens
        if self.cost is not None:
            self.seconds = self.cost.seconds(self.online)
            self.limit_s = self.gate.limit_s(self.seconds if self.has_online else None)

    @property
    def is_alone(self) -> bool:
        """True for the first offline grant of a step that no online request shares."""
        return not (self.has_online or self.has_offline)

    def take(self, new_tokens: int, blocks: int, seconds: float) -> None:
        """Charge a granted offline request."""
        self.has_offline = True
        self.seconds += seconds
        self.total_tokens += new_tokens
        self.tokens_left -= new_tokens + self.slots_per_request
        self.blocks_left -= blocks
