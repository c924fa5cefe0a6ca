# SPDX-License-Identifier: Apache-2.0
"""Grants: the largest chunk, or a whole decode, that fits seconds, tokens and blocks left."""

import math
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hygen_vllm.cost.curve import TokenCurve
from hygen_vllm.cost.step_cost import StepCost
from hygen_vllm.kv.pace import Pace
from hygen_vllm.step.budget import OfflineBudget
from hygen_vllm.step.gate import LatencyGate
from hygen_vllm.step.grant import LEAST_PRICE, ChunkView, Refusal, grant_chunk, grant_decode
from hygen_vllm.step.online_share import OnlineShare
from hygen_vllm.step.plan import StepPlan
from hygen_vllm.step.terms import StepTerms
from tests.support.costs import costs

BLOCK_SIZE = 4
FLAT = StepCost(1, 1, 0, 0, 1, 0, 0)
"""One second a step and one a token."""
ROOMY = {"tokens_left": 100, "blocks_left": 100, "prefill_tokens_left": 100}
CHUNK = ChunkView(wanted_tokens=24, computed_tokens=0, can_split=True, min_tokens=4)


def _fixed(limit_s: float) -> LatencyGate:
    return LatencyGate("fixed", limit_s)


Online = tuple[int, int, bool]
"""New tokens, computed tokens, and whether it is a decode."""


def _budget(
    limit_s: float = math.inf, online: Sequence[Online] = (), **kwargs: Any
) -> OfflineBudget:
    """Return what a step leaves that an online request shares, roomy unless told.

    Args: online: what is charged before.
    """
    given = {"gate": _fixed(limit_s), "cost": FLAT, "has_online": True, **ROOMY, **kwargs}
    pace = Pace(given.pop("prefill_price", 0.0), given.pop("decode_worth", 1.0))
    gate, blocks_left = given.pop("gate"), given.pop("blocks_left")
    prefill_tokens_left = given.pop("prefill_tokens_left")
    share = OnlineShare(max_tokens=given.pop("tokens_left"), **given)
    for each in online:
        share.charge(*each)
    return StepPlan(gate, share, blocks_left, prefill_tokens_left, pace).close()


def _grow(computed_tokens: int) -> Callable[[int], int]:
    """New blocks of a running request that holds blocks for its computed tokens."""
    held = -(-computed_tokens // BLOCK_SIZE)
    return lambda new_tokens: -(-(computed_tokens + new_tokens) // BLOCK_SIZE) - held


def _grant(budget: OfflineBudget, chunk: ChunkView = CHUNK) -> int | Refusal:
    return grant_chunk(budget, chunk, _grow(chunk.computed_tokens))


# --- decode ------------------------------------------------------------------------------------


def test_decode_that_fits_is_granted_and_charged() -> None:
    """All its tokens, its slots, its blocks and its seconds leave the budget."""
    budget = _budget(limit_s=10, slots_per_request=1)
    assert grant_decode(budget, new_tokens=3, computed_tokens=8, blocks=2) == 3
    assert (budget.tokens_left, budget.blocks_left, budget.total_tokens) == (96, 98, 3)
    assert budget.seconds == 1 + 3
    assert budget.has_offline


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"limit_s": 4}, 3),
        ({"limit_s": 3.99}, Refusal.LATENCY),
        ({"tokens_left": 4}, 3),
        ({"tokens_left": 3}, Refusal.TOKENS),
        ({"blocks_left": 2}, 3),
        ({"blocks_left": 1}, Refusal.BLOCKS),
        ({"limit_s": 0, "blocks_left": 0, "cost": None}, Refusal.BLOCKS),
        ({"limit_s": 0, "cost": None}, 3),
    ],
)
def test_decode_at_its_limit_is_granted_and_beyond_is_refused(
    limits: dict[str, Any], expected: int | Refusal
) -> None:
    """Each limit itself still fits; one less refuses the whole decode, for that reason."""
    budget = _budget(slots_per_request=1, **limits)
    assert grant_decode(budget, new_tokens=3, computed_tokens=8, blocks=2) == expected


def test_decode_refused_leaves_the_plan_to_others() -> None:
    """A refusal charges nothing."""
    budget = _budget(limit_s=1)
    before = replace(budget)
    assert grant_decode(budget, 1, 0, 0) == Refusal.LATENCY
    assert budget == before


def test_chunk_that_may_end_nowhere_charges_nothing() -> None:
    """Where vLLM splits a prompt at some places only, and none is in reach."""
    budget = _budget(limit_s=10)
    before = replace(budget)
    assert _grant(budget, replace(CHUNK, end_at=lambda _: 0)) == Refusal.LATENCY
    assert budget == before


