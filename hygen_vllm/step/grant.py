# SPDX-License-Identifier: Apache-2.0
"""How many tokens one offline request gets of what the plan has left. Pure."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from hygen_vllm.step.budget import OfflineBudget

LEAST_PRICE = 0.5
"""Below it the largest chunk is the best one on any device."""


class Refusal(Enum):
    """Why an offline request gets nothing in this step: what was short, or what forbade it."""

    LATENCY = "latency"
    TOKENS = "tokens"
    BLOCKS = "blocks"
    ADAPTERS = "adapters"
    ENCODER = "encoder"
    PRICE = "price"
    """Online requests would pay more for it than it is worth (mode `slo`)."""
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
        end_at: the largest chunk of at most so many tokens that may end where it does, 0 for none.
    """

    wanted_tokens: int
    computed_tokens: int
    can_split: bool
    min_tokens: int
    end_at: Callable[[int], int] = int


def grant_decode(
    budget: OfflineBudget, new_tokens: int, computed_tokens: int, blocks: int
) -> int | Refusal:
    """Grant all tokens of a decode, or none.

    A decode alone in the step is granted whatever it costs, so that offline work always moves;
    vLLM itself then decides what to do about missing blocks.
    """
    if new_tokens + budget.slots_per_request > budget.tokens_left:
        return Refusal.TOKENS
    if blocks > budget.blocks_left and not budget.is_alone:
        return Refusal.BLOCKS
    seconds = 0.0
    if budget.cost is not None:
        seconds = budget.cost.added_decode_seconds(budget, new_tokens, computed_tokens)
        terms = budget.terms
        if terms.is_idle:
            budget.begin_alone(seconds)
        if budget.seconds + seconds > terms.limit_s and not budget.is_alone:
            return Refusal.LATENCY
        if terms.price > 0 and _costs_too_much(budget, new_tokens, computed_tokens, seconds):
            return Refusal.PRICE
    budget.take(new_tokens, blocks, seconds)
    return new_tokens


def _costs_too_much(
    budget: OfflineBudget, new_tokens: int, computed_tokens: int, seconds: float
) -> bool:
    """Whether a decode that adds `seconds` is worth less than online pays for them."""
    terms = budget.terms
    if budget.is_alone or budget.cost is None or budget.seconds + seconds <= terms.free_s:
        return False
    worth_s = budget.cost.decode_worth_s(new_tokens, computed_tokens, budget.token_worth_s)
    return terms.price * seconds > worth_s * budget.pace.decode_worth


def grant_chunk(
    budget: OfflineBudget, chunk: ChunkView, blocks_needed: Callable[[int], int]
) -> int | Refusal:
    """Grant the largest chunk that fits the budget, or say what refused it.

    A chunk of `min_tokens` alone in the step is granted whatever it costs, as in grant_decode.

    Args: blocks_needed: new KV blocks for a chunk of so many tokens; never falls as tokens grow.
    """
    least = min(chunk.min_tokens, chunk.wanted_tokens) if chunk.can_split else chunk.wanted_tokens
    tokens = min(chunk.wanted_tokens, budget.tokens_left - budget.slots_per_request)
    if tokens < least:
        return Refusal.TOKENS
    fits = min(budget.prefill_tokens_left, _fitting(budget, chunk, tokens, budget.terms.limit_s))
    if fits < least and not budget.is_alone:
        return Refusal.LATENCY
    tokens = max(fits, least)
    if max(budget.terms.price, budget.pace.prefill_price) > LEAST_PRICE and not budget.is_alone:
        tokens = _worth_its_price(budget, chunk, tokens)
        if tokens < least:
            return Refusal.PRICE
    if blocks_needed(tokens) > budget.blocks_left:
        tokens = bisect_right(range(tokens), budget.blocks_left, key=blocks_needed) - 1
        if tokens < least and not budget.is_alone:
            return Refusal.BLOCKS
        tokens = max(tokens, least)
    tokens = chunk.end_at(tokens)
    if not tokens:
        return Refusal.LATENCY
    seconds = 0.0
    if budget.cost is not None:
        seconds = budget.cost.added_chunk_seconds(budget, tokens, chunk.computed_tokens)
        if tokens <= least and budget.terms.is_idle:
            budget.begin_alone(seconds)
    budget.take(tokens, blocks_needed(tokens), seconds)
    budget.has_prefill = True
    budget.prefill_tokens_left -= tokens
    return tokens


def _worth_its_price(budget: OfflineBudget, chunk: ChunkView, tokens: int) -> int:
    """Return the chunk whose worth exceeds most what online pays for it, or a larger one for free.

    What the KV cache asks for prefill has to be paid in any case.
    """
    if budget.cost is None:
        return tokens
    price, prefill_price = budget.terms.price, budget.pace.prefill_price
    best = budget.cost.best_chunk(
        budget,
        chunk.computed_tokens,
        tokens,
        price=max(price, prefill_price),
        token_worth_s=budget.token_worth_s,
    )
    if prefill_price > price or budget.terms.free_s <= budget.seconds:
        return best
    return max(best, _fitting(budget, chunk, tokens, budget.terms.free_s))


def _fitting(budget: OfflineBudget, chunk: ChunkView, tokens: int, limit_s: float) -> int:
    """Return the largest chunk with which the step takes at most so many seconds."""
    if budget.cost is None:
        return tokens
    spare_s = limit_s - budget.seconds
    return budget.cost.largest_chunk(budget, chunk.computed_tokens, tokens, spare_s)
