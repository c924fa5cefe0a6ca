# SPDX-License-Identifier: Apache-2.0
"""StepCost: more work never costs less, and the largest chunk is the price solved for tokens."""

import math
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hygen_vllm.cost.composition import FEATURES, StepComposition
from hygen_vllm.cost.curve import TokenCurve
from hygen_vllm.cost.step_cost import FLAT, NUM_COEFFICIENTS, StepCost
from tests.support.costs import costs

FREE = StepCost(0, 0, 0, 0, 0, 0, 0)
LAW = settings(derandomize=True, deadline=None, max_examples=80)
HUNDREDS = st.integers(0, 900)
WHOLE = st.integers(0, 20)
WHOLE_COSTS = costs(WHOLE)
"""Whole coefficients: prices of whole tokens are exact, so the laws hold without tolerance."""
CONVEX_COSTS = costs(WHOLE, is_convex=True)
SECONDS = st.just(0.0) | st.floats(1e-9, 1e-3)
REAL_COSTS = costs(SECONDS)
COMPOSITIONS = st.builds(StepComposition, *(HUNDREDS for _ in range(6)))


def test_seconds_of_a_step_are_the_sum_in_the_formula() -> None:
    """Decodes, chunks and tokens between knees, each with its own coefficient."""
    cost = StepCost(1000, 3, 5, 7, 11, 13, 17, TokenCurve((64, 128, 256), (6, 2, 16)))
    step = StepComposition()
    step.add_decode(1, 50)
    step.add_decode(2, 60)
    step.add_prefill(200, 32)
    decode_s = 3 * (1 + 2) + 5 * (50 + 60)
    prefill_s = 7 + 11 * 200 + 13 * 200 * (32 + 200 / 2) + 17 * (32 + 200)
    curve_s = 6 * (128 - 64) + 2 * (203 - 128)
    assert cost.seconds(step) == 1000 + decode_s + prefill_s + curve_s


def _step(total_tokens: int) -> StepComposition:
    """Return a step with a chunk that has so many tokens."""
    return StepComposition(num_prefills=1, prefill_tokens=total_tokens)


@LAW
@given(WHOLE_COSTS, COMPOSITIONS)
def test_seconds_of_any_step_are_features_times_coefficients(
    cost: StepCost, step: StepComposition
) -> None:
    """What is learned from features is what is charged."""
    base_s, *coefficients = cost.coefficients()
    pairs = zip(coefficients, step.features(), strict=True)
    sums_s = sum(coefficient * feature for coefficient, feature in pairs)
    first_s = cost.first_prefill_s * (step.num_prefills > 0)
    assert cost.seconds(step) == base_s + sums_s + first_s + cost.curve.seconds(step.total_tokens)


@LAW
@given(
    REAL_COSTS,
    COMPOSITIONS,
    st.sampled_from([f.name for f in fields(StepComposition)]),
    HUNDREDS,
)
def test_seconds_with_more_of_anything_are_not_fewer(
    cost: StepCost, step: StepComposition, field: str, more: int
) -> None:
    """No kind of work makes a step shorter, and no step takes less than its base."""
    larger = replace(step, **{field: getattr(step, field) + more})
    assert cost.base_s <= cost.seconds(step) <= cost.seconds(larger)


@LAW
@given(WHOLE_COSTS, st.tuples(HUNDREDS, HUNDREDS, HUNDREDS), st.integers(1, 2), HUNDREDS)
def test_added_seconds_with_more_tokens_or_context_are_not_fewer(
    cost: StepCost, arguments: tuple[int, int, int], which: int, more: int
) -> None:
    """More tokens or a longer context never makes a request cheaper."""
    larger = list(arguments)
    larger[which] += more
    for added_seconds in (cost.added_decode_seconds, cost.added_chunk_seconds):
        few_s, many_s = (added_seconds(_step(n), *rest) for n, *rest in (arguments, larger))
        assert 0 <= few_s <= many_s


@LAW
@given(CONVEX_COSTS, st.tuples(HUNDREDS, HUNDREDS, HUNDREDS), st.integers(0, 2), HUNDREDS)
def test_added_seconds_on_a_curve_that_bends_upwards_with_more_of_any_argument_are_not_fewer(
    cost: StepCost, arguments: tuple[int, int, int], which: int, more: int
) -> None:
    """Without stairs a fuller step never makes a request cheaper either."""
    larger = list(arguments)
    larger[which] += more
    for added_seconds in (cost.added_decode_seconds, cost.added_chunk_seconds):
        few_s, many_s = (added_seconds(_step(n), *rest) for n, *rest in (arguments, larger))
        assert 0 <= few_s <= many_s


