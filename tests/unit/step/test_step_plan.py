# SPDX-License-Identifier: Apache-2.0
"""StepPlan and gates: online is charged first, and what it leaves is offline's budget."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hygen_vllm.config import HyGenConfig
from hygen_vllm.cost.composition import StepComposition
from hygen_vllm.cost.curve import TokenCurve
from hygen_vllm.cost.step_cost import StepCost
from hygen_vllm.kv.pace import Pace
from hygen_vllm.step.budget import OfflineBudget
from hygen_vllm.step.gate import LatencyGate
from hygen_vllm.step.online_share import OnlineShare
from hygen_vllm.step.plan import StepPlan
from hygen_vllm.step.terms import StepTerms

COST = StepCost(8, 2, 0.5, 4, 1, 0.25, 0.125)


class HalfMore:
    """A gate: offline may make a step half as long again, or one without online work idle."""

    mode = "half more"

    def terms(self, share: OnlineShare) -> StepTerms:
        if not share.has_online:
            return StepTerms(share.idle_limit_s(3.0), is_idle=True)
        return StepTerms(1.5 * share.alone_s)


HALF_MORE = HalfMore()


def _share(**kwargs: Any) -> OnlineShare:
    return OnlineShare(**({"cost": COST, "max_tokens": 100} | kwargs))


def _plan(gate: Any = HALF_MORE, prefill_price: float = 0.0, **kwargs: Any) -> StepPlan:
    return StepPlan(gate, _share(**kwargs), 8, 64, Pace(prefill_price=prefill_price))


def _closed(*online: tuple[int, int, bool], **kwargs: Any) -> OfflineBudget:
    """Return what a step leaves after online requests: (new tokens, computed, is a decode)."""
    plan = _plan(**kwargs)
    for each in online:
        plan.charge_online(*each)
    return plan.close()


def _load(alone_s: float | None) -> OnlineShare:
    """Return a share that takes `alone_s`; None: there is no online work."""
    cost = replace(COST, base_s=0.01)
    return _share(cost=cost, has_online=alone_s is not None, alone_s=alone_s or 0.0)


@pytest.mark.parametrize(
    ("settings_", "limit_s"),
    [
        ({"latency_budget_s": 0.12}, 0.12),
        ({"mode": "fixed", "latency_budget_s": 5}, 5),
        ({"mode": "off"}, math.inf),
    ],
)
def test_gate_of_the_other_modes_limits_every_step_alike(
    settings_: dict[str, Any], limit_s: float
) -> None:
    """Whatever online work is in it."""
    gate = LatencyGate.from_config(HyGenConfig(**settings_))
    assert [StepTerms(limit_s)] * 2 == [gate.terms(_load(2.0)), gate.terms(_load(None))]


@pytest.mark.parametrize("base_s", [0.02, 0.3])
def test_step_without_online_work_is_two_of_the_smallest_at_least(base_s: float) -> None:
    """On an engine so slow that no step is shorter than idle_step_s more than one request runs."""
    share = _share(cost=replace(COST, base_s=base_s))
    assert max(0.1, 2 * base_s) == share.idle_limit_s(0.1)
    assert _share(cost=None).idle_limit_s(0.1) == 0.1


def test_charge_takes_tokens_and_slots_of_each_request() -> None:
    """A request takes its tokens and its drafting slots; blocks are vLLM's to take."""
    budget = _closed((5, 40, True), (20, 16, False), slots_per_request=3)
    assert budget.tokens_left == 100 - (5 + 3) - (20 + 3)
    assert budget.blocks_left == 8
    assert budget.prefill_tokens_left == 64


def test_charge_adds_each_request_to_its_sums() -> None:
    """What is priced is exactly what was charged, decodes and chunks apart."""
    share, expected = _share(), StepComposition()
    for new_tokens, computed_tokens in ((1, 40), (2, 7)):
        share.charge(new_tokens, computed_tokens, is_decode=True)
        expected.add_decode(new_tokens, computed_tokens)
    for new_tokens, computed_tokens in ((16, 0), (8, 32)):
        share.charge(new_tokens, computed_tokens, is_decode=False)
        expected.add_prefill(new_tokens, computed_tokens)
    assert share.step == expected
    assert share.tokens_left == 100 - (1 + 2 + 16 + 8)


