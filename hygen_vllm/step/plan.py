# SPDX-License-Identifier: Apache-2.0
"""The plan of one step: what the online class needs, and what it leaves. Pure.

A plan is made before vLLM builds the step and spent while it does. Online requests are charged,
not gated (HyGen, arXiv 2501.14808, Alg. 1), but for prefills that are shortened for the tokens of
other online requests. vLLM walks running requests before waiting ones, so
what waiting online requests will need is reserved up front; running online requests come first and
are charged as they pass. The first question about an offline request closes the online side and
fixes the seconds the step may take.
"""

import math
from dataclasses import dataclass, field
from typing import Protocol

from hygen_vllm.config import HyGenConfig
from hygen_vllm.price.composition import StepComposition
from hygen_vllm.price.cost import StepCost
from hygen_vllm.step.terms import IDLE_STEPS, OnlineLoad, StepTerms, idle_limit_s


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


@dataclass(slots=True)
class StepPlan:
    """What is left of one step for the offline class. Is an `OnlineLoad`.

    Args:
        gate: says what offline may do.
        cost: prices; None while nothing is known yet, or if nothing is to be priced.
        tokens_left: step tokens not taken; a request takes its tokens plus `slots_per_request`.
        blocks_left: free KV blocks that offline may take.
        prefill_tokens_left: offline prefill tokens up to which the prices are trusted.
        slots_per_request: input slots a request takes beside its tokens (speculative drafting).
        has_online: online requests run or can start in this step.
        num_behind: online requests that wait and cannot start in this step.
        prefill_price: price of offline prefill if it is higher than the step's; see `kv.pace`.
        decode_worth: of an offline decode, in its own part of a full step; see `kv.pace`.
        online_prefill_left: prefill tokens that running online requests may have in this step; None
            for as many as vLLM gives.
        arrival_prefill_left: the same for those that start in it.
    """

    gate: Gate
    cost: StepCost | None
    tokens_left: int
    blocks_left: int
    prefill_tokens_left: int
    slots_per_request: int = 0
    has_online: bool = False
    num_behind: int = 0
    prefill_price: float = 0.0
    decode_worth: float = 1.0
    online_prefill_left: int | None = None
    arrival_prefill_left: int | None = None
    has_offline: bool = False
    has_prefill: bool = False
    """Of either class, charged or granted since the online side was closed, or before."""
    online: StepComposition = field(default_factory=StepComposition)
    num_decodes: int = 0
    total_tokens: int = 0
    alone_s: float = 0.0
    seconds: float = 0.0
    limit_s: float = math.inf
    price: float = 0.0
    free_s: float = 0.0
    is_idle: bool = False
    """No online request shares the step, or has a say in it; see StepTerms."""
    token_worth_s: float = 0.0
    """What a token more in a step is worth; see StepCost.token_worth_s."""
    is_closed: bool = False
    max_tokens: int = field(init=False)
    """Tokens of the step before anything was charged."""

    def __post_init__(self) -> None:
        self.max_tokens = self.tokens_left

    def charge_online(self, new_tokens: int, computed_tokens: int, is_decode: bool) -> None:
        """Charge an online request that vLLM is scheduling, or will schedule in this step."""
        self.tokens_left -= new_tokens + self.slots_per_request
        if self.is_closed:
            self._charge_late(new_tokens, computed_tokens, is_decode)
        elif is_decode:
            self.online.decode_tokens += new_tokens
            self.online.decode_context_tokens += computed_tokens
            self.num_decodes += 1
        else:
            self.online.add_prefill(new_tokens, computed_tokens)

    def _charge_late(self, new_tokens: int, computed_tokens: int, is_decode: bool) -> None:
        """Charge online work that was not foreseen when offline work was first granted."""
        work = self.total_tokens, new_tokens, computed_tokens
        if self.cost is not None:
            if is_decode:
                seconds = self.cost.added_decode_seconds(*work)
            else:
                seconds = self.cost.added_chunk_seconds(*work, not self.has_prefill)
            self.seconds += seconds
            self.alone_s += seconds
        self.has_prefill = self.has_prefill or not is_decode
        self.total_tokens += new_tokens

    def cap_online_prefill(self, tokens: int) -> int:
        """Return how many tokens a running online prefill gets, and take them."""
        if self.online_prefill_left is None:
            return tokens
        tokens = min(tokens, self.online_prefill_left)
        self.online_prefill_left -= tokens
        return tokens

    def cap_arrival_prefill(self, tokens: int) -> int:
        """Return how many tokens a starting online prefill gets, and take them."""
        if self.arrival_prefill_left is None:
            return tokens
        tokens = min(tokens, self.arrival_prefill_left)
        self.arrival_prefill_left -= tokens
        return tokens

    def close_online(self) -> None:
        """Fix the terms of the step, now that all online work is charged."""
        self.is_closed = True
        self.has_prefill = self.online.num_prefills > 0
        self.total_tokens = self.online.total_tokens
        if self.cost is None:
            return
        self.seconds = self.alone_s = self.cost.seconds(self.online)
        terms = self.gate.terms(self)
        self.limit_s, self.price, self.free_s = terms.limit_s, terms.price, terms.free_s
        self.is_idle = terms.is_idle
        if self.price > 0 or self.prefill_price > 0:
            self.token_worth_s = self.cost.token_worth_s(self.max_tokens)

    @property
    def least_s(self) -> float:
        """Seconds of the smallest step that there can be, 0 while no price is known."""
        return 0.0 if self.cost is None else self.cost.base_s

    @property
    def full_s(self) -> float:
        """Seconds of the step if prefill filled all its tokens."""
        if self.cost is None or self.tokens_left <= 0:
            return self.alone_s
        is_first = not self.online.num_prefills
        added_s = self.cost.added_chunk_seconds(self.total_tokens, self.tokens_left, 0, is_first)
        return self.alone_s + added_s

    @property
    def num_first(self) -> int:
        """Online requests that wait for their first token."""
        return self.online.num_prefills + self.num_behind

    @property
    def is_alone(self) -> bool:
        """True for the first offline grant of a step that no online request shares."""
        return not (self.has_online or self.has_offline)

    def begin_alone(self, seconds: float) -> None:
        """Let a step of offline work alone take two of its first request, if that is its smallest.

        A price that is wrong about what a step takes at least would keep a second one out.
        """
        if self.is_idle and self.is_alone:
            self.limit_s = max(self.limit_s, IDLE_STEPS * (self.seconds + seconds))

    def take(self, new_tokens: int, blocks: int, seconds: float) -> None:
        """Charge a granted offline request."""
        self.has_offline = True
        self.seconds += seconds
        self.total_tokens += new_tokens
        self.tokens_left -= new_tokens + self.slots_per_request
        self.blocks_left -= blocks