@LAW
@given(WHOLE_COSTS, COMPOSITIONS, HUNDREDS, HUNDREDS)
def test_added_chunk_seconds_are_what_the_chunk_adds_to_the_step(
    cost: StepCost, step: StepComposition, new_tokens: int, computed_tokens: int
) -> None:
    """The price of one more chunk is the difference of two steps."""
    larger = replace(step)
    larger.add_prefill(new_tokens, computed_tokens)
    added_s = cost.added_chunk_seconds(step, new_tokens, computed_tokens)
    assert added_s == cost.seconds(larger) - cost.seconds(step)


@settings(LAW, max_examples=200)
@given(
    WHOLE_COSTS,
    COMPOSITIONS | st.builds(StepComposition, st.integers(60, 66)),
    st.just(1) | st.integers(0, 70),
    HUNDREDS,
)
def test_added_decode_seconds_are_what_a_decode_adds_to_the_step(
    cost: StepCost, step: StepComposition, new_tokens: int, computed_tokens: int
) -> None:
    """The price of one more decode is the difference of two steps, whatever knees are between."""
    larger = replace(step)
    larger.add_decode(new_tokens, computed_tokens)
    added_s = cost.added_decode_seconds(step, new_tokens, computed_tokens)
    assert added_s == cost.seconds(larger) - cost.seconds(step)


@settings(LAW, max_examples=250)
@given(
    WHOLE_COSTS,
    st.integers(0, 700),
    st.integers(0, 5000),
    st.integers(0, 1500),
    st.integers(0, 1500),
    st.integers(-2, 2),
)
def test_largest_chunk_is_the_exact_inverse_of_added_chunk_seconds(
    cost: StepCost, total: int, computed: int, cap: int, about: int, off_s: int
) -> None:
    """The chunk fits, and one token more does not unless it was capped: at any knee, to a token."""
    limit_s = cost.added_chunk_seconds(_step(total), about, computed) + off_s
    chunk = cost.largest_chunk(_step(total), computed, cap, limit_s)
    assert 0 <= chunk <= cap
    if chunk > 0:
        assert cost.added_chunk_seconds(_step(total), chunk, computed) <= limit_s
    if chunk < cap:
        assert cost.added_chunk_seconds(_step(total), chunk + 1, computed) > limit_s


@LAW
@given(REAL_COSTS, st.integers(0, 700), st.integers(0, 5000), st.floats(0, 1))
def test_largest_chunk_with_real_prices_is_the_inverse_up_to_rounding(
    cost: StepCost, total: int, computed: int, limit_s: float
) -> None:
    """Coefficients of any size between free and a millisecond change nothing in the law."""
    chunk = cost.largest_chunk(_step(total), computed, 8192, limit_s)
    rounding_s = 1e-9 * (limit_s + cost.added_chunk_seconds(_step(0), total + 1, computed))
    if chunk > 0:
        assert cost.added_chunk_seconds(_step(total), chunk, computed) <= limit_s + rounding_s
    if chunk < 8192:
        assert cost.added_chunk_seconds(_step(total), chunk + 1, computed) >= limit_s - rounding_s


@LAW
@given(WHOLE_COSTS, st.tuples(HUNDREDS, HUNDREDS), HUNDREDS, st.integers(0, 10**6), WHOLE)
def test_largest_chunk_with_more_time_or_a_shorter_context_is_not_smaller(
    cost: StepCost, before: tuple[int, int], cap: int, limit_s: int, more: int
) -> None:
    """More seconds or a higher cap never shrink it, more computed tokens never grow it."""
    total, computed = before
    chunk = cost.largest_chunk(_step(total), computed, cap, limit_s)
    assert cost.largest_chunk(_step(total), computed, cap, limit_s + 100 * more) >= chunk
    assert cost.largest_chunk(_step(total), computed, cap + more, limit_s) >= chunk
    assert cost.largest_chunk(_step(total), computed + more, cap, limit_s) <= chunk


