# SPDX-License-Identifier: Apache-2.0
"""FairShare: tenants get tokens by weight while they have work, and nothing for having had none."""

from collections import Counter, deque
from collections.abc import Mapping

import pytest

from hygen_vllm.lane.admission_order import AdmissionOrder, OrderRules, Waiting
from hygen_vllm.lane.fair_share import MOST_TENANTS, OLDEST_EVERY, OTHERS, FairShare


class Lane:
    """A FairShare of requests named TENANT-NUMBER, each charged its tokens when it is admitted."""

    def __init__(
        self, weights: Mapping[str, float] | None = None, max_wait_s: float | None = None
    ) -> None:
        rules = OrderRules(by_prefix=False, max_wait_s=max_wait_s)
        self.share: FairShare[str] = FairShare(weights or {}, lambda: AdmissionOrder(rules))
        self.waiting: dict[str, Waiting[str]] = {}
        self.tokens: Counter[str] = Counter()

    def add(self, tenant: str, count: int, added_s: float = 0.0) -> None:
        for number in range(len(self.waiting), len(self.waiting) + count):
            waiting = Waiting(f"{tenant}-{number}", added_s, self.share.tenant_named(tenant))
            self.waiting[waiting.request] = waiting
            self.share.add(waiting, ())

    def admit(self, tokens: float = 10, now_s: float = 0.0) -> str | None:
        """Admit the next request; return its tenant."""
        waiting = self.share.next(now_s)
        if waiting is None:
            return None
        self.share.take(waiting, now_s)
        self.share.charge(waiting.tenant, tokens)
        self.share.check_invariants()
        self.tokens[waiting.tenant] += int(tokens)
        return waiting.tenant


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({}, {"a": 200, "b": 200}),
        ({"a": 3}, {"a": 300, "b": 100}),
        ({"b": 0.25}, {"a": 320, "b": 80}),
    ],
)
def test_tokens_are_in_proportion_to_weights(
    weights: dict[str, float], expected: dict[str, int]
) -> None:
    """Within a request, at any time while both have work; 1 for a tenant without a weight."""
    lane = Lane(weights)
    lane.add("a", 400)
    lane.add("b", 400)
    for _ in range(400):
        lane.admit(tokens=1)
        served = sum(lane.tokens.values())
        for tenant, most in expected.items():
            assert abs(lane.tokens[tenant] - served * most / 400) <= 1.001


def test_tokens_count_not_requests() -> None:
    """A tenant of long requests gets fewer of them."""
    lane = Lane()
    lane.add("long", 100)
    lane.add("short", 1000)
    for _ in range(400):
        waiting = lane.share.next(0.0)
        assert waiting is not None
        lane.admit(tokens=30 if waiting.tenant == "long" else 10)
    assert abs(lane.tokens["long"] - lane.tokens["short"]) <= 30


def test_tenant_alone_gets_everything() -> None:
    """Work conserving: a weight is no limit."""
    lane = Lane({"a": 0.001})
    lane.add("a", 5)
    assert ["a"] * 5 == [lane.admit() for _ in range(5)]
    assert lane.admit() is None
    assert not lane.share


def test_ten_requests_are_not_behind_a_hundred_thousand_of_another() -> None:
    """They are through after about ten of the other's."""
    lane = Lane()
    lane.add("many", 100_000)
    for _ in range(50):
        waiting = lane.share.next(0.0)
        assert waiting is not None
        lane.share.take(waiting, 0.0)
        lane.share.charge("many", 10)
    lane.add("few", 10)
    turns: deque[str | None] = deque()
    while turns.count("few") < 10:
        waiting = lane.share.next(0.0)
        assert waiting is not None
        lane.share.take(waiting, 0.0)
        lane.share.charge(waiting.tenant, 10)
        turns.append(waiting.tenant)
    assert len(turns) <= 21


def test_idle_time_is_no_credit() -> None:
    """Who comes back is served as often as the others, not until it has caught up."""
    lane = Lane()
    lane.add("a", 100)
    lane.add("b", 100)
    for _ in range(4):
        lane.admit()
    for waiting in [w for w in lane.waiting.values() if w.tenant == "b" and w.is_here]:
        lane.share.remove(waiting)
    assert ["a"] * 30 == [lane.admit() for _ in range(30)]
    lane.add("b", 50)
    turns = [lane.admit() for _ in range(20)]
    assert abs(turns.count("a") - turns.count("b")) <= 1


