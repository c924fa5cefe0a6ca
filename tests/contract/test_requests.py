# SPDX-License-Identifier: Apache-2.0
"""Whoever follows requests is told once of each that came, started, was preempted and left."""

import random
import re
from collections import defaultdict

import pytest

from hygen_vllm.engine.requests import Follower
from hygen_vllm.lab.bare_scheduler import Limits, make_request, make_scheduler
from hygen_vllm.operate.faults import PolicyFaults
from tests.support.classes import HYGEN
from tests.support.clocks import SteppingClock
from tests.support.fake_engine import FakeEngine

pytestmark = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
LIFE = re.compile(r"came( started( preempted started)*( preempted)?)? left")


class Diary(Follower):
    """Writes down each event."""

    def __init__(self):
        self.events = defaultdict(list)
        self.computed = {}
        self.classes = defaultdict(set)

    def _write(self, event, request, is_offline):
        self.events[request.request_id].append(event)
        self.classes[request.request_id].add(is_offline)

    def came(self, request, is_offline):
        self._write("came", request, is_offline)

    def started(self, request, is_offline, computed_tokens):
        self._write("started", request, is_offline)
        self.computed[request.request_id] = computed_tokens

    def preempted(self, request, is_offline):
        self._write("preempted", request, is_offline)

    def left(self, request, is_offline):
        self._write("left", request, is_offline)


class Broken(Follower):
    """Fails at each event."""

    def came(self, *_):
        raise RuntimeError

    started = preempted = left = came


def serve(is_async, *before, seed=5):
    """Serve a crowd in a small KV cache; return the diary, the steps and the engine."""
    limits = Limits(num_blocks=40, max_num_seqs=6, max_num_batched_tokens=48)
    scheduler = make_scheduler(HYGEN[is_async], limits, clock=SteppingClock())
    engine = FakeEngine(scheduler, depth=2 if is_async else 1)
    diary, rng = Diary(), random.Random(seed)
    requests = scheduler.hygen.requests
    requests.followers = [*before, *requests.followers, diary]
    for step in range(150):
        for slo_class, likely in (("online", 0.15), ("offline", 0.3)):
            if rng.random() < likely:
                prompt = [(step % 4 * 131 + i) % 1000 for i in range(8 + 5 * step % 40)]
                name = f"{slo_class}-{step}"
                options = {"slo_class": slo_class, "max_tokens": 3 + step % 20}
                engine.add(make_request(name, prompt, **options))
        if step % 20 == 19:
            engine.abort(rng.choice(sorted(engine.scheduler.requests)))
        engine.step()
    engine.run()
    return diary, engine


def test_life_of_each_request_is_told_in_order(is_async):
    """Of both classes; aborted ones may leave without having started."""
    diary, _ = serve(is_async)
    lives = {name: " ".join(events) for name, events in diary.events.items()}
    assert all(map(LIFE.fullmatch, lives.values())), lives
    assert any("preempted started" in life for life in lives.values())
    assert all({name.startswith("offline")} == seen for name, seen in diary.classes.items())
    assert len(diary.events) > 40


def test_request_starts_when_it_is_in_a_step_for_the_first_time(is_async):
    """Not when it was granted something, which vLLM may have no room for."""
    diary, engine = serve(is_async)
    served = {name for step in engine.schedules for name in step}
    started = {name for name, events in diary.events.items() if "started" in events}
    assert served == started
    num_starts = sum(events.count("started") for events in diary.events.values())
    num_preemptions = sum(events.count("preempted") for events in diary.events.values())
    assert len(started) <= num_starts <= len(started) + num_preemptions
    assert any(diary.computed.values()), "what the prefix cache had is told"


def test_follower_that_fails_keeps_no_other_from_the_event(is_async, monkeypatch):
    """The diary stands behind it, and is the same."""
    expected, _ = serve(is_async)
    monkeypatch.setattr(PolicyFaults, "are_raised", False)
    diary, engine = serve(is_async, Broken())
    assert expected.events == diary.events
    places = "intake", "start", "preemption"
    assert {f"{place} of a request" for place in places} <= set(engine.scheduler.faults.counts)