@LAW
@given(WHOLE_COSTS, COMPOSITIONS, HUNDREDS, st.integers(0, 10**6), WHOLE)
def test_largest_chunk_in_a_fuller_step_of_the_same_limit_is_not_larger(
    cost: StepCost, step: StepComposition, computed: int, limit_s: int, more: int
) -> None:
    """Within the limit of a step, tokens of others never make room for more tokens in all."""
    fuller = replace(step, prefill_tokens=step.prefill_tokens + more)
    chunks = [
        cost.largest_chunk(_step(each.total_tokens), computed, 2000, limit_s - cost.seconds(each))
        for each in (step, fuller)
    ]
    assert chunks[1] <= chunks[0]


@LAW
@given(CONVEX_COSTS, st.tuples(HUNDREDS, HUNDREDS), HUNDREDS, st.integers(0, 10**6), WHOLE)
def test_largest_chunk_on_a_curve_that_bends_upwards_with_more_before_it_is_not_larger(
    cost: StepCost, before: tuple[int, int], cap: int, limit_s: int, more: int
) -> None:
    """Without stairs, more tokens before it never grow it."""
    total, computed = before
    chunk = cost.largest_chunk(_step(total), computed, cap, limit_s)
    assert cost.largest_chunk(_step(total + more), computed, cap, limit_s) <= chunk


@pytest.mark.parametrize(
    ("cost", "limit_s", "expected"),
    [
        (FREE, 0.0, 100),
        (FREE, -0.001, 0),
        (replace(FREE, prefill_token_s=1), math.inf, 100),
        (replace(FREE, prefill_token_s=1), -math.inf, 0),
        (replace(FREE, prefill_attention_s=1), math.inf, 100),
        (replace(FREE, prefill_token_s=1), 99.5, 99),
        (replace(FREE, prefill_s=5), 4.9, 0),
        (replace(FREE, prefill_s=5), 5, 100),
        (replace(FREE, curve=TokenCurve((64,), (1,))), 0, 64),
        (replace(FREE, curve=TokenCurve((64,), (1,))), 10, 74),
        (replace(FREE, curve=TokenCurve((64, 66), (1, 0))), 1.5, 65),
        (replace(FREE, curve=TokenCurve((64, 66), (1, 0))), 2, 100),
        (replace(FREE, curve=TokenCurve((0,), (1,))), -0.001, 0),
        (replace(FREE, curve=TokenCurve((0, 10, 40), (1, 0, 1))), 10, 40),
        (replace(FREE, curve=TokenCurve((0, 10, 40), (1, 0, 1))), 9.5, 9),
    ],
)
def test_largest_chunk_at_the_ends_of_its_range_is_the_cap_or_nothing(
    cost: StepCost, limit_s: float, expected: int
) -> None:
    """Free work is capped only; no time left, or less than the fixed price, is no chunk."""
    assert cost.largest_chunk(_step(0), 0, 100, limit_s) == expected


def test_coefficients_round_trip_through_from_coefficients() -> None:
    """The base, then one number per feature in the order of the features; the curve is apart."""
    values, curve = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], TokenCurve((8,), (9.0,))
    cost = StepCost.from_coefficients(values, curve)
    assert cost == StepCost(1, 2, 3, 4, 5, 6, 7, curve=curve)
    assert cost.coefficients() == values
    assert len(values) == NUM_COEFFICIENTS == 1 + len(FEATURES)


@LAW
@given(WHOLE_COSTS, COMPOSITIONS, st.integers(0, 8))
def test_scaled_cost_takes_that_many_times_as_long_for_any_step(
    cost: StepCost, step: StepComposition, factor: int
) -> None:
    """A device so many times slower is slower at everything."""
    assert cost.scaled(factor).seconds(step) == factor * cost.seconds(step)


@pytest.mark.parametrize("index", range(NUM_COEFFICIENTS))
@pytest.mark.parametrize("value", [-1e-9, math.inf, -math.inf, math.nan, True])
def test_coefficient_negative_or_not_finite_is_refused_with_its_value(
    index: int, value: float
) -> None:
    """A price that could fall with more work is no price."""
    values = [0.0] * NUM_COEFFICIENTS
    values[index] = value
    with pytest.raises(ValueError, match=f"^step cost .* be finite and >= 0, got {value}$"):
        StepCost.from_coefficients(values, FLAT)


@pytest.mark.parametrize("count", [0, NUM_COEFFICIENTS - 1, NUM_COEFFICIENTS + 1])
def test_coefficients_too_few_or_too_many_are_refused(count: int) -> None:
    """A cost of another form is not taken for one of this."""
    with pytest.raises(ValueError, match="unpack"):
        StepCost.from_coefficients([0.0] * count, FLAT)


