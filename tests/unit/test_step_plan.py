# SPDX-License-Identifier: Apache-2.0
"""StepPlan and LatencyGate: online is charged first, and what it leaves is offline's limit."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hygen_vllm.config import HyGenConfig
from hygen_vllm.latency.step_cost import StepCost
from hygen_vllm.latency.step_features import StepComposition
from hygen_vllm.slo.step_terms import StepTerms
from hygen_vllm.step_plan import LatencyGate, StepPlan

COST = StepCost(8, 2, 0.5, 4, 1, 0.25, 0.125)
TOLERANCE = LatencyGate.from_config(HyGenConfig(interference_tolerance=0.5, idle_step_s=3))


def _plan(**kwargs: Any) -> StepPlan:
    limits = {"tokens_left": 100, "blocks_left": 8, "prefill_tokens_left": 64}
    return StepPlan(**({"gate": TOLERANCE, "cost": COST} | limits | kwargs))


def _load(alone_s: float | None) -> StepPlan:
    """Return a plan whose online work takes `alone_s`; None: it has none."""
    return _plan(has_online=alone_s is not None, alone_s=alone_s or 0.0)


@pytest.mark.parametrize(
    ("settings_", "limit_with_online_s", "limit_without_s"),
    [
        ({}, 2.4, 0.1),
        ({"interference_tolerance": 0, "idle_step_s": 0.25}, 2.0, 0.25),
        ({"interference_tolerance": 0.5}, 3.0, 0.1),
        ({"latency_budget_s": 0.12}, 0.12, 0.12),
        ({"mode": "fixed", "latency_budget_s": 5}, 5, 5),
        ({"mode": "off"}, math.inf, math.inf),
    ],
)
def test_gate_of_each_mode_limits_a_step_of_two_online_seconds(
    settings_: dict[str, Any], limit_with_online_s: float, limit_without_s: float
) -> None:
    """`tolerance`: a share more than online alone, or idle_step_s; `fixed`: the latency budget."""
    gate = LatencyGate.from_config(HyGenConfig(**settings_))
    assert gate.terms(_load(2.0)) == StepTerms(limit_with_online_s)
    assert gate.terms(_load(None)) == StepTerms(limit_without_s)


def test_gate_with_free_online_work_leaves_nothing() -> None:
    """Online work of 0 s is not the same as none: no share of it is there to take."""
    assert TOLERANCE.terms(_load(0.0)) == StepTerms(0.0)
    assert TOLERANCE.terms(_load(None)) == StepTerms(3)


def test_charge_online_takes_tokens_and_slots_of_each_request() -> None:
    """A request takes its tokens and its drafting slots; blocks are vLLM's to take."""
    plan = _plan(slots_per_request=3)
    plan.charge_online(5, 40, is_decode=True)
    plan.charge_online(20, 16, is_decode=False)
    assert plan.tokens_left == 100 - (5 + 3) - (20 + 3)
    assert plan.blocks_left == 8
    assert plan.prefill_tokens_left == 64


def test_charge_online_adds_each_request_to_its_sums() -> None:
    """What is priced is exactly what was charged, decodes and chunks apart."""
    plan, expected = _plan(), StepComposition()
    for new_tokens, computed_tokens in ((1, 40), (2, 7)):
        plan.charge_online(new_tokens, computed_tokens, is_decode=True)
        expected.add_decode(new_tokens, computed_tokens)
    for new_tokens, computed_tokens in ((16, 0), (8, 32)):
        plan.charge_online(new_tokens, computed_tokens, is_decode=False)
        expected.add_prefill(new_tokens, computed_tokens)
    assert plan.online == expected
    assert plan.tokens_left == 100 - (1 + 2 + 16 + 8)


def test_close_online_prices_online_work_and_fixes_the_limit() -> None:
    """After it the step holds the online seconds, and may take half as long again."""
    plan = _plan(has_online=True)
    plan.charge_online(1, 40, is_decode=True)
    plan.charge_online(16, 0, is_decode=False)
    plan.close_online()
    online_s = 8 + (2 + 0.5 * 40) + (4 + 16 + 0.25 * 16 * 8 + 0.125 * 16)
    assert (plan.seconds, plan.limit_s) == (online_s, 1.5 * online_s)
    assert (plan.total_tokens, plan.is_closed) == (17, True)


def test_close_online_without_online_work_allows_an_idle_step() -> None:
    """An empty step still costs its base."""
    plan = _plan()
    plan.close_online()
    assert (plan.seconds, plan.limit_s, plan.total_tokens) == (8, 3, 0)


def test_close_online_without_prices_sets_no_limit() -> None:
    """What cannot be priced is not gated by seconds; its tokens still count."""
    plan = _plan(cost=None, has_online=True)
    plan.charge_online(16, 0, is_decode=False)
    plan.close_online()
    assert (plan.seconds, plan.limit_s, plan.total_tokens) == (0.0, math.inf, 16)


@pytest.mark.parametrize("has_online", [True, False])
def test_first_offline_grant_without_online_is_alone_and_the_next_is_not(has_online: bool) -> None:
    """Only one offline request, and only where no online one runs or can start, is alone."""
    plan = _plan(has_online=has_online)
    assert plan.is_alone == (not has_online)
    plan.take(1, 0, 0.0)
    assert not plan.is_alone


def test_take_charges_tokens_slots_blocks_and_seconds() -> None:
    """A grant leaves that much less for the next offline request."""
    plan = _plan(slots_per_request=2)
    plan.close_online()
    plan.take(10, 3, 0.5)
    plan.take(1, 0, 0.25)
    assert plan.tokens_left == 100 - (10 + 2) - (1 + 2)
    assert plan.blocks_left == 8 - 3
    assert (plan.total_tokens, plan.seconds) == (11, 8.75)
    assert plan.online == StepComposition()


REQUESTS = st.tuples(st.integers(0, 64), st.integers(0, 500), st.booleans())


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(REQUESTS, max_size=5), REQUESTS)
def test_one_more_online_request_never_lowers_seconds_or_raises_tokens_left(
    requests: list[tuple[int, int, bool]], another: tuple[int, int, bool]
) -> None:
    """More online work leaves offline no more tokens, in a step that is no shorter."""
    plans = _plan(has_online=True), _plan(has_online=True)
    for plan, charged in zip(plans, (requests, [*requests, another]), strict=True):
        for new_tokens, computed_tokens, is_decode in charged:
            plan.charge_online(new_tokens, computed_tokens, is_decode)
        plan.close_online()
    assert plans[1].seconds >= plans[0].seconds
    assert plans[1].tokens_left <= plans[0].tokens_left
    assert plans[1].total_tokens == plans[0].total_tokens + another[0]


def test_online_work_not_foreseen_is_charged_after_closing_too() -> None:
    """An online request that comes after the first offline grant still costs seconds."""
    cost = StepCost(0.02, 2e-4, 0, 1e-3, 1e-4, 0, 0)
    plan = StepPlan(LatencyGate("fixed", 10, 0, 0), cost, 100, 2, 100, has_online=True)
    plan.close_online()
    before = plan.seconds
    plan.charge_online(10, 0, is_decode=False)
    assert plan.seconds == pytest.approx(before + 2e-3)
    assert plan.total_tokens == 10
