# SPDX-License-Identifier: Apache-2.0
"""Drives a real scheduler in virtual time: a step lasts what a device model says."""

from collections.abc import Callable, Sequence
from typing import Any

from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request

StepSeconds = Callable[[Sequence[tuple[int, int]]], float]
"""Seconds of a step from the (new tokens, tokens computed before) of each request in it."""
ANY_TOKEN = 7


class VirtualEngine:
    """A scheduler without a model, one step at a time.

    Args:
        scheduler: its `clock` is set to the virtual one.
        step_seconds: how long a step takes; called once a step.
    """

    def __init__(self, scheduler: Scheduler, step_seconds: StepSeconds) -> None:
        self.scheduler: Any = scheduler
        self.now_s = 0.0
        self._step_seconds = step_seconds
        scheduler.clock = lambda: self.now_s

    def add(self, request: Request) -> None:
        self.scheduler.add_request(request)

    def step(self) -> dict[str, tuple[int, int]]:
        """Run one step; return (new tokens, tokens computed before) by request."""
        output = self.scheduler.schedule()
        work = {}
        sampled = []
        for request_id, num_tokens in output.num_scheduled_tokens.items():
            request = self.scheduler.requests[request_id]
            work[request_id] = (num_tokens, request.num_computed_tokens - num_tokens)
            is_done = request.num_computed_tokens >= request.num_tokens
            sampled.append([ANY_TOKEN] if is_done else [])
        if work:
            self.now_s += self._step_seconds(list(work.values()))
        ids = list(work)
        self.scheduler.update_from_output(
            output,
            ModelRunnerOutput(
                req_ids=ids,
                req_id_to_index={request_id: i for i, request_id in enumerate(ids)},
                sampled_token_ids=sampled,
            ),
        )
        return work
