# SPDX-License-Identifier: Apache-2.0
"""StepCost: more work never costs less, and the largest chunk is the price solved for tokens."""

import math
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hygen_vllm.latency.step_cost import StepCost
from hygen_vllm.latency.step_features import HINGE_TOKENS, NUM_FEATURES, StepComposition

FREE = StepCost(0, 0, 0, 0, 0, 0, 0, hinge_token_s=(0, 0, 0, 0))
LAW = settings(derandomize=True, deadline=None, max_examples=80)
HUNDREDS = st.integers(0, 900)
WHOLE = st.integers(0, 20)
WHOLE_COSTS = st.builds(
    StepCost, *(WHOLE for _ in range(7)), hinge_token_s=st.tuples(WHOLE, WHOLE, WHOLE, WHOLE)
)
"""Whole coefficients: prices of whole tokens are exact, so the laws hold without tolerance."""
SECONDS = st.just(0.0) | st.floats(1e-9, 1e-3)
REAL_COSTS = st.builds(
    StepCost,
    *(SECONDS for _ in range(7)),
    hinge_token_s=st.tuples(SECONDS, SECONDS, SECONDS, SECONDS),
)
COMPOSITIONS = st.builds(StepComposition, *(HUNDREDS for _ in range(6)))


def test_seconds_of_a_step_are_the_sum_in_the_formula() -> None:
    """Decodes, chunks and tokens beyond each knee, each with its own coefficient."""
    cost = StepCost(1000, 3, 5, 7, 11, 13, 17, hinge_token_s=(2, 4, 8, 16))
    step = StepComposition()
    step.add_decode(1, 50)
    step.add_decode(2, 60)
    step.add_prefill(200, 32)
    decode_s = 3 * (1 + 2) + 5 * (50 + 60)
    prefill_s = 7 + 11 * 200 + 13 * 200 * (32 + 200 / 2) + 17 * (32 + 200)
    hinge_s = 2 * (203 - 64) + 4 * (203 - 128)
    assert HINGE_TOKENS == (64, 128, 256, 512)
    assert cost.seconds(step) == 1000 + decode_s + prefill_s + hinge_s


@LAW
@given(WHOLE_COSTS, COMPOSITIONS)
def test_seconds_of_any_step_are_features_times_coefficients(
    cost: StepCost, step: StepComposition
) -> None:
    """What is learned from features is what is charged."""
    pairs = zip(cost.coefficients(), step.features(), strict=True)
    assert cost.seconds(step) == sum(coefficient * feature for coefficient, feature in pairs)


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
@given(WHOLE_COSTS, st.tuples(HUNDREDS, HUNDREDS, HUNDREDS), st.integers(0, 2), HUNDREDS)
def test_added_seconds_with_more_of_any_argument_are_not_fewer(
    cost: StepCost, arguments: tuple[int, int, int], which: int, more: int
) -> None:
    """A fuller step, more tokens or a longer context never makes a request cheaper."""
    larger = list(arguments)
    larger[which] += more
    for added_seconds in (cost.added_decode_seconds, cost.added_chunk_seconds):
        assert 0 <= added_seconds(*arguments) <= added_seconds(*larger)


@LAW
@given(WHOLE_COSTS, COMPOSITIONS, HUNDREDS, HUNDREDS)
def test_added_chunk_seconds_are_what_the_chunk_adds_to_the_step(
    cost: StepCost, step: StepComposition, new_tokens: int, computed_tokens: int
) -> None:
    """The price of one more chunk is the difference of two steps."""
    larger = replace(step)
    larger.add_prefill(new_tokens, computed_tokens)
    added_s = cost.added_chunk_seconds(step.total_tokens, new_tokens, computed_tokens)
    assert added_s == cost.seconds(larger) - cost.seconds(step)


@LAW
@given(WHOLE_COSTS, COMPOSITIONS | st.builds(StepComposition, st.integers(60, 66)), HUNDREDS)
def test_added_decode_seconds_are_what_a_decode_of_one_token_adds_to_the_step(
    cost: StepCost, step: StepComposition, computed_tokens: int
) -> None:
    """The price of one more decode is the difference of two steps, on either side of a knee."""
    larger = replace(step)
    larger.add_decode(1, computed_tokens)
    added_s = cost.added_decode_seconds(step.total_tokens, 1, computed_tokens)
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
    limit_s = cost.added_chunk_seconds(total, about, computed) + off_s
    chunk = cost.largest_chunk(total, computed, cap, limit_s)
    assert 0 <= chunk <= cap
    if chunk > 0:
        assert cost.added_chunk_seconds(total, chunk, computed) <= limit_s
    if chunk < cap:
        assert cost.added_chunk_seconds(total, chunk + 1, computed) > limit_s