REQUESTS = st.lists(st.tuples(st.booleans(), HUNDREDS, HUNDREDS), max_size=5)


@LAW
@given(REQUESTS)
def test_composition_of_many_requests_is_their_sum(requests: list[tuple[bool, int, int]]) -> None:
    """One more request is one more addition; only the curve sees the sum of all tokens."""
    step = StepComposition()
    for is_decode, new_tokens, computed_tokens in requests:
        (step.add_decode if is_decode else step.add_prefill)(new_tokens, computed_tokens)
    chunks = [(new, computed) for is_decode, new, computed in requests if not is_decode]
    decodes = [(new, computed) for is_decode, new, computed in requests if is_decode]
    expected = StepComposition(
        decode_tokens=sum(new for new, _ in decodes),
        decode_context_tokens=sum(computed for _, computed in decodes),
        num_prefills=len(chunks),
        prefill_tokens=sum(new for new, _ in chunks),
        prefill_attention=sum(new * (computed + new / 2) for new, computed in chunks),
        prefill_context_tokens=sum(computed + new for new, computed in chunks),
    )
    assert step == expected
    assert step.total_tokens == sum(new for _, new, _ in requests)
    assert step.features() == [getattr(expected, name) for name in FEATURES]


def test_decode_of_several_tokens_across_a_knee_pays_for_those_behind_it() -> None:
    """Speculative decodes are priced like any other tokens."""
    cost = replace(FREE, curve=TokenCurve((64,), (1.0,)))
    before = StepComposition(decode_tokens=63)
    after = StepComposition(decode_tokens=67)
    added = cost.added_decode_seconds(before, 4, 0)
    assert 3 == added == cost.seconds(after) - cost.seconds(before)


# --- what offline work is worth ----------------------------------------------------------------

PRICES = st.sampled_from((0.5, 0.75, 1, 1.25, 1.5, 2, 5, 1000))
STEPS = st.tuples(st.integers(0, 700), HUNDREDS)
"""Total tokens of a step, and computed tokens of the request that asks for a part of it."""


def _net_s(
    cost: StepCost, step: tuple[int, int], tokens: int, price: float, token_worth_s: float
) -> float:
    """Return what a chunk is worth as a part of a full step more than it costs in this one."""
    total, computed = step
    on_curve_s = cost.curve.seconds(total + tokens) - cost.curve.seconds(total)
    other_s = cost.seconds(_chunk(tokens, computed)) - cost.seconds(StepComposition())
    other_s -= cost.curve.seconds(tokens)
    return token_worth_s * tokens + other_s - price * (on_curve_s + other_s) if tokens else 0.0


def _chunk(new_tokens: int, computed_tokens: int) -> StepComposition:
    step = StepComposition()
    step.add_prefill(new_tokens, computed_tokens)
    return step


@pytest.mark.parametrize(("full_tokens", "expected"), [(64, 0), (80, 0.4), (128, 1), (256, 1.5)])
def test_token_worth_is_its_part_of_the_curve_of_a_full_step(
    full_tokens: int, expected: float
) -> None:
    """Tokens that are free at first are worth what all of them cost on average."""
    cost = StepCost(1000, 3, 5, 7, 11, 13, 17, TokenCurve((64,), (2,)))
    assert expected == cost.token_worth_s(full_tokens)
    assert 2 == replace(cost, curve=TokenCurve((0,), (2,))).token_worth_s(full_tokens)


def test_decode_worth_is_what_it_takes_apart_from_the_curve_and_its_tokens_part() -> None:
    """Its own tokens and context, each with its coefficient, whatever the step."""
    cost = StepCost(1000, 3, 5, 7, 11, 13, 17, TokenCurve((0,), (2,)))
    assert (3 + 0.5) * 4 + 5 * 60 == cost.decode_worth_s(4, 60, token_worth_s=0.5)


@settings(LAW, max_examples=60)
@given(WHOLE_COSTS, STEPS, st.integers(0, 300), PRICES, st.integers(1, 1024))
def test_best_chunk_is_worth_most_more_than_it_costs_of_all_sizes(
    cost: StepCost, step: tuple[int, int], most: int, price: float, full_tokens: int
) -> None:
    """A price other than one needs a form without a fixed part, or without attention."""
    if price < 1:
        cost = replace(cost, prefill_s=0, prefill_context_token_s=0)
    elif price > 1:
        cost = replace(cost, prefill_attention_s=0)
    worth_s = cost.token_worth_s(full_tokens)
    total, computed = step
    best = cost.best_chunk(_step(total), computed, most, price=price, token_worth_s=worth_s)
    nets_s = [_net_s(cost, step, tokens, price, worth_s) for tokens in range(most + 1)]
    rounding_s = 1e-9 * price * cost.seconds(_chunk(sum(step) + most, 0))
    assert 0 <= best <= most
    assert max(nets_s) - rounding_s <= nets_s[best]


