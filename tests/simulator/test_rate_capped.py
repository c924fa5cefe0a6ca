# SPDX-License-Identifier: Apache-2.0
"""RateCappedScheduler caps how many offline requests start a second. Virtual time throughout."""

import pytest

from hygen_vllm.lab.bare_scheduler import Limits, make_request, make_scheduler
from hygen_vllm.lab.policies import find_policy
from tests.support.fake_engine import FakeEngine

pytestmark = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
START_S = 1000.0
STEP_S = 0.0625
"""A sixteenth of a second, which adds up without rounding."""


class CappedEngine:
    """An engine whose clock goes on by STEP_S a step; keeps what started when."""

    def __init__(self, is_async, rate_per_s, **limits):
        hygen = {"mode": "off", "offline_rate_per_s": rate_per_s}
        self.now_s = START_S
        limits = Limits(**{"num_blocks": 2000, **limits})
        cls = find_policy("rate-capped").scheduler_class(is_async)
        self.scheduler = make_scheduler(cls, limits, hygen, clock=lambda: self.now_s)
        self.starts = {}
        self.preempted = []
        self._engine = FakeEngine(self.scheduler, depth=2 if is_async else 1)

    def add(self, name, num_tokens=12, **options):
        slo_class, number = name.split("-")
        first = 37 * int(number) + len(slo_class)
        prompt = [(first + 7 * j) % 1000 for j in range(num_tokens)]
        self._engine.add(make_request(name, prompt, slo_class=slo_class, **options))

    def add_offline(self, count, **options):
        for i in range(count):
            self.add(f"offline-{i}", **options)

    def step(self):
        """Run one step; return its tokens by request."""
        output = self._engine.step()
        tokens = dict(output.num_scheduled_tokens) if output else {}
        for name in tokens:
            self.starts.setdefault(name, self.now_s - START_S)
        self.preempted += output.preempted_req_ids or () if output else ()
        self.now_s += STEP_S
        return tokens

    def run_for(self, seconds):
        for _ in range(round(seconds / STEP_S)):
            self.step()

    @property
    def start_times_s(self):
        return sorted(s for name, s in self.starts.items() if name.startswith("offline"))


@pytest.mark.parametrize("rate_per_s", [0.5, 2.0, 8.0])
def test_offline_requests_start_at_the_rate(rate_per_s, is_async):
    """One at once, then one whenever a whole one is due."""
    engine = CappedEngine(is_async, rate_per_s)
    engine.add_offline(100, max_tokens=2)
    engine.run_for(10.0)
    assert [i / rate_per_s for i in range(int(10 * rate_per_s))] == engine.start_times_s


def test_rate_counts_starts_not_tokens(is_async):
    """A long prompt in many chunks starts once, and so do the decodes after it."""
    engine = CappedEngine(is_async, 1.0, max_num_batched_tokens=16)
    engine.add_offline(3, num_tokens=200, max_tokens=30)
    engine.run_for(11 * STEP_S)
    tokens = engine.step()
    assert ([0.0], 16) == (engine.start_times_s, tokens["offline-0"])
    engine.run_for(5.0)
    assert [0.0, 1.0, 2.0] == engine.start_times_s


def test_rate_saves_one_seconds_worth(is_async):
    """After an idle time a second's worth may start at once, and no more."""
    engine = CappedEngine(is_async, 4.0)
    engine.add_offline(1, max_tokens=1)
    engine.run_for(1.0)
    engine.now_s += 3600.0
    idle_since_s = engine.now_s - START_S
    for i in range(1, 9):
        engine.add(f"offline-{i}", max_tokens=1)
    engine.run_for(1.0)
    waits_s = [time_s - idle_since_s for time_s in engine.start_times_s[1:]]
    assert [0.0, 0.0, 0.0, 0.0, 0.25, 0.5, 0.75] == waits_s


def test_start_that_is_not_made_is_not_counted(is_async):
    """What may start but finds no slot starts when there is one."""
    engine = CappedEngine(is_async, 0.5, max_num_seqs=1)
    engine.add("online-0", max_tokens=40)
    engine.step()
    engine.add_offline(2, max_tokens=2)
    engine.run_for(2.0)
    assert [] == engine.start_times_s
    engine.run_for(1.5)
    assert 1 == len(engine.start_times_s)


def test_online_requests_are_not_capped(is_async):
    """They start in the next step, however many come, and take nothing from the rate."""
    engine = CappedEngine(is_async, 2.0, max_num_seqs=12, max_num_batched_tokens=256)
    engine.add_offline(4, max_tokens=40)
    engine.run_for(0.25)
    for i in range(8):
        engine.add(f"online-{i}", max_tokens=40)
    tokens = engine.step()
    assert [12] * 8 == [tokens[f"online-{i}"] for i in range(8)]
    engine.run_for(2.0)
    assert [0.0, 0.5, 1.0, 1.5] == engine.start_times_s


@pytest.mark.parametrize("v2_runner", [False, True])
def test_preempted_request_starts_again_without_counting(v2_runner, is_async):
    """It comes back as soon as there is room, and the next new one when that is due."""
    engine = CappedEngine(is_async, 0.25, max_num_seqs=2, v2_runner=v2_runner)
    engine.add_offline(3, max_tokens=100)
    engine.run_for(1.0)
    engine.add("online-0", max_tokens=4)
    engine.add("online-1", max_tokens=4)
    engine.step()
    assert ["offline-0"] == engine.preempted
    tokens = {}
    while "offline-0" not in tokens:
        tokens = engine.step()
    assert engine.now_s - START_S < 2.0, "long before the next one may start"
    engine.run_for(4.0)
    assert [0.0, 4.0] == engine.start_times_s