def test_chunk_that_has_to_end_earlier_is_charged_for_what_it_is() -> None:
    """At a multiple of eight tokens here, though the seconds are enough for nine."""
    budget = _budget(limit_s=10)
    assert _grant(budget, replace(CHUNK, end_at=lambda tokens: tokens // 8 * 8)) == 8
    assert (budget.tokens_left, budget.seconds, budget.blocks_left) == (92, 1 + 8, 98)


def test_decode_alone_is_granted_whatever_it_costs_and_the_next_is_not() -> None:
    """Offline work alone in a step always moves; a second request is held to the limits."""
    budget = _budget(limit_s=0, has_online=False, blocks_left=0)
    assert grant_decode(budget, 1, 50, blocks=1) == 1
    assert grant_decode(budget, 1, 50, blocks=0) == Refusal.BLOCKS
    budget.blocks_left = 0
    assert grant_decode(budget, 1, 50, blocks=0) == Refusal.LATENCY


def test_second_decode_is_priced_on_top_of_the_first() -> None:
    """The seconds of a step add up until they reach its limit."""
    budget = _budget(limit_s=3)
    assert [grant_decode(budget, 1, 0, 0) for _ in range(3)] == [1, 1, Refusal.LATENCY]
    assert budget.seconds == 3


def test_grant_without_prices_adds_no_seconds() -> None:
    """What is not priced is limited by tokens and blocks alone."""
    budget = _budget(limit_s=1, cost=None)
    assert (grant_decode(budget, 1, 0, 0), _grant(budget)) == (1, 24)
    assert (budget.seconds, budget.total_tokens) == (0.0, 25)


def test_decode_alone_without_tokens_is_refused() -> None:
    """The step's tokens are vLLM's limit, which nothing exceeds."""
    budget = _budget(has_online=False, tokens_left=0)
    assert grant_decode(budget, 1, 0, 0) == Refusal.TOKENS


# --- chunk -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, 24),
        ({"limit_s": 11.5}, 10),
        ({"limit_s": 5}, 4),
        ({"limit_s": 4.99}, Refusal.LATENCY),
        ({"tokens_left": 12}, 10),
        ({"tokens_left": 6}, 4),
        ({"tokens_left": 5}, Refusal.TOKENS),
        ({"prefill_tokens_left": 9}, 9),
        ({"prefill_tokens_left": 3}, Refusal.LATENCY),
        ({"blocks_left": 3}, 12),
        ({"blocks_left": 1}, 4),
        ({"blocks_left": 0}, Refusal.BLOCKS),
        ({"cost": None, "limit_s": 0}, 24),
        ({"cost": None, "prefill_tokens_left": 9}, 9),
    ],
)
def test_chunk_gets_the_most_that_the_tightest_limit_leaves(
    limits: dict[str, Any], expected: int | Refusal
) -> None:
    """Down to min_tokens it shrinks to the limit; below that the limit is the reason."""
    assert _grant(_budget(slots_per_request=2, **limits)) == expected


def test_chunk_granted_is_charged() -> None:
    """Its tokens, slots, blocks, seconds and share of the trusted prefill leave the budget."""
    budget = _budget(limit_s=11, slots_per_request=2)
    assert _grant(budget) == 10
    assert (budget.tokens_left, budget.blocks_left) == (100 - 12, 100 - 3)
    assert (budget.prefill_tokens_left, budget.total_tokens) == (100 - 10, 10)
    assert (budget.seconds, budget.has_offline) == (11, True)


@pytest.mark.parametrize(
    "limits", [{"limit_s": 2}, {"tokens_left": 1}, {"blocks_left": 0}, {"prefill_tokens_left": 0}]
)
def test_chunk_refused_leaves_the_plan_to_others(limits: dict[str, Any]) -> None:
    """A refusal charges nothing."""
    budget = _budget(**limits)
    before = replace(budget)
    assert isinstance(_grant(budget), Refusal)
    assert budget == before


def test_chunk_smaller_than_min_tokens_is_granted_whole() -> None:
    """The end of a prompt is worth a place however short it is."""
    assert _grant(_budget(limit_s=4), replace(CHUNK, wanted_tokens=3)) == 3
    assert _grant(_budget(limit_s=3.5), replace(CHUNK, wanted_tokens=3)) == Refusal.LATENCY


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, 24),
        ({"limit_s": 24}, Refusal.LATENCY),
        ({"tokens_left": 23}, Refusal.TOKENS),
        ({"blocks_left": 5}, Refusal.BLOCKS),
    ],
)
def test_chunk_that_cannot_be_split_gets_all_or_nothing(
    limits: dict[str, Any], expected: int | Refusal
) -> None:
    """Where vLLM takes whole prompts only, a part is no grant."""
    assert _grant(_budget(**limits), replace(CHUNK, can_split=False)) == expected