def test_closing_prices_online_work_and_fixes_the_limit() -> None:
    """After it the step holds the online seconds, and may take half as long again."""
    budget = _closed((1, 40, True), (16, 0, False), has_online=True)
    online_s = 8 + (2 + 0.5 * 40) + (4 + 16 + 0.25 * 16 * 8 + 0.125 * 16)
    assert (budget.seconds, budget.terms.limit_s) == (online_s, 1.5 * online_s)
    assert (budget.total_tokens, budget.has_prefill) == (17, True)


def test_closing_without_online_work_allows_an_idle_step() -> None:
    """An empty step still costs its base."""
    budget = _closed()
    assert (budget.seconds, budget.terms.limit_s, budget.total_tokens) == (8, 2 * 8, 0)


def test_closing_without_prices_sets_no_limit() -> None:
    """What cannot be priced is not gated by seconds; its tokens still count."""
    budget = _closed((16, 0, False), cost=None, has_online=True)
    assert (budget.seconds, budget.terms.limit_s, budget.total_tokens) == (0.0, math.inf, 16)


@pytest.mark.parametrize("has_online", [True, False])
def test_first_offline_grant_without_online_is_alone_and_the_next_is_not(has_online: bool) -> None:
    """Only one offline request, and only where no online one runs or can start, is alone."""
    budget = _closed(has_online=has_online)
    assert budget.is_alone == (not has_online)
    budget.take(1, 0, 0.0)
    assert not budget.is_alone


def test_take_charges_tokens_slots_blocks_and_seconds() -> None:
    """A grant leaves that much less for the next offline request."""
    budget = _closed(slots_per_request=2)
    budget.take(10, 3, 0.5)
    budget.take(1, 0, 0.25)
    assert budget.tokens_left == 100 - (10 + 2) - (1 + 2)
    assert budget.blocks_left == 8 - 3
    assert (budget.total_tokens, budget.seconds, budget.alone_s) == (11, 8.75, 8)


REQUESTS = st.tuples(st.integers(0, 64), st.integers(0, 500), st.booleans())


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(REQUESTS, max_size=5), REQUESTS)
def test_one_more_online_request_never_lowers_seconds_or_raises_tokens_left(
    requests: list[tuple[int, int, bool]], another: tuple[int, int, bool]
) -> None:
    """More online work leaves offline no more tokens, in a step that is no shorter."""
    few = _closed(*requests, has_online=True)
    many = _closed(*requests, another, has_online=True)
    assert many.seconds >= few.seconds
    assert many.tokens_left <= few.tokens_left
    assert many.total_tokens == few.total_tokens + another[0]


class _Asked:
    """A gate that keeps what it was asked about, and answers with given terms."""

    mode = "slo"

    def __init__(self, limit_s: float, price: float) -> None:
        self.loads: list[tuple[float, int, bool]] = []
        self._terms = StepTerms(limit_s, price)

    def terms(self, share: OnlineShare) -> StepTerms:
        self.loads.append((share.alone_s, share.num_decodes, share.has_online))
        return self._terms


def test_closing_takes_the_terms_from_the_gate() -> None:
    """The gate is asked once, when the online share is complete."""
    gate = _Asked(limit_s=77.0, price=2.5)
    plan = _plan(gate=gate, has_online=True)
    plan.charge_online(1, 40, is_decode=True)
    assert (None, []) == (plan.budget, gate.loads)
    budget = plan.close()
    assert (77.0, 2.5) == (budget.terms.limit_s, budget.terms.price)
    assert [(8 + 2 + 0.5 * 40, 1, True)] == gate.loads
    assert plan.budget is budget


def test_closing_without_prices_does_not_ask_the_gate() -> None:
    """Its price would be one of seconds, and nobody knows them."""
    gate = _Asked(limit_s=77.0, price=2.5)
    budget = _closed(gate=gate, cost=None)
    assert (StepTerms(), 0.0, []) == (budget.terms, budget.token_worth_s, gate.loads)


