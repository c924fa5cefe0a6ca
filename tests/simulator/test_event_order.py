# SPDX-License-Identifier: Apache-2.0
"""What happens when in a simulated run, and what of two things at one time happens first."""

from itertools import pairwise

import pytest

from hygen_vllm.lab.simulator.simulation import Requests
from hygen_vllm.lab.simulator.step_work import StepWork
from hygen_vllm.lab.workloads.arrivals import Arrival
from tests.support.classes import STOCK
from tests.support.simulation import (
    SETTINGS,
    Clocked,
    DeviceOf,
    PolicyOf,
    SimpleDevice,
    column,
    engine_of,
    run_of,
    ttft_s,
)

ASYNC = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
ONLINE_POLICIES = [name for name in SETTINGS if name != "offline-only"]


def events_of(is_async, online, offline=()):
    """Return (time, what an engine does with its scheduler) of a run with steps of one second."""
    events = []

    class Recording(Clocked, STOCK[is_async]):
        def add_request(self, request):
            events.append((self.clock(), f"add {request.request_id}"))
            super().add_request(request)

        def schedule(self, *args, **kwargs):
            output = super().schedule(*args, **kwargs)
            if output.num_scheduled_tokens:
                events.append((self.clock(), f"make {' '.join(output.num_scheduled_tokens)}"))
            return output

        def update_from_output(self, output, result):
            if output.num_scheduled_tokens:
                events.append((self.clock(), f"complete {' '.join(output.num_scheduled_tokens)}"))
            return super().update_from_output(output, result)

    policy = PolicyOf("recording", "stock vLLM that says what it is asked", cls=Recording)
    run_of(engine_of(is_async=is_async), policy, online=online, offline=offline)
    return events


def test_completion_comes_before_arrivals_and_those_before_the_next_step():
    """A request that arrives as a step completes is in the step after it."""
    expected = [
        (0.0, "add online-0"),
        (0.0, "make online-0"),
        (1.0, "complete online-0"),
        (1.0, "add online-1"),
        (1.0, "make online-0 online-1"),
        (2.0, "complete online-0 online-1"),
    ]
    assert expected == events_of(False, [Arrival(0.0, 4, 2), Arrival(1.0, 4, 1)])


def test_arrival_during_a_step_is_added_after_it():
    """The engine is busy until the step completes; the request waits, and waited before too."""
    events = events_of(False, [Arrival(0.0, 4, 2), Arrival(0.25, 4, 1)])
    assert [(1.0, "complete online-0"), (1.0, "add online-1")] == events[2:4]


def test_arrivals_of_one_time_come_online_first_each_in_order():
    """Ties are decided by class, then by the place in the workload, never by luck."""
    online = [Arrival(1.0, 5, 1), Arrival(1.0, 4, 1), Arrival(3.0, 4, 1)]
    offline = [Arrival(0.5, 9, 1), Arrival(1.0, 4, 1), Arrival(1.0, 8, 1)]
    expected = ["offline-0", "online-0", "online-1", "offline-1", "offline-2", "online-2"]
    named = [f"{name}-{number}" for name, number, _ in Requests(online, offline).in_order()]
    added = [what.split()[1] for _, what in events_of(False, online, offline) if "add" in what]
    assert expected == named == added


def test_async_engine_makes_a_step_while_one_runs():
    """Two steps are in flight; a third is made when the first completes."""
    expected = [
        (0.0, "add online-0"),
        (0.0, "make online-0"),
        (0.0, "make online-0"),
        (1.0, "complete online-0"),
        (1.0, "make online-0"),
        (2.0, "complete online-0"),
        (3.0, "complete online-0"),
    ]
    assert expected == events_of(True, [Arrival(0.0, 4, 3)])


@ASYNC
def test_device_runs_one_step_after_another(is_async):
    """However many are in flight: a step begins where the one before it ended."""
    device = SimpleDevice(step_s=0.5, token_s=0.01)
    run = run_of(
        engine_of(device, is_async), online=[Arrival(2.0, 100, 9)], offline=[Arrival(2.1, 40, 7)]
    )
    begins_s, ends_s = column(run, "begins_s"), column(run, "ends_s")
    assert 2.0 == begins_s[0]
    assert begins_s[1:] == ends_s[:-1]


@ASYNC
@pytest.mark.parametrize("policy", ONLINE_POLICIES)
def test_ttft_of_a_lone_request_is_its_prefill_steps(policy, is_async):
    """On an idle engine a request waits for nothing but its own two chunks, at any time."""
    engine = engine_of(SimpleDevice(step_s=1.0, token_s=0.01), is_async)
    run = run_of(engine, policy, online=[Arrival(0.3, 100, 4), Arrival(30.0, 100, 4)])
    expected = pytest.approx((1.0 + 0.64) + (1.0 + 0.36))
    assert [expected, expected] == [ttft_s(record) for record in run.log.records.values()]


@pytest.mark.parametrize(("is_async", "num_steps"), [(False, 1), (True, 2)])
def test_arrival_at_a_busy_engine_waits_for_steps_already_made(is_async, num_steps):
    """With two steps in flight one more is made already: its first token is a step later."""
    run = run_of(engine_of(is_async=is_async), online=[Arrival(0.0, 4, 9), Arrival(3.25, 4, 1)])
    assert 0.75 + num_steps == ttft_s(run.log.records["online-1"])


@ASYNC
@pytest.mark.parametrize("policy", ONLINE_POLICIES)
def test_tbt_is_the_time_of_a_step(policy, is_async):
    """A decode gets one token a step, and sees what else is in it."""
    engine = engine_of(SimpleDevice(step_s=1.0, token_s=0.01), is_async)
    run = run_of(engine, policy, online=[Arrival(0.0, 4, 6), Arrival(0.0, 8, 4)])
    times_s = run.log.records["online-0"].token_times_s
    gaps_s = [b - a for a, b in pairwise(times_s)]
    assert pytest.approx([1.02, 1.02, 1.02, 1.01, 1.01]) == gaps_s
    assert times_s[:4] == run.log.records["online-1"].token_times_s


@ASYNC
def test_device_is_told_what_is_in_a_step(is_async):
    """Decodes and chunks, with the tokens before them; a prompt's last token is a decode."""
    works = []
    device = DeviceOf(lambda work: works.append(work) or 1.0)
    online = [Arrival(0.0, 63, 3), Arrival(0.0, 41, 2), Arrival(0.0, 1, 3)]
    run = run_of(engine_of(device, is_async), online=online)
    expected = [
        StepWork(0, 0, [(63, 0), (1, 0)]),
        StepWork(2, 63 + 0, [(40, 1)]),
        StepWork(3, 64 + 41 + 1, []),
        StepWork(1, 2, []),
    ]
    assert expected == works
    assert [0.0, 2.0, 3.0, 1.0] == column(run, "online_decodes")
    assert [64.0, 40.0, 0.0, 0.0] == column(run, "online_prefill_tokens")


@ASYNC
def test_step_without_work_takes_a_millisecond(is_async):
    """While nothing may run the engine asks again and again, as vLLM's does."""
    engine = engine_of(SimpleDevice(step_s=0.25), is_async)
    settings = {"mode": "off", "offline_rate_per_s": 1.0}
    offline = [Arrival(0.0, 4, 1), Arrival(0.0, 4, 1)]
    run = run_of(engine, "rate-capped", offline=offline, settings=settings)
    assert [0.0, pytest.approx(1.0, abs=2e-3)] == column(run, "begins_s")
    assert 2 == run.log.num_steps
