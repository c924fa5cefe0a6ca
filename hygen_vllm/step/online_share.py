# SPDX-License-Identifier: Apache-2.0
"""What the online class takes of one step. Pure."""

import math
from dataclasses import dataclass, field

from hygen_vllm.cost.composition import StepComposition
from hygen_vllm.cost.step_cost import StepCost
from hygen_vllm.step.terms import IDLE_STEPS


@dataclass(slots=True)
class OnlineShare:
    """What the online class takes of a step, charged until offline first asks for a part of it.

    Args:
        cost: None while nothing is known yet, or if nothing is to be predicted.
        max_tokens: of the step. A request takes its tokens plus `slots_per_request`.
        slots_per_request: input slots a request takes beside its tokens (speculative drafting).
        has_online: online requests run or can start in this step.
        num_behind: online requests that wait and cannot start in this step.
        prefill_left: prefill tokens that running requests may have; inf for as many as vLLM gives.
        arrival_prefill_left: the same for those that start in the step.
    """

    cost: StepCost | None
    max_tokens: int
    slots_per_request: int = 0
    has_online: bool = False
    num_behind: int = 0
    prefill_left: float = math.inf
    arrival_prefill_left: float = math.inf
    step: StepComposition = field(default_factory=StepComposition)
    """What is charged."""
    num_decodes: int = 0
    tokens_left: int = field(init=False)
    alone_s: float = 0.0
    """Seconds of the step without offline work, once the share is closed."""

    def __post_init__(self) -> None:
        self.tokens_left = self.max_tokens

    def charge(self, new_tokens: int, computed_tokens: int, is_decode: bool) -> None:
        """Charge an online request that vLLM is scheduling, or will schedule in this step."""
        self.tokens_left -= new_tokens + self.slots_per_request
        if is_decode:
            step = self.step  # as add_decode, with a call less for each online decode
            step.decode_tokens += new_tokens
            step.decode_context_tokens += computed_tokens
            self.num_decodes += 1
        else:
            self.step.add_prefill(new_tokens, computed_tokens)

    def cap_prefill(self, tokens: int) -> int:
        """Return how many tokens a running prefill gets, and take them."""
        tokens = int(min(tokens, self.prefill_left))
        self.prefill_left -= tokens
        return tokens

    def cap_arrival_prefill(self, tokens: int) -> int:
        """Return how many tokens a starting prefill gets, and take them."""
        tokens = int(min(tokens, self.arrival_prefill_left))
        self.arrival_prefill_left -= tokens
        return tokens

    @property
    def least_s(self) -> float:
        """Seconds of the smallest step that there can be, 0 while no cost is known."""
        return 0.0 if self.cost is None else self.cost.base_s

    def idle_limit_s(self, idle_step_s: float) -> float:
        """Return the seconds that a step may take in which no online request decodes."""
        return max(idle_step_s, IDLE_STEPS * self.least_s)

    @property
    def full_s(self) -> float:
        """Seconds of the step if prefill filled all its tokens, once the share is closed."""
        if self.cost is None or self.tokens_left <= 0:
            return self.alone_s
        return self.alone_s + self.cost.added_chunk_seconds(self.step, self.tokens_left, 0)

    @property
    def num_first(self) -> int:
        """Online requests that wait for their first token."""
        return self.step.num_prefills + self.num_behind
