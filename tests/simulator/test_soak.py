# SPDX-License-Identifier: Apache-2.0
"""Nothing of a request that has gone stays, however it went."""

import random
import sys
from pathlib import Path

import pytest
from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.request import RequestStatus
from vllm.v1.structured_output.request import StructuredOutputRequest

from hygen_vllm.engine import leftovers
from hygen_vllm.lab.bare_scheduler import Limits, make_request, make_scheduler
from hygen_vllm.lab.simulator.virtual_engine import VirtualClock
from tests.support.classes import HYGEN
from tests.support.fake_engine import FakeEngine
from tests.support.scheduler_laws import check_blocks, check_empty

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

from harness.memory import reachable_bytes

NUM_ROUNDS, SETTLED_AFTER, STEPS_A_ROUND = 36, 24, 100
STEP_S = 0.3
REMEMBERED = 100
"""Blocks, so few that they are there after the first rounds."""
WINDOW_S = 30.0
"""Shorter than a round: what is remembered of the time is all there after the first."""


class Churn:
    """Requests of every kind that come, run, are preempted, or go before they did."""

    def __init__(self, scheduler, depth, clock):
        self.engine = FakeEngine(scheduler, depth)
        self.clock = clock
        self.rng = random.Random(5)
        self.count = 0

    def round(self):
        for _ in range(STEPS_A_ROUND):
            if self.rng.random() < 0.5:
                self.add()
            if self.rng.random() < 0.15:
                self.abort()
            self.clock.now_s += STEP_S
            self.engine.step()
        for name in [*self.engine.scheduler.requests]:
            self.engine.abort(name)
        for _ in range(4):
            self.engine.step()
        self.engine.outputs.clear()
        self.engine.finished.clear()
        self.engine.schedules.clear()
        self.engine.worker.requests.clear()

    def add(self):
        rng, number = self.rng, self.count
        self.count += 1
        is_offline = rng.random() < 0.6
        length = rng.choice((5, 20, 60, 200))
        shared = [(7 * i) % 997 for i in range(rng.choice((0, 16, 40)))]
        request = make_request(
            f"{number}",
            shared + [(31 * number + 7 * i) % 1000 for i in range(length)],
            slo_class=rng.choice(("offline", "Offline ")) if is_offline else None,
            max_tokens=rng.choice((1, 5, 40)),
            priority=0 if not is_offline else rng.randint(0, 50),
            extra_args={"tenant": f"tenant-{number}"},
            arrival_time=self.clock.now_s,
        )
        if rng.random() < 0.1:  # its grammar is never compiled: somebody gives up
            params = StructuredOutputsParams(regex=".*")
            request.structured_output_request = StructuredOutputRequest(params=params)
            request.status = RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR
        self.engine.add(request)

    def abort(self):
        names = [*self.engine.scheduler.requests]
        if names:
            self.engine.abort(self.rng.choice(names))


@pytest.mark.parametrize(
    ("is_async", "policy"), [(False, "fcfs"), (True, "priority")], ids=["sync", "async"]
)
def test_memory_stays_what_it_was_after_the_first_rounds(is_async, policy, monkeypatch):
    """Tenants without number, priorities, aborts of those that wait, run, or never could."""
    monkeypatch.setattr(leftovers, "REMEMBERED", REMEMBERED)
    clock = VirtualClock()
    limits = Limits(policy=policy, num_blocks=120, max_num_seqs=6, max_num_batched_tokens=48)
    settings = {"slo_window_s": WINDOW_S, "offline_max_wait_s": 20.0}
    scheduler = make_scheduler(HYGEN[is_async], limits, settings, clock=clock, wall_clock=clock)
    churn = Churn(scheduler, 2 if is_async else 1, clock)
    sizes = []
    for _ in range(NUM_ROUNDS):
        churn.round()
        check_empty(scheduler)
        check_blocks(scheduler)
        sizes.append(reachable_bytes(scheduler))
    assert max(sizes[SETTLED_AFTER:]) < 1.05 * max(sizes[:SETTLED_AFTER]), sizes
