# SPDX-License-Identifier: Apache-2.0
"""The client against a fake engine, on an event loop whose clock jumps instead of waiting."""

import asyncio
import itertools
import selectors

import pytest

from hygen_vllm.lab.demo.client import OFFLINE_IN_ENGINE, Client
from hygen_vllm.lab.demo.workload import DemoRequest

STEP_S = 0.25


class JumpingSelector(selectors.DefaultSelector):
    """Never waits: moves the clock on by the time it was asked to wait."""

    now_s = 0.0

    def select(self, timeout=None):
        self.now_s += timeout or 0.0
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time."""

    def __init__(self) -> None:
        self._jumping_selector = JumpingSelector()
        super().__init__(self._jumping_selector)

    def time(self) -> float:
        return self._jumping_selector.now_s


class FakeEngine:
    """Gives each request some tokens per step; notes who is in it and who was aborted."""

    def __init__(self, fails_at_token: int | None = None, tokens_per_step: int = 1) -> None:
        self.fails_at_token = fails_at_token
        self.tokens_per_step = tokens_per_step
        self.inside: set[str] = set()
        self.most_inside = 0
        self.aborted: set[str] = set()

    async def generate(self, request, request_id):
        assert request_id not in self.inside
        self.inside.add(request_id)
        self.most_inside = max(self.most_inside, len(self.inside))
        try:
            for number in range(0, request.output_tokens, self.tokens_per_step):
                await asyncio.sleep(STEP_S)
                if number == self.fails_at_token:
                    raise RuntimeError("the engine failed")
                yield self.tokens_per_step
        except asyncio.CancelledError:
            self.aborted.add(request_id)
            raise
        finally:
            self.inside.discard(request_id)


def online(arrival_s: float, output_tokens: int = 2) -> DemoRequest:
    return DemoRequest("online", [1, 2, 3], output_tokens, arrival_s)


def endless_offline():
    return (DemoRequest("offline", [1], 4) for _ in itertools.count())


def serve(engine, requests, offline=None, duration_s=10.0, on_tick=lambda _: None) -> Client:
    client = Client(engine.generate)
    loop = VirtualLoop()
    try:
        loop.run_until_complete(client.serve(requests, offline, duration_s, on_tick))
    finally:
        loop.close()
    return client


def test_online_requests_are_sent_at_their_arrivals_and_timed_from_them():
    client = serve(FakeEngine(), [online(1.0), online(3.0)])
    assert [log.arrival_s for log in client.logs] == [1.0, 3.0]
    assert [log.token_times_s for log in client.logs] == [
        pytest.approx([1.25, 1.5]),
        pytest.approx([3.25, 3.5]),
    ]
    assert all(log.is_finished for log in client.logs)


def test_tokens_that_come_together_are_each_noted():
    client = serve(FakeEngine(tokens_per_step=2), [online(1.0, output_tokens=4)])
    assert client.logs[0].token_times_s == pytest.approx([1.25, 1.25, 1.5, 1.5])
    assert client.logs[0].is_finished


def test_offline_backlog_keeps_the_engine_full():
    """A finished offline request makes room for the next one at once."""
    engine = FakeEngine()
    client = serve(engine, [], endless_offline(), duration_s=2.9)
    assert engine.most_inside == OFFLINE_IN_ENGINE
    assert sum(log.is_finished for log in client.logs) == 2 * OFFLINE_IN_ENGINE
    assert len(client.logs) == 3 * OFFLINE_IN_ENGINE


def test_what_still_runs_at_the_end_is_aborted():
    engine = FakeEngine()
    client = serve(engine, [online(9.0, output_tokens=100)])
    assert len(engine.aborted) == 1
    assert not engine.inside
    assert not client.logs[0].is_finished
    assert len(client.logs[0].token_times_s) in (3, 4)


def test_request_that_arrives_after_the_end_is_never_sent():
    assert serve(FakeEngine(), [online(11.0)]).logs == []


def test_progress_is_told_about_twice_a_second():
    ticks_s: list[float] = []
    serve(FakeEngine(), [], on_tick=ticks_s.append)
    assert ticks_s == pytest.approx([0.5 * number for number in range(20)])


def test_engine_failure_ends_the_run_and_is_raised():
    engine = FakeEngine(fails_at_token=1)
    with pytest.raises(RuntimeError, match="the engine failed"):
        serve(engine, [online(1.0)], endless_offline())
    assert not engine.inside