@pytest.mark.parametrize(
    ("can_split", "limits", "expected"),
    [
        (True, {"limit_s": 0}, 4),
        (True, {"prefill_tokens_left": 0}, 4),
        (False, {"limit_s": 0}, 24),
        (True, {"limit_s": 11}, 10),
        (True, {"tokens_left": 3}, Refusal.TOKENS),
    ],
)
def test_chunk_alone_gets_its_smallest_part_whatever_that_costs(
    can_split: bool, limits: dict[str, Any], expected: int | Refusal
) -> None:
    """Offline work alone in a step always moves, by no more than the limit or min_tokens."""
    budget = _budget(has_online=False, **limits)
    assert _grant(budget, replace(CHUNK, can_split=can_split)) == expected


def test_chunk_alone_without_free_blocks_is_granted_and_the_next_is_not() -> None:
    """vLLM decides what to do about missing blocks, for one request in the step."""
    budget = _budget(has_online=False, blocks_left=0)
    assert _grant(budget, replace(CHUNK, wanted_tokens=4)) == 4
    assert _grant(budget) == Refusal.BLOCKS


def test_chunk_whose_blocks_do_not_depend_on_its_size_is_not_shrunk_for_them() -> None:
    """A waiting request needs blocks for its whole prompt at once."""
    budget = _budget(blocks_left=5)
    assert grant_chunk(budget, CHUNK, lambda _: 6) == Refusal.BLOCKS
    assert grant_chunk(budget, CHUNK, lambda _: 5) == 24


def test_first_grant_closes_the_online_side_once() -> None:
    """Online work is priced before the first offline request, and not again after it."""
    budget = _budget(limit_s=30, online=[(10, 0, True)])
    assert grant_decode(budget, 1, 0, 0) == 1
    assert budget.seconds == 1 + 10 + 1
    assert _grant(budget) == 30 - 12
    assert budget.seconds == 30


def test_first_chunk_of_a_step_of_decodes_pays_for_it_and_the_next_ones_do_not() -> None:
    """What prefill costs a step however small is charged once."""
    budget = _budget(30, [(10, 0, True)], cost=replace(FLAT, first_prefill_s=5))
    small = replace(CHUNK, wanted_tokens=4)
    assert [_grant(budget, small), budget.seconds] == [4, 1 + 10 + 5 + 4]
    assert [_grant(budget, small), budget.seconds] == [4, 1 + 10 + 5 + 4 + 4]


def test_chunk_beside_online_prefill_is_not_the_first_of_its_step() -> None:
    """Online has paid already, before or after the first offline grant."""
    cost, chunk = replace(FLAT, first_prefill_s=5), (10, 0, False)
    foreseen, late = _budget(30, [chunk], cost=cost), _budget(30, cost=cost)
    late.charge_online(*chunk)
    for budget in (foreseen, late):
        assert _grant(budget, replace(CHUNK, wanted_tokens=4)) == 4
        assert budget.seconds == 1 + 5 + 10 + 4


# --- laws --------------------------------------------------------------------------------------

NUMBER = st.integers(0, 12)
COSTS = costs(NUMBER)
"""Small whole numbers, with which prices are exact."""
CHUNKS = st.builds(
    ChunkView, st.integers(1, 200), st.integers(0, 60), st.booleans(), st.integers(1, 24)
)
BUDGETS = st.builds(
    _budget,
    online=st.just(()),
    gate=st.builds(_fixed, st.integers(0, 20_000)),
    cost=st.none() | COSTS,
    tokens_left=st.integers(0, 250),
    blocks_left=st.integers(0, 60),
    prefill_tokens_left=st.integers(0, 250),
    slots_per_request=st.integers(0, 2),
    has_online=st.booleans(),
)


def _fits(budget: OfflineBudget, chunk: ChunkView, tokens: int, blocks_needed: int) -> bool:
    """Whether a closed budget has room for so many tokens: the limits, one by one."""
    added_s = 0.0
    if budget.cost is not None:
        added_s = budget.cost.added_chunk_seconds(budget, tokens, chunk.computed_tokens)
    return (
        tokens + budget.slots_per_request <= budget.tokens_left
        and tokens <= budget.prefill_tokens_left
        and budget.seconds + added_s <= budget.terms.limit_s
        and blocks_needed <= budget.blocks_left
    )


