# SPDX-License-Identifier: Apache-2.0
"""What one step has left for the offline class, spent by grants. Pure."""

from dataclasses import dataclass, field

from hygen_vllm.cost.step_cost import StepCost
from hygen_vllm.kv.pace import Pace
from hygen_vllm.step.terms import IDLE_STEPS, StepTerms


@dataclass(slots=True)
class OfflineBudget:
    """What is left of a step whose online share is closed. Is a `StepSoFar`.

    Args:
        cost: None while nothing is known yet, or if nothing is to be predicted.
        tokens_left: step tokens not taken; a request takes its tokens plus `slots_per_request`.
        blocks_left: free KV blocks that offline may take.
        prefill_tokens_left: offline prefill tokens up to which the costs are trusted.
        pace: what the KV cache makes of offline work.
        total_tokens: tokens in the step so far, of either class.
        has_prefill: the step has a prefill chunk, of either class.
        has_online: online requests share the step, or could have.
        has_offline: an offline request was granted something.
        terms: what the gate says.
        alone_s: seconds of the step's online work.
        seconds: of the step so far.
        token_worth_s: what a token more in a step is worth; see StepCost.token_worth_s.
    """

    cost: StepCost | None
    tokens_left: int
    blocks_left: int
    prefill_tokens_left: int
    pace: Pace
    slots_per_request: int = 0
    total_tokens: int = 0
    has_prefill: bool = False
    has_online: bool = False
    has_offline: bool = False
    terms: StepTerms = field(default_factory=StepTerms)
    alone_s: float = 0.0
    seconds: float = 0.0
    token_worth_s: float = 0.0

    @property
    def is_alone(self) -> bool:
        """True for the first offline grant of a step that no online request shares."""
        return not (self.has_online or self.has_offline)

    def begin_alone(self, seconds: float) -> None:
        """Allow an idle step twice the seconds that its first request makes it.

        A cost that is wrong about the shortest step would keep a second request out.
        """
        if self.is_alone:
            limit_s = IDLE_STEPS * (self.seconds + seconds)
            self.terms.limit_s = max(self.terms.limit_s, limit_s)

    def take(self, new_tokens: int, blocks: int, seconds: float) -> None:
        """Charge a granted offline request."""
        self.has_offline = True
        self.seconds += seconds
        self.total_tokens += new_tokens
        self.tokens_left -= new_tokens + self.slots_per_request
        self.blocks_left -= blocks

    def charge_online(self, new_tokens: int, computed_tokens: int, is_decode: bool) -> None:
        """Charge online work that was not foreseen when offline work was first granted."""
        self.tokens_left -= new_tokens + self.slots_per_request
        if self.cost is not None:
            added = self.cost.added_decode_seconds if is_decode else self.cost.added_chunk_seconds
            seconds = added(self, new_tokens, computed_tokens)
            self.seconds += seconds
            self.alone_s += seconds
        self.has_prefill = self.has_prefill or not is_decode
        self.total_tokens += new_tokens
