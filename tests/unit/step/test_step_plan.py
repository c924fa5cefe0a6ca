# SPDX-License-Identifier: Apache-2.0
"""StepPlan and LatencyGate: online is charged first, and what it leaves is offline's limit."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hygen_vllm.config import HyGenConfig
from hygen_vllm.price.composition import StepComposition
from hygen_vllm.price.cost import StepCost
from hygen_vllm.price.curve import TokenCurve
from hygen_vllm.step.plan import LatencyGate, StepPlan
from hygen_vllm.step.terms import OnlineLoad, StepTerms

COST = StepCost(8, 2, 0.5, 4, 1, 0.25, 0.125)
TOLERANCE = LatencyGate.from_config(HyGenConfig(interference_tolerance=0.5, idle_step_s=3))


def _plan(**kwargs: Any) -> StepPlan:
    limits = {"tokens_left": 100, "blocks_left": 8, "prefill_tokens_left": 64}
    return StepPlan(**({"gate": TOLERANCE, "cost": COST} | limits | kwargs))


def _load(alone_s: float | None) -> StepPlan:
    """Return a plan whose online work takes `alone_s`; None: it has none."""
    cost = replace(COST, base_s=0.01)
    return _plan(cost=cost, has_online=alone_s is not None, alone_s=alone_s or 0.0)


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
    is_idle = gate.mode in ("slo", "tolerance")
    assert gate.terms(_load(None)) == StepTerms(limit_without_s, is_idle=is_idle)


@pytest.mark.parametrize("base_s", [0.02, 0.3])
def test_step_without_online_work_is_two_of_the_smallest_at_least(base_s: float) -> None:
    """On an engine so slow that no step is shorter than idle_step_s more than one request runs."""
    gate = LatencyGate.from_config(HyGenConfig(mode="tolerance"))
    plan = _plan(cost=replace(COST, base_s=base_s), has_online=False)
    assert gate.terms(plan) == StepTerms(max(0.1, 2 * base_s), is_idle=True)
    assert gate.terms(_plan(cost=None, has_online=False)) == StepTerms(0.1, is_idle=True)


def test_gate_with_free_online_work_leaves_nothing() -> None:
    """Online work of 0 s is not the same as none: no share of it is there to take."""
    assert TOLERANCE.terms(_load(0.0)) == StepTerms(0.0)
    assert TOLERANCE.terms(_load(None)) == StepTerms(3, is_idle=True)


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
    assert (plan.seconds, plan.limit_s, plan.total_tokens) == (8, 2 * 8, 0)


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


class _Asked:
    """A gate that keeps what it was asked about, and answers with given terms."""

    mode = "slo"

    def __init__(self, limit_s: float, price: float) -> None:
        self.loads: list[tuple[float, int, bool]] = []
        self._terms = StepTerms(limit_s, price)

    def terms(self, load: OnlineLoad) -> StepTerms:
        self.loads.append((load.alone_s, load.num_decodes, load.has_online))
        return self._terms


def test_close_online_takes_limit_and_price_from_the_gate() -> None:
    """The gate is asked once, when the online side is complete."""
    gate = _Asked(limit_s=77.0, price=2.5)
    plan = _plan(gate=gate, has_online=True)
    plan.charge_online(1, 40, is_decode=True)
    assert (math.inf, 0.0, []) == (plan.limit_s, plan.price, gate.loads)
    plan.close_online()
    assert (77.0, 2.5) == (plan.limit_s, plan.price)
    assert [(8 + 2 + 0.5 * 40, 1, True)] == gate.loads


def test_close_online_without_prices_does_not_ask_the_gate() -> None:
    """Its price would be one of seconds, and nobody knows them."""
    gate = _Asked(limit_s=77.0, price=2.5)
    plan = _plan(gate=gate, cost=None)
    plan.close_online()
    assert (math.inf, 0.0, 0.0, []) == (plan.limit_s, plan.price, plan.token_worth_s, gate.loads)


@pytest.mark.parametrize(
    ("price", "prefill_price", "expected"),
    [(0.0, 0.0, 0.0), (0.5, 0.0, 1.5), (0.0, 1.0, 1.5), (0.5, 1.0, 1.5)],
)
def test_token_is_worth_its_part_of_a_step_that_is_full_where_anything_has_a_price(
    price: float, prefill_price: float, expected: float
) -> None:
    """The tokens of online requests do not make the step a smaller one."""
    cost = replace(COST, curve=TokenCurve((25,), (2,)))
    plan = _plan(gate=_Asked(50.0, price), cost=cost, prefill_price=prefill_price)
    plan.charge_online(60, 0, is_decode=False)
    plan.close_online()
    assert expected == plan.token_worth_s


def test_max_tokens_are_those_before_anything_was_charged() -> None:
    """A step does not become smaller as it is filled."""
    plan = _plan(slots_per_request=1)
    plan.charge_online(10, 0, is_decode=False)
    plan.close_online()
    plan.take(5, 0, 0.5)
    assert (100, 100 - 11 - 6) == (plan.max_tokens, plan.tokens_left)


def test_full_step_takes_as_long_as_with_prefill_in_all_its_tokens() -> None:
    """What online leaves is one chunk from the start of a prompt."""
    plan = _plan(cost=replace(COST, curve=TokenCurve((50,), (3,))))
    plan.charge_online(40, 0, is_decode=True)
    plan.close_online()
    chunk_s = 4 + 60 + 0.25 * 60 * 30 + 0.125 * 60
    assert (8 + 2 * 40, 88 + chunk_s + 3 * 50) == (plan.alone_s, plan.full_s)


@pytest.mark.parametrize("num_tokens", [100, 101])
def test_full_step_without_tokens_left_takes_as_long_as_it_does(num_tokens: int) -> None:
    """Nothing is added to a step that is full, nor to one with more slots than it has."""
    plan = _plan()
    plan.charge_online(num_tokens, 0, is_decode=True)
    plan.close_online()
    assert 8 + 2 * num_tokens == plan.full_s


def test_full_step_with_one_token_left_has_a_chunk_of_one() -> None:
    """The last token counts."""
    plan = _plan()
    plan.charge_online(99, 0, is_decode=True)
    plan.close_online()
    assert 8 + 2 * 99 + (4 + 1 + 0.25 * 0.5 + 0.125) == plan.full_s


def test_full_step_without_prices_is_not_priced() -> None:
    """As no step is."""
    plan = _plan(cost=None)
    plan.close_online()
    assert 0.0 == plan.full_s


def test_full_step_does_not_grow_with_offline_work() -> None:
    """What offline requests take is what prefill would have filled."""
    plan = _plan(cost=replace(COST, prefill_attention_s=0), has_online=True)
    plan.charge_online(10, 0, is_decode=True)
    plan.close_online()
    before_s = plan.full_s
    plan.take(1, 0, 5.0)
    assert 8 + 2 * 10 == plan.alone_s
    assert plan.full_s <= before_s


def test_requests_that_wait_for_a_first_token_are_those_in_the_step_and_behind_it() -> None:
    """Decodes have theirs; they are counted apart."""
    plan = _plan(num_behind=3)
    for is_decode in (False, True, True, False):
        plan.charge_online(2, 5, is_decode)
    assert (2 + 3, 2) == (plan.num_first, plan.num_decodes)


CAPS = [
    ("cap_online_prefill", "online_prefill_left"),
    ("cap_arrival_prefill", "arrival_prefill_left"),
]


@pytest.mark.parametrize(("name", "field"), CAPS)
def test_online_prefill_that_is_capped_gets_what_is_left_of_the_cap(name: str, field: str) -> None:
    """Each takes its tokens of what the next may have; the others' cap stays as it is."""
    left = {"online_prefill_left": 50, "arrival_prefill_left": 50}
    plan = _plan(**(left | {field: 10}))
    cap = getattr(plan, name)
    assert [0, 6, 4, 0] == [cap(tokens) for tokens in (0, 6, 6, 1)]
    assert left | {field: 0} == {each: getattr(plan, each) for each in left}
    assert 100 == plan.tokens_left


@pytest.mark.parametrize(("name", "field"), CAPS)
def test_online_prefill_that_is_not_capped_gets_all_it_wants(name: str, field: str) -> None:
    """However much others are capped."""
    left = {"online_prefill_left": 0, "arrival_prefill_left": 0}
    plan = _plan(**(left | {field: None}))
    assert [500, 500] == [getattr(plan, name)(500) for _ in range(2)]
    assert getattr(plan, field) is None


@pytest.mark.parametrize("is_decode", [True, False])
def test_online_work_not_foreseen_counts_as_online_work_alone(is_decode: bool) -> None:
    """Targets compare with it, in what a full step would take too."""
    plan = _plan(has_online=True)
    plan.close_online()
    plan.take(20, 0, 3.0)
    plan.charge_online(10, 40, is_decode)
    chunk_s = 4 + 10 + 0.25 * 10 * 45 + 0.125 * 50
    late_s = 2 * 10 + 0.5 * 40 if is_decode else chunk_s
    assert (8 + late_s, 8 + 3.0 + late_s) == (plan.alone_s, plan.seconds)
    assert (30, StepComposition()) == (plan.total_tokens, plan.online)
