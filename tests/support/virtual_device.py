# SPDX-License-Identifier: Apache-2.0
"""A real scheduler on a device that takes, in virtual time, what a StepCost says."""

import random

from hygen_vllm.cost.curve import TokenCurve
from hygen_vllm.cost.step_cost import StepCost
from hygen_vllm.engine.state import EngineState
from hygen_vllm.lab.bare_scheduler import Limits, make_scheduler
from tests.support.fake_engine import FakeWorker

GPU = StepCost(8e-3, 2e-5, 3e-9, 1e-4, 5e-5, 1e-9, 1e-9, TokenCurve((128,), (1e-5,)))
CPU = StepCost(12e-3, 1.6e-3, 1e-7, 1e-3, 6e-4, 1e-7, 1e-7)
LIMITS = Limits(max_num_seqs=64, max_num_batched_tokens=1024, max_model_len=2048, num_blocks=20_000)


class VirtualDevice:
    """A scheduler in virtual time: each step takes what `cost` says, with some noise."""

    def __init__(self, cls, cost, hygen, seed=0, noise=0.03):
        self.now_s = 100.0
        clocks = {"clock": lambda: self.now_s, "wall_clock": lambda: self.now_s}
        self.scheduler = make_scheduler(cls, LIMITS, hygen, **clocks)
        self.stall_s = 0.0
        """Seconds by which the next step is longer."""
        self.steps = []
        self.outputs = {}
        self._cost = cost
        self._worker = FakeWorker(LIMITS.block_size)
        self._rng = random.Random(seed)
        self._noise = noise

    def add(self, request):
        self.outputs[request.request_id] = []
        self.scheduler.add_request(request)

    def step(self):
        """Run one step; keep (seconds, seconds its online part takes alone, offline tokens)."""
        scheduler = self.scheduler
        output = scheduler.schedule()
        result = self._worker.execute(output)
        step = EngineState(scheduler).composition(output)
        seconds = self._cost.seconds(step) * self._rng.lognormvariate(0, self._noise) + self.stall_s
        self.stall_s = 0.0
        tokens = output.num_scheduled_tokens
        output.num_scheduled_tokens = {r: n for r, n in tokens.items() if r.startswith("online")}
        online_s = self._cost.seconds(EngineState(scheduler).composition(output))
        num_offline = sum(tokens.values()) - sum(output.num_scheduled_tokens.values())
        output.num_scheduled_tokens = tokens
        self.now_s += seconds
        for outputs in scheduler.update_from_output(output, result).values():
            for one in outputs.outputs:
                self.outputs[one.request_id] += one.new_token_ids
        has_online = num_offline < sum(tokens.values())
        self.steps.append((seconds, online_s if has_online else None, num_offline))
