# SPDX-License-Identifier: Apache-2.0
"""What a scheduler says of its load, to those who send requests to several engines."""

import pytest
from vllm.v1.engine.core import EngineCore

from hygen_vllm.cost.learner import CostLearner
from hygen_vllm.cost.step_cost import StepCost
from hygen_vllm.engine.load_report import LEAST_AHEAD
from hygen_vllm.fleet.engine_load import UTILITY, EngineLoad
from hygen_vllm.lab.bare_scheduler import Limits, make_request, make_scheduler
from tests.support.classes import HYGEN
from tests.support.fake_engine import FakeEngine

pytestmark = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
BLOCK = 4
COST = StepCost(0.01, 0.001, 0.0, 0.0, 0.0001, 0.0, 0.0)
"""10 ms, 1 ms a decode, 0.1 ms a prefill token."""


class Clocked:
    """An engine whose scheduler has a clock of its own."""

    def __init__(self, is_async, mode="off", **limits):
        limits = {"num_blocks": 101, "max_num_seqs": 8, "max_num_batched_tokens": 100, **limits}
        self.now_s = 0.0
        self.scheduler = make_scheduler(
            HYGEN[is_async], Limits(**limits), {"mode": mode}, clock=lambda: self.now_s
        )
        self.engine = FakeEngine(self.scheduler, depth=2 if is_async else 1)

    def add(self, slo_class, number, num_tokens=8, max_tokens=50):
        tokens = [(97 * number + j) % 1000 for j in range(num_tokens)]
        name = f"{slo_class}-{number}"
        self.engine.add(make_request(name, tokens, slo_class=slo_class, max_tokens=max_tokens))

    def load(self):
        return self.scheduler.hygen.load_report.now()


def test_idle_engine_wants_a_little(is_async):
    """As much as shows how fast it takes more."""
    load = Clocked(is_async).load()
    assert EngineLoad(offline_wanted=LEAST_AHEAD, free_tokens=100 * BLOCK) == load


def test_prefill_that_is_to_be_done_is_counted(is_async):
    """Of online requests that wait and of those in chunks, not of offline ones."""
    engine = Clocked(is_async)
    engine.add("online", 0, num_tokens=250)
    engine.add("online", 1, num_tokens=30)
    engine.add("offline", 2, num_tokens=70)
    assert 280 == engine.load().online_prefill_tokens
    engine.engine.step()
    assert 180 == engine.load().online_prefill_tokens
    assert (2, 1) == (engine.load().num_online, engine.load().num_offline)


def test_room_of_offline_requests_that_share_a_prefix_is_counted_once(is_async):
    """Online requests could have it, but no more than there is."""
    engine = Clocked(is_async)
    for number in range(4):
        prompt = [*range(100), number, 2, 3]
        name = f"offline-{number}"
        engine.engine.add(make_request(name, prompt, slo_class="offline", max_tokens=50))
    for _ in range(8):
        engine.engine.step()
    assert 4 == len(engine.scheduler.running)
    assert 100 * BLOCK == engine.load().free_tokens
    engine.add("online", 0, num_tokens=80)
    for _ in range(4):
        engine.engine.step()
    assert 75 * BLOCK <= engine.load().free_tokens <= 80 * BLOCK


def test_seconds_are_predicted(is_async):
    """Of the online decodes, and of a token in a step full of prefill."""
    engine = Clocked(is_async)
    engine.scheduler.hygen.learner = CostLearner(COST)
    for i in range(3):
        engine.add("online", i)
    engine.add("offline", 4)
    for _ in range(3):
        engine.engine.step()
    load = engine.load()
    assert 0.013 == pytest.approx(load.decode_step_s)
    assert (0.01 + 100 * 0.0001) / 100 == pytest.approx(load.prefill_token_s)


def test_blocks_of_offline_requests_are_online_ones(is_async):
    """They are preempted for them."""
    engine = Clocked(is_async)
    engine.add("offline", 0, num_tokens=80)
    for _ in range(3):
        engine.engine.step()
    assert 100 * BLOCK == engine.load().free_tokens
    engine.add("online", 1, num_tokens=40)
    for _ in range(3):
        engine.engine.step()
    assert 100 - 11 <= engine.load().free_tokens / BLOCK <= 100 - 10


def test_engine_wants_what_it_will_start_soon(is_async):
    """Twice what it started in the last second, less what waits in it."""
    engine = Clocked(is_async)
    engine.load()
    for i in range(6):
        engine.add("offline", i)
    engine.engine.step()
    engine.now_s = 2.0
    assert 6 == engine.load().offline_wanted
    for i in range(6, 10):
        engine.add("offline", i)
    assert 6 - 4 == engine.load().offline_wanted


def test_engine_core_answers_for_its_scheduler(is_async):
    """By name, in plain values."""
    engine = Clocked(is_async)
    engine.add("online", 0)

    class Core:
        scheduler = engine.scheduler

    answer = getattr(EngineCore, UTILITY)(Core())
    assert engine.load() == EngineLoad.from_dict({**answer["load"], "unknown": 1})
    assert (None, "") == (answer["interference"], answer["targets"])


def test_interference_compares_with_online_alone(is_async):
    """First tokens and gaps are counted as they come; the estimate follows."""
    engine = Clocked(is_async, mode="slo")
    engine.scheduler.hygen.learner = CostLearner(COST)
    before = engine.scheduler.hygen.load_report.interference()
    for i in range(3):
        engine.add("online", i, max_tokens=5)
    engine.add("offline", 3, max_tokens=5)
    while engine.scheduler.has_requests():
        engine.now_s += 0.1
        engine.engine.step()
    spent = engine.scheduler.hygen.load_report.interference() - before
    assert (3, 12) == (spent.num_ttft, spent.num_tbt)
    assert 1.2 == pytest.approx(spent.tbt_s)
    assert 0 < spent.alone_tbt_s < spent.tbt_s
    assert "3 online requests" in str(spent)
    assert "tbt_mean=+20%" in engine.scheduler.hygen.load_report.answer()["targets"]