STAIRS = StepCost(100, 1, 0, 4, 1, 0, 0.5, TokenCurve((0, 64, 72, 128), (0, 3, 0, 5)))


@pytest.mark.parametrize(
    ("total_tokens", "max_tokens", "price", "expected"),
    [
        (0, 200, 1, 128),
        (0, 112, 1, 64),
        (0, 113, 1, 113),
        (60, 100, 1, 68),
        (60, 6, 1, 4),
        (63, 40, 1, 1),
        (0, 200, 1.0625, 128),
        (64, 8, 1, 0),
        (64, 49, 1, 49),
        (128, 50, 1, 0),
        (0, 100, 1.125, 64),
        (0, 100, 100, 0),
        (0, 0, 1, 0),
    ],
)
def test_best_chunk_on_stairs_ends_at_a_knee_or_is_all_or_nothing(
    total_tokens: int, max_tokens: int, price: float, expected: int
) -> None:
    """It fills what is free, climbs a stair only if enough lies behind it, and is worth the price.

    A token is worth 1/2 where none is cached: 48 tokens pay for a stair of 24 seconds.
    """
    worth = {"price": price, "token_worth_s": 0.5}
    assert expected == STAIRS.best_chunk(_step(total_tokens), 0, max_tokens, **worth)


@pytest.mark.parametrize(("price", "expected"), [(0.5, 50), (1, 0), (1.5, 0)])
def test_best_chunk_without_a_curve_is_all_below_the_price_of_one(
    price: float, expected: int
) -> None:
    """Where no token is free a chunk is worth just what it adds."""
    cost = replace(STAIRS, curve=FLAT)
    assert expected == cost.best_chunk(_step(10), 5, 50, price=price, token_worth_s=0.0)


def test_best_chunk_after_a_long_context_has_to_pay_for_it() -> None:
    """Twice the price of a context of 100 is 50 seconds that a chunk loses."""
    cost = replace(FREE, prefill_context_token_s=1, curve=TokenCurve((50,), (100,)))
    worth = {"price": 2, "token_worth_s": 3}
    best = [cost.best_chunk(_step(0), computed, 80, **worth) for computed in (99, 100)]
    assert [50, 0] == best


def test_first_chunk_of_a_step_pays_what_any_prefill_costs() -> None:
    """A step with prefill is launched in pieces, however many chunks it has."""
    cost = replace(FREE, first_prefill_s=7)
    decodes, one, two = StepComposition(decode_tokens=3), _chunk(5, 0), _chunk(5, 0)
    two.add_prefill(5, 0)
    assert [cost.seconds(step) for step in (decodes, one, two)] == [0, 7, 7]
    assert [cost.added_chunk_seconds(step, 5, 0) for step in (decodes, one)] == [7, 0]


def test_first_chunk_fits_only_where_there_is_time_for_what_it_costs() -> None:
    """largest_chunk is the inverse of added_chunk_seconds for a first chunk too."""
    cost = replace(FREE, first_prefill_s=7, prefill_token_s=1)
    decodes = StepComposition(decode_tokens=3)
    chunks = [cost.largest_chunk(decodes, 0, 100, seconds) for seconds in (6.9, 7, 9.5)]
    assert chunks == [0, 0, 2]


def test_first_chunk_is_granted_only_if_it_is_worth_what_any_prefill_costs() -> None:
    """In a full step that cost is shared by all its chunks, so it is no part of their worth."""
    cost = replace(FREE, first_prefill_s=8)
    decodes, worth = StepComposition(decode_tokens=3), {"price": 2, "token_worth_s": 1}
    chunks = [cost.best_chunk(decodes, 0, most, **worth) for most in (16, 17)]
    assert chunks == [0, 17]


def test_scaled_cost_scales_what_the_first_chunk_costs() -> None:
    """Everything takes as many times as long."""
    assert replace(FREE, first_prefill_s=8).scaled(0.5).first_prefill_s == 4