@settings(derandomize=True, deadline=None, max_examples=200)
@given(BUDGETS, CHUNKS, st.integers(0, 300))
def test_chunk_beside_others_is_the_largest_that_fits_or_less_by_under_a_block(
    budget: OfflineBudget, chunk: ChunkView, online_tokens: int
) -> None:
    """No limit is exceeded; only blocks, given back whole, may cost more than the limit asks."""
    budget.has_online = True
    budget.tokens_left += online_tokens
    budget.charge_online(online_tokens, 10, is_decode=False)
    blocks_needed, closed = _grow(chunk.computed_tokens), replace(budget)
    least = min(chunk.min_tokens, chunk.wanted_tokens) if chunk.can_split else chunk.wanted_tokens
    fitting = [
        tokens
        for tokens in range(least, chunk.wanted_tokens + 1)
        if _fits(closed, chunk, tokens, blocks_needed(tokens))
    ]
    granted = grant_chunk(budget, chunk, blocks_needed)
    if isinstance(granted, Refusal):
        is_for_blocks = granted is Refusal.BLOCKS
        assert len(fitting) < (BLOCK_SIZE if is_for_blocks else 1)
    else:
        assert granted in fitting
        is_short_of_blocks = not _fits(closed, chunk, granted + BLOCK_SIZE, 0)
        assert max(fitting) - granted < (1 if is_short_of_blocks else BLOCK_SIZE)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(BUDGETS, st.lists(CHUNKS | st.integers(1, 4), max_size=6))
def test_step_with_any_offline_requests_stays_inside_its_plan_after_the_first(
    budget: OfflineBudget, requests: list[ChunkView | int]
) -> None:
    """Whatever is asked, tokens are never overdrawn, and the rest only by one request alone."""
    tokens_before, granted_tokens = budget.tokens_left, 0
    for request in requests:
        before = replace(budget)
        if isinstance(request, int):
            granted = grant_decode(budget, request, 20, blocks=1)
        else:
            granted = _grant(budget, request)
        if isinstance(granted, Refusal):
            continue
        granted_tokens += granted + budget.slots_per_request
        if not before.is_alone:
            assert budget.seconds <= budget.terms.limit_s
            assert budget.blocks_left >= min(0, before.blocks_left)
    assert budget.tokens_left == tokens_before - granted_tokens >= 0