@pytest.mark.parametrize(
    ("price", "prefill_price", "expected"),
    [(0.0, 0.0, 0.0), (0.5, 0.0, 1.5), (0.0, 1.0, 1.5), (0.5, 1.0, 1.5)],
)
def test_token_is_worth_its_part_of_a_step_that_is_full_where_anything_has_a_price(
    price: float, prefill_price: float, expected: float
) -> None:
    """The tokens of online requests do not make the step a smaller one."""
    cost = replace(COST, curve=TokenCurve((25,), (2,)))
    gate = _Asked(50.0, price)
    budget = _closed((60, 0, False), gate=gate, cost=cost, prefill_price=prefill_price)
    assert expected == budget.token_worth_s


def test_full_step_takes_as_long_as_with_prefill_in_all_its_tokens() -> None:
    """What online leaves is one chunk from the start of a prompt."""
    share = _full(40, cost=replace(COST, curve=TokenCurve((50,), (3,))))
    chunk_s = 4 + 60 + 0.25 * 60 * 30 + 0.125 * 60
    assert (8 + 2 * 40, 88 + chunk_s + 3 * 50) == (share.alone_s, share.full_s)


def _full(num_decodes: int, **kwargs: Any) -> OnlineShare:
    """Return a closed share of decodes without context."""
    plan = _plan(**kwargs)
    plan.charge_online(num_decodes, 0, is_decode=True)
    plan.close()
    return plan.share


@pytest.mark.parametrize("num_tokens", [100, 101])
def test_full_step_without_tokens_left_takes_as_long_as_it_does(num_tokens: int) -> None:
    """Nothing is added to a step that is full, nor to one with more slots than it has."""
    assert 8 + 2 * num_tokens == _full(num_tokens).full_s


def test_full_step_with_one_token_left_has_a_chunk_of_one() -> None:
    """The last token counts."""
    assert 8 + 2 * 99 + (4 + 1 + 0.25 * 0.5 + 0.125) == _full(99).full_s


def test_full_step_without_prices_is_not_priced() -> None:
    """As no step is."""
    assert 0.0 == _full(0, cost=None).full_s


def test_requests_that_wait_for_a_first_token_are_those_in_the_step_and_behind_it() -> None:
    """Decodes have theirs; they are counted apart."""
    share = _share(num_behind=3)
    for is_decode in (False, True, True, False):
        share.charge(2, 5, is_decode)
    assert (2 + 3, 2) == (share.num_first, share.num_decodes)


CAPS = [("cap_prefill", "prefill_left"), ("cap_arrival_prefill", "arrival_prefill_left")]


@pytest.mark.parametrize(("name", "field"), CAPS)
def test_online_prefill_that_is_capped_gets_what_is_left_of_the_cap(name: str, field: str) -> None:
    """Each takes its tokens of what the next may have; the others' cap stays as it is."""
    left = {"prefill_left": 50, "arrival_prefill_left": 50}
    share = _share(**(left | {field: 10}))
    cap = getattr(share, name)
    assert [0, 6, 4, 0] == [cap(tokens) for tokens in (0, 6, 6, 1)]
    assert left | {field: 0} == {each: getattr(share, each) for each in left}
    assert 100 == share.tokens_left


@pytest.mark.parametrize(("name", "field"), CAPS)
def test_online_prefill_that_is_not_capped_gets_all_it_wants(name: str, field: str) -> None:
    """However much others are capped."""
    left = {"prefill_left": 0, "arrival_prefill_left": 0}
    share = _share(**(left | {field: math.inf}))
    assert [500, 500] == [getattr(share, name)(500) for _ in range(2)]
    assert getattr(share, field) == math.inf


@pytest.mark.parametrize("is_decode", [True, False])
def test_online_work_not_foreseen_counts_as_online_work_alone(is_decode: bool) -> None:
    """Also after offline requests were granted something."""
    plan = _plan(has_online=True)
    budget = plan.close()
    budget.take(20, 0, 3.0)
    plan.charge_online(10, 40, is_decode)
    chunk_s = 4 + 10 + 0.25 * 10 * 45 + 0.125 * 50
    late_s = 2 * 10 + 0.5 * 40 if is_decode else chunk_s
    assert (8 + late_s, 8 + 3.0 + late_s) == (budget.alone_s, budget.seconds)
    assert (30, 100 - 30, not is_decode) == (
        budget.total_tokens,
        budget.tokens_left,
        budget.has_prefill,
    )
    assert plan.share.step == StepComposition()
