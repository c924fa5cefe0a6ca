# SPDX-License-Identifier: Apache-2.0
"""The plan of one step: what the online class takes, and when that is known what offline may. Pure.

A plan is made before vLLM builds the step and spent while it does. Online requests are charged, not
gated (HyGen, arXiv 2501.14808, Alg. 1), but for prefills that are shortened for the tokens of other
online requests. vLLM walks running requests before waiting ones, so what waiting online requests
will need is charged up front; running ones come first and are charged as they pass. The first
question about an offline request closes the online share, which fixes what the step may take, and
from there on the budget is spent.
"""

from dataclasses import dataclass

from hygen_vllm.kv.pace import Pace
from hygen_vllm.step.budget import OfflineBudget
from hygen_vllm.step.gate import Gate
from hygen_vllm.step.online_share import OnlineShare


@dataclass(slots=True)
class StepPlan:
    """What a step begins with.

    Args:
        gate: says what offline may do.
        share: charged with online requests.
        blocks_left: free KV blocks that offline may take.
        prefill_tokens_left: offline prefill tokens up to which the costs are trusted.
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