def test_debt_is_kept_while_a_tenant_is_away() -> None:
    """Leaving and coming back does not make what was served undone."""
    lane = Lane()
    lane.add("a", 50)
    lane.add("b", 1)
    lane.admit()
    while lane.share.next(0.0) is not lane.waiting["b-50"]:
        lane.admit()
    lane.admit(tokens=100)
    lane.add("b", 20)
    assert ["a"] * 9 == [lane.admit() for _ in range(9)]


def test_charge_that_is_taken_back_gives_the_turn_back() -> None:
    """A request that could not run costs nothing."""
    lane = Lane()
    lane.add("a", 5)
    lane.add("b", 5)
    assert "a" == lane.admit()
    lane.share.charge("a", -10)
    assert "a" == lane.admit()
    assert "b" == lane.admit()


def test_tenants_that_have_caught_up_are_forgotten() -> None:
    """Of a thousand names as many stay as may; whoever is still in debt does."""
    lane = Lane({"weighted": 2.0})
    lane.add("debtor", 1)
    lane.add("busy", 4000)
    lane.admit(tokens=100_000)
    for number in range(1000):
        lane.add(f"once-{number}", 1)
        lane.admit(tokens=1)
        lane.admit(tokens=1)
    assert len(lane.share._tenants) <= MOST_TENANTS + 2
    assert "debtor" in lane.share._tenants
    lane.share.charge("never heard of", 10)


def test_tenants_beyond_a_number_share_one_turn() -> None:
    """Who gives each request another name gets no more than the names there may be."""
    lane = Lane({"named": 2.0})
    for number in range(3000):
        lane.add(f"label-{number}", 1)
    lane.add("named", 500)
    lane.add("", 500)
    for _ in range(40 * (MOST_TENANTS + 4)):
        lane.admit()
    assert lane.tokens[""] >= 10 * 39
    assert lane.tokens["named"] >= 10 * 2 * 39
    assert lane.tokens[OTHERS] >= 10 * 39


@pytest.mark.parametrize("max_wait_s", [None, 3600.0])
def test_names_without_end_starve_nobody(max_wait_s: float | None) -> None:
    """One new name each second, for hours, beside one tenant that waits: it gets its share."""
    lane, served = Lane(max_wait_s=max_wait_s), 0
    lane.add("victim", 200)
    lane.admit(tokens=1000)
    for second in range(20_000):
        lane.add(f"attacker-{second}", 1, float(second))
        served += "victim" == lane.admit(tokens=1000, now_s=float(second))
    assert served >= 20_000 // (2 * MOST_TENANTS)


def test_whoever_has_waited_too_long_gets_one_admission_in_some() -> None:
    """Whatever the shares: a tenant of little weight moves on, and does not take over."""
    lane = Lane({"small": 1e-6}, max_wait_s=10.0)
    lane.add("small", 100)
    lane.admit(now_s=0.0)
    lane.add("large", 500, 0.0)
    young = [lane.admit(now_s=5.0) for _ in range(40)]
    assert {"large"} == set(young)
    lane.add("large", 500, 60.0)
    turns = [lane.admit(now_s=20.0 + i / 100) for i in range(400)]
    assert turns.count("small") <= 400 // (1 + OLDEST_EVERY) + 1
    lane = Lane({"small": 1e-6}, max_wait_s=10.0)
    lane.add("small", 100, -50.0)
    lane.admit(now_s=-50.0)
    lane.add("large", 500, 0.0)
    turns = [lane.admit(now_s=20.0) for _ in range(400)]
    assert 400 // (1 + OLDEST_EVERY) == turns.count("small")


def test_queue_that_was_empty_forgives_debts() -> None:
    """Nobody was kept waiting by what another one had."""
    lane = Lane()
    lane.add("a", 1)
    lane.admit(tokens=1000)
    lane.add("a", 10)
    lane.add("b", 10)
    turns = [lane.admit() for _ in range(10)]
    assert 5 == turns.count("a")
