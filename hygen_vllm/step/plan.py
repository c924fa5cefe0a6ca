# SPDX-License-Identifier: Apache-2.0
"""The plan of one step: what the online class takes, and when that is known what offline may. Pure.

A plan is made before vLLM builds the step and spent while it does. Online requests are charged, not
gated (HyGen, arXiv 2501.14808, Alg. 1), but for prefills that are shortened for the tokens of other
online requests. vLLM walks running requests before waiting ones, so what waiting online requests
will need is charged up front; running ones come first and are charged as they pass. The first
question about an offline request closes the online share, which fixes what the step may take, and
from there on the budget is spent.
"""

from dataclasses import dataclass, field

from hygen_vllm.kv.pace import Pace
from hygen_vllm.price.composition import StepComposition
from hygen_vllm.price.cost import StepCost
from hygen_vllm.step.budget import OfflineBudget
from hygen_vllm.step.gate import Gate


@dataclass(slots=True)
class OnlineShare:
    """What the online class takes of a step. Is an `OnlineLoad`.

    Args:
        cost: prices; None while nothing is known yet, or if nothing is to be priced.
        max_tokens: of the step. A request takes its tokens plus `slots_per_request`.
        slots_per_request: input slots a request takes beside its tokens (speculative drafting).
        has_online: online requests run or can start in this step.
        num_behind: online requests that wait and cannot start in this step.
        prefill_left: prefill tokens that running requests may have; None for as many as vLLM gives.
        arrival_prefill_left: the same for those that start in the step.
    """

    cost: StepCost | None
    max_tokens: int
    slots_per_request: int = 0
    has_online: bool = False
    num_behind: int = 0
    prefill_left: int | None = None
    arrival_prefill_left: int | None = None
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
            self.step.decode_tokens += new_tokens
            self.step.decode_context_tokens += computed_tokens
            self.num_decodes += 1
        else:
            self.step.add_prefill(new_tokens, computed_tokens)

    def cap_prefill(self, tokens: int) -> int:
        """Return how many tokens a running prefill gets, and take them."""
        if self.prefill_left is None:
            return tokens
        tokens = min(tokens, self.prefill_left)
        self.prefill_left -= tokens
        return tokens

    def cap_arrival_prefill(self, tokens: int) -> int:
        """Return how many tokens a starting prefill gets, and take them."""
        if self.arrival_prefill_left is None:
            return tokens
        tokens = min(tokens, self.arrival_prefill_left)
        self.arrival_prefill_left -= tokens
        return tokens

    @property
    def least_s(self) -> float:
        """Seconds of the smallest step that there can be, 0 while no price is known."""
        return 0.0 if self.cost is None else self.cost.base_s

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


@dataclass(slots=True)
class StepPlan:
    """What a step begins with.

    Args:
        gate: says what offline may do.
        share: charged with online requests.
        blocks_left: free KV blocks that offline may take.
        prefill_tokens_left: offline prefill tokens up to which the prices are trusted.
        pace: what the KV cache makes of offline work.
    """

    gate: Gate
    share: OnlineShare
    blocks_left: int
    prefill_tokens_left: int
    pace: Pace
    budget: OfflineBudget | None = None
    """What offline may take, since the share was closed."""

    def charge_online(self, new_tokens: int, computed_tokens: int, is_decode: bool) -> None:
        """Charge an online request, before or after the share was closed."""
        if self.budget is None:
            self.share.charge(new_tokens, computed_tokens, is_decode)
        else:
            self.budget.charge_online(new_tokens, computed_tokens, is_decode)

    def close(self) -> OfflineBudget:
        """Close the share: all online work is charged. Return what it leaves."""
        share, cost = self.share, self.share.cost
        budget = self.budget = OfflineBudget(
            cost=cost,
            tokens_left=share.tokens_left,
            blocks_left=self.blocks_left,
            prefill_tokens_left=self.prefill_tokens_left,
            slots_per_request=share.slots_per_request,
            total_tokens=share.step.total_tokens,
            has_prefill=share.step.has_prefill,
            has_online=share.has_online,
            pace=self.pace,
        )
        if cost is None:
            return budget
        budget.seconds = budget.alone_s = share.alone_s = cost.seconds(share.step)
        budget.terms = terms = self.gate.terms(share)
        if terms.price > 0 or self.pace.prefill_price > 0:
            budget.token_worth_s = cost.token_worth_s(share.max_tokens)
        return budget