@LAW
@given(REAL_COSTS, st.integers(0, 700), st.integers(0, 5000), st.floats(0, 1))
def test_largest_chunk_with_real_prices_is_the_inverse_up_to_rounding(
    cost: StepCost, total: int, computed: int, limit_s: float
) -> None:
    """Coefficients of any size between free and a millisecond change nothing in the law."""
    chunk = cost.largest_chunk(total, computed, 8192, limit_s)
    rounding_s = 1e-9 * (limit_s + cost.added_chunk_seconds(0, total + 1, computed))
    if chunk > 0:
        assert cost.added_chunk_seconds(total, chunk, computed) <= limit_s + rounding_s
    if chunk < 8192:
        assert cost.added_chunk_seconds(total, chunk + 1, computed) >= limit_s - rounding_s


@LAW
@given(WHOLE_COSTS, st.tuples(HUNDREDS, HUNDREDS), HUNDREDS, st.integers(0, 10**6), WHOLE)
def test_largest_chunk_with_more_time_or_less_before_it_is_not_smaller(
    cost: StepCost, before: tuple[int, int], cap: int, limit_s: int, more: int
) -> None:
    """More seconds or a higher cap never shrink it, more tokens before it never grow it."""
    total, computed = before
    chunk = cost.largest_chunk(total, computed, cap, limit_s)
    assert cost.largest_chunk(total, computed, cap, limit_s + 100 * more) >= chunk
    assert cost.largest_chunk(total, computed, cap + more, limit_s) >= chunk
    assert cost.largest_chunk(total + more, computed, cap, limit_s) <= chunk
    assert cost.largest_chunk(total, computed + more, cap, limit_s) <= chunk


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
        (replace(FREE, hinge_token_s=(1, 0, 0, 0)), 0, 64),
        (replace(FREE, hinge_token_s=(1, 0, 0, 0)), 10, 74),
    ],
)
def test_largest_chunk_at_the_ends_of_its_range_is_the_cap_or_nothing(
    cost: StepCost, limit_s: float, expected: int
) -> None:
    """Free work is capped only; no time left, or less than the fixed price, is no chunk."""
    assert cost.largest_chunk(0, 0, 100, limit_s) == expected


def test_coefficients_round_trip_through_from_coefficients() -> None:
    """One number per feature, in the order of the features."""
    values = [float(number) for number in range(1, NUM_FEATURES + 1)]
    cost = StepCost.from_coefficients(values)
    assert cost == StepCost(1, 2, 3, 4, 5, 6, 7, hinge_token_s=(8, 9, 10, 11))
    assert cost.coefficients() == values


@pytest.mark.parametrize("index", [0, 6, 7, NUM_FEATURES - 1])
@pytest.mark.parametrize("value", [-1e-9, math.inf, -math.inf, math.nan])
def test_coefficient_negative_or_not_finite_is_refused_with_its_value(
    index: int, value: float
) -> None:
    """A price that could fall with more work is no price."""
    values = [0.0] * NUM_FEATURES
    values[index] = value
    with pytest.raises(ValueError, match=f"^step cost .* be finite and >= 0, got {value}$"):
        StepCost.from_coefficients(values)


@pytest.mark.parametrize("hinges", [(), (0, 0, 0), (0, 0, 0, 0, 0)])
def test_coefficients_too_few_or_too_many_are_refused_with_their_number(
    hinges: tuple[Any, ...],
) -> None:
    """A cost for other knees is not taken for one for these."""
    with pytest.raises(ValueError, match=f"^a step cost has 11 numbers, got {7 + len(hinges)}$"):
        replace(FREE, hinge_token_s=hinges)


REQUESTS = st.lists(st.tuples(st.booleans(), HUNDREDS, HUNDREDS), max_size=5)


@LAW
@given(REQUESTS)
def test_composition_of_many_requests_is_their_sum(requests: list[tuple[bool, int, int]]) -> None:
    """One more request is one more addition; only knees see the sum of all tokens."""
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


def test_decode_of_several_tokens_across_a_knee_pays_for_those_behind_it() -> None:
    """Speculative decodes are priced like any other tokens."""
    cost = StepCost(0, 0, 0, 0, 0, 0, 0, (1.0, 0, 0, 0))
    before = StepComposition(decode_tokens=63)
    after = StepComposition(decode_tokens=67)
    added = cost.added_decode_seconds(63, 4, 0)
    assert added == cost.seconds(after) - cost.seconds(before)