def test_chunk_short_of_blocks_fills_the_blocks_there_are() -> None:
    """Two blocks of four tokens hold eight, whether or not eight is the least worth granting."""
    for min_tokens in (1, 8):
        budget = _budget(cost=None, blocks_left=2)
        assert grant_chunk(budget, ChunkView(10, 0, True, min_tokens), lambda n: -(-n // 4)) == 8


def test_chunk_alone_and_short_of_blocks_fills_them_too() -> None:
    """With nothing else in the step a chunk does not ask for more blocks than are free."""
    budget = _budget(cost=None, blocks_left=2, has_online=False)
    assert grant_chunk(budget, ChunkView(64, 0, True, 4), lambda n: -(-n // 4)) == 8


@pytest.mark.parametrize(("is_idle", "granted"), [(True, 1), (False, Refusal.LATENCY)])
def test_second_decode_of_a_slow_engine_fits_whatever_the_smallest_step_is_taken_to_be(
    is_idle: bool, granted: int | Refusal
) -> None:
    """All of a step's price is in its decodes: without a second one that would not be found out."""
    gate = SimpleNamespace(mode="slo", terms=lambda _: StepTerms(0.1, is_idle=is_idle))
    budget = _budget(gate=gate, cost=StepCost(0, 0.3, 0, 0, 0, 0, 0), has_online=False)
    assert 1 == grant_decode(budget, 1, 100, 0), "it is alone"
    assert granted == grant_decode(budget, 1, 100, 0)
    assert Refusal.LATENCY == grant_decode(budget, 1, 100, 0)


# --- price -------------------------------------------------------------------------------------

STAIR = StepCost(1, 1, 0.5, 0, 1, 0, 0, TokenCurve((10,), (4,)))
"""Ten tokens of a step are free on the curve; of a hundred, one is worth 3.6 seconds of it."""


def _priced(
    price: float, limit_s: float = math.inf, free_s: float = 0.0, **kwargs: Any
) -> OfflineBudget:
    """Return a budget of a hundred tokens in which a second has a price beyond the free ones."""
    gate = SimpleNamespace(mode="slo", terms=lambda _: StepTerms(limit_s, price, free_s))
    return _budget(**({"gate": gate, "cost": STAIR} | kwargs))


@pytest.mark.parametrize(
    ("computed_tokens", "num_before", "most"), [(0, 0, 4.6), (20, 0, 14.6 / 11), (0, 10, 0.92)]
)
def test_decode_that_costs_more_than_it_is_worth_is_refused_for_its_price(
    computed_tokens: int, num_before: int, most: float
) -> None:
    """It is worth 4.6 s and half a second for each token before it; the eleventh adds 4 s more."""
    for price, expected in ((0.0, 1), (most - 0.01, 1), (most + 0.01, Refusal.PRICE)):
        budget = _priced(price, prefill_price=9.0, online=[(num_before, 0, True)])
        assert expected == grant_decode(budget, 1, computed_tokens, 0)


def test_decode_without_room_for_the_next_request_may_cost_more() -> None:
    """It is worth three times 4.6 s."""
    for price, expected in ((13.79, 1), (13.81, Refusal.PRICE)):
        assert expected == grant_decode(_priced(price, decode_worth=3.0), 1, 0, 0)


def test_decode_within_the_free_seconds_is_granted_at_any_price() -> None:
    """The step takes one second and each decode one more."""
    budget = _priced(9.0, free_s=3.0)
    assert [1, 1, Refusal.PRICE] == [grant_decode(budget, 1, 0, 0) for _ in range(3)]


def test_decode_worth_just_what_it_costs_is_granted() -> None:
    """Without a curve a price of one is what any decode is worth."""
    assert 3 == grant_decode(_priced(1.0, cost=FLAT), 3, 8, 0)
    assert Refusal.PRICE == grant_decode(_priced(1.001, cost=FLAT), 3, 8, 0)


@pytest.mark.parametrize(
    ("price", "limits", "expected"),
    [
        (1.5, {}, 10),
        (LEAST_PRICE, {"tokens_left": 12}, 12),
        (LEAST_PRICE + 0.1, {"tokens_left": 12}, 10),
        (4.5, {}, 10),
        (4.7, {}, Refusal.PRICE),
        (0.0, {"prefill_price": 1.5}, 10),
        (1.5, {"prefill_price": 4.7}, Refusal.PRICE),
        (1.5, {"limit_s": 8}, 7),
        (4.7, {"limit_s": 1}, Refusal.LATENCY),
        (1.5, {"blocks_left": 2}, 8),
        (0.0, {"prefill_price": 4.7, "cost": None}, 24),
        (4.7, {"free_s": 9}, 8),
        (1.5, {"free_s": 9}, 10),
        (4.7, {"free_s": 9, "limit_s": 8}, 7),
        (4.7, {"free_s": 4}, Refusal.PRICE),
        (1.5, {"free_s": 9, "prefill_price": 4.7}, Refusal.PRICE),
    ],
)
def test_chunk_is_the_one_that_is_worth_most_at_the_higher_of_its_prices(
    price: float, limits: dict[str, Any], expected: int | Refusal
) -> None:
    """Ten tokens are free on the curve; at a low price others are worth it, at a high one none.

    What is free in a pipeline is taken at any price, unless the KV cache asks for more.
    """
    assert expected == _grant(_priced(price, **limits))


def test_chunk_worth_its_price_but_smaller_than_the_least_is_refused_for_it() -> None:
    """It fills what is free; a step with nothing free, or a context that costs more, takes none."""
    cost = replace(STAIR, prefill_context_token_s=1)
    assert Refusal.PRICE == _grant(_priced(2.5, cost=cost), replace(CHUNK, computed_tokens=8))
    assert Refusal.PRICE == _grant(_priced(2.0), replace(CHUNK, min_tokens=11))
    budget = _priced(2.0, online=[(6, 0, True)])
    assert [4, Refusal.PRICE] == [_grant(budget), _grant(budget)]


def test_offline_work_alone_is_granted_at_any_price_and_the_next_is_not() -> None:
    """Offline work alone in a step always moves; a refusal leaves the budget as it is."""
    budgets = [_priced(1e9, prefill_price=1e9, has_online=False) for _ in range(2)]
    assert [1, 24] == [grant_decode(budgets[0], 1, 0, 0), _grant(budgets[1])]
    for budget in budgets:
        before = copy(budget)
        assert [Refusal.PRICE] * 2 == [grant_decode(budget, 1, 0, 0), _grant(budget)]
        assert before == budget
