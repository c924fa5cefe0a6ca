# SPDX-License-Identifier: Apache-2.0
"""How many tokens one offline request gets of what the plan has left. Pure, O(1)."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from hygen_vllm.price.cost import Worth
from hygen_vllm.step.plan import StepPlan

LEAST_PRICE = 0.5
"""Below it the largest chunk is the best one on any device."""


class Refusal(Enum):
    """Why an offline request gets nothing in this step: of what lacks, or by the hook's rules."""

    LATENCY = "latency"
    TOKENS = "tokens"
    BLOCKS = "blocks"
    ADAPTERS = "adapters"
    ENCODER = "encoder"
    PRICE = "price"
    """Online requests would pay more for it than it is worth (mode `slo`)."""
    RATE = "rate"
    """No more may start for now: `offline_rate_per_s`."""
    THROTTLED = "throttled"
    """Data parallel ranks defer their prefills in this step."""


@dataclass(frozen=True, slots=True)
class ChunkView:
    """An offline request that asks for prefill tokens.

    Args:
        wanted_tokens: most tokens vLLM would give, >= 1.
        computed_tokens: tokens computed before this step, prefix hits included.
        can_split: False if it must get all of `wanted_tokens` or none.
        min_tokens: smallest chunk worth granting, >= 1.
    """

    wanted_tokens: int
    computed_tokens: int
    can_split: bool
    min_tokens: int


def grant_decode(
    plan: StepPlan, new_tokens: int, computed_tokens: int, blocks: int
) -> int | Refusal:
    """Grant all tokens of a decode, or none.

    A decode alone in the step is granted whatever it costs, so that offline work always moves;
    vLLM itself then decides what to do about missing blocks.
    """
    if not plan.is_closed:
        plan.close_online()
    if new_tokens + plan.slots_per_request > plan.tokens_left:
        return Refusal.TOKENS
    if blocks > plan.blocks_left and not plan.is_alone:
        return Refusal.BLOCKS
    seconds = 0.0
    if plan.cost is not None:
        seconds = plan.cost.added_decode_seconds(plan.total_tokens, new_tokens, computed_tokens)
        plan.begin_alone(seconds)
        if plan.seconds + seconds > plan.limit_s and not plan.is_alone:
            return Refusal.LATENCY
        if plan.price > 0 and _costs_too_much(plan, new_tokens, computed_tokens, seconds):
            return Refusal.PRICE
    plan.take(new_tokens, blocks, seconds)
    return new_tokens


def _costs_too_much(plan: StepPlan, new_tokens: int, computed_tokens: int, seconds: float) -> bool:
    """Whether a decode that adds `seconds` is worth less than online pays for them."""
    if plan.is_alone or plan.cost is None or plan.seconds + seconds <= plan.free_s:
        return False
    worth_s = plan.cost.decode_worth_s(new_tokens, computed_tokens, plan.token_worth_s)
    return plan.price * seconds > worth_s * plan.decode_worth


def grant_chunk(
    plan: StepPlan, chunk: ChunkView, blocks_needed: Callable[[int], int]
) -> int | Refusal:
    """Grant the largest chunk that fits the plan, or say what refused it.

    Args:
        blocks_needed: new KV blocks for a chunk of so many tokens; never falls as tokens grow.
    A chunk of `min_tokens` alone in the step is granted whatever it costs, as in grant_decode.
    """
    if not plan.is_closed:
        plan.close_online()
    least = min(chunk.min_tokens, chunk.wanted_tokens) if chunk.can_split else chunk.wanted_tokens
    tokens = min(chunk.wanted_tokens, plan.tokens_left - plan.slots_per_request)
    if tokens < least:
        return Refusal.TOKENS
    fits = min(plan.prefill_tokens_left, _fitting(plan, chunk, tokens, plan.limit_s))
    if fits < least and not plan.is_alone:
        return Refusal.LATENCY
    tokens = max(fits, least)
    if max(plan.price, plan.prefill_price) > LEAST_PRICE and not plan.is_alone:
        tokens = _worth_its_price(plan, chunk, tokens)
        if tokens < least:
            return Refusal.PRICE
    if blocks_needed(tokens) > plan.blocks_left:
        tokens = bisect_right(range(tokens), plan.blocks_left, key=blocks_needed) - 1
        if tokens < least and not plan.is_alone:
            return Refusal.BLOCKS
        tokens = max(tokens, least)
    seconds = 0.0
    if plan.cost is not None:
        seconds = plan.cost.added_chunk_seconds(
            plan.total_tokens, tokens, chunk.computed_tokens, not plan.has_prefill
        )
        if tokens == least:
            plan.begin_alone(seconds)
    plan.take(tokens, blocks_needed(tokens), seconds)
    plan.has_prefill = True
    plan.prefill_tokens_left -= tokens
    return tokens


def _worth_its_price(plan: StepPlan, chunk: ChunkView, tokens: int) -> int:
    """Return the chunk that is worth most more than online pays for it, or a larger one for free.

    What the KV cache asks for prefill has to be paid in any case.
    """
    if plan.cost is None:
        return tokens
    worth = Worth(max(plan.price, plan.prefill_price), plan.token_worth_s, not plan.has_prefill)
    best = plan.cost.best_chunk(plan.total_tokens, chunk.computed_tokens, tokens, worth)
    if plan.prefill_price > plan.price or plan.free_s <= plan.seconds:
        return best
    return max(best, _fitting(plan, chunk, tokens, plan.free_s))


def _fitting(plan: StepPlan, chunk: ChunkView, tokens: int, limit_s: float) -> int:
    """Return the largest chunk with which the step takes at most so many seconds."""
    if plan.cost is None:
        return tokens
    spare_s = limit_s - plan.seconds
    return plan.cost.largest_chunk(
        plan.total_tokens, chunk.computed_tokens, tokens, spare_s, not plan.has_prefill
    )
