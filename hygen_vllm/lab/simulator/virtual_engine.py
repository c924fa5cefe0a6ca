# SPDX-License-Identifier: Apache-2.0
"""Drives a real scheduler in virtual time, as vLLM's EngineCore drives it in real time.

The order of events, which makes a run repeatable:

1. A step completes. Its tokens come at that time, and the scheduler learns of them.
2. Requests whose time has come are added, in order of time; of one time, online before offline, and
   each class in the order of its workload. One that comes while a step runs is added after it.
3. The scheduler makes the next step. It begins at once, or when the step before it completes if
   that still runs.

With one step in flight this is EngineCore.step(), with several step_with_batch_queue(): the next
step is made while others run, one more than the pipeline has stages under asynchronous scheduling.
vLLM's own time between steps is in the device's seconds or nowhere.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from hygen_vllm.lab.simulator.step_work import StepWork

StepSeconds = Callable[[StepWork, float], float]
"""Seconds of a step, from its work and the time at which it begins."""
ANY_TOKEN = [7]
NO_TOKEN: list[int] = []
EMPTY_STEP_S = 1e-3
"""EngineCore sleeps so long after a step in which nothing could run."""


class VirtualClock:
    """Seconds that pass when they are told to; stands where `time.monotonic` would."""

    __slots__ = ("now_s",)

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass(slots=True)
class VirtualStep:
    """A step in flight or completed; all seconds are virtual.

    Args:
        decodes: (request, tokens computed before) of each request that gets one token.
        chunks: (request, new tokens, tokens computed before) of each prefill chunk.
    """

    output: SchedulerOutput
    result: ModelRunnerOutput
    decodes: list[tuple[Request, int]]
    chunks: list[tuple[Request, int, int]]
    work: StepWork
    begins_s: float
    ends_s: float


class Observer(Protocol):
    """Is told what happens in an engine; may not change it."""

    def made(self, step: VirtualStep) -> None:
        """Note that the scheduler made a step."""

    def completed(self, step: VirtualStep, outputs: list[Any]) -> None:
        """Note that a step completed; `outputs` are vLLM's EngineCoreOutput."""


class VirtualEngine:
    """A scheduler without a model.

    Args:
        clock: moved on as steps complete; the one that HyGen's scheduler was made with.
        step_seconds: how long a step takes from end to end; called once a step, in order.
        depth: steps in flight at most.
        num_stages: of the pipeline; each takes an equal part of a step's seconds, and begins a
            step when the one before it is done with it and it is done with the step before. The
            first one also waits for the tokens that go into a step.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        clock: VirtualClock,
        step_seconds: StepSeconds,
        depth: int = 1,
        num_stages: int = 1,
        observer: Observer | None = None,
    ) -> None:
        self.scheduler: Any = scheduler
        self._clock = clock
        self._step_seconds = step_seconds
        self._depth = depth
        self._stages_free_s = [0.0] * num_stages
        self._observer = observer
        self._in_flight: deque[VirtualStep] = deque()

    @property
    def now_s(self) -> float:
        """Virtual seconds; may be moved on while there is no work."""
        return self._clock.now_s

    @now_s.setter
    def now_s(self, now_s: float) -> None:
        self._clock.now_s = now_s

    @property
    def has_work(self) -> bool:
        """Whether a turn would do anything."""
        return bool(self._in_flight) or self.scheduler.has_requests()

    def add(self, request: Request) -> None:
        self.scheduler.add_request(request)

    def abort(self, request_ids: Iterable[str]) -> None:
        self.scheduler.finish_requests(list(request_ids), RequestStatus.FINISHED_ABORTED)

    def turn(self, until_s: float = math.inf) -> bool:
        """Go once round EngineCore's loop; False if the next completion comes after `until_s`.

        That completion then has not happened, and the run cannot go on.
        """
        if self.scheduler.has_requests():
            step = self._make()
            self._in_flight.append(step)
            goes_on = bool(step.result.req_ids)
            if not goes_on and self.scheduler.has_requests():
                self.now_s += EMPTY_STEP_S
                goes_on = True
            if goes_on and len(self._in_flight) < self._depth:
                return True
        if self._in_flight:
            if self._in_flight[0].ends_s > until_s:
                return False
            self._complete()
        return True

    def _make(self) -> VirtualStep:
        output = self.scheduler.schedule()
        requests = self.scheduler.requests
        decodes: list[tuple[Request, int]] = []
        chunks: list[tuple[Request, int, int]] = []
        sampled: list[list[int]] = []
        context_tokens = 0
        for request_id, num_tokens in output.num_scheduled_tokens.items():
            request = requests[request_id]
            computed = request.num_computed_tokens - num_tokens
            if computed < request.num_tokens - 1:
                chunks.append((request, num_tokens, computed))
            else:
                decodes.append((request, computed))
                context_tokens += computed
            sampled.append(NO_TOKEN if request.is_prefill_chunk else ANY_TOKEN)
        work = StepWork(len(decodes), context_tokens, [chunk[1:] for chunk in chunks])
        begins_s = ends_s = max(self.now_s, self._stages_free_s[-1])
        if sampled:
            begins_s, ends_s = self._run(work, decodes)
        ids = list(output.num_scheduled_tokens)
        result = ModelRunnerOutput(
            req_ids=ids,
            req_id_to_index=dict(zip(ids, range(len(ids)), strict=True)),
            sampled_token_ids=sampled,
        )
        step = VirtualStep(output, result, decodes, chunks, work, begins_s, ends_s)
        if self._observer is not None:
            self._observer.made(step)
        return step

    def _run(self, work: StepWork, decodes: list[tuple[Request, int]]) -> tuple[float, float]:
        """Return when a step begins and ends."""
        free_s = self._stages_free_s
        begins_s = max(self.now_s, free_s[0])
        if len(free_s) > 1:
            ids = {request.request_id for request, _ in decodes}
            before = (
                step.ends_s for step in self._in_flight if not ids.isdisjoint(step.result.req_ids)
            )
            begins_s = max([begins_s, *before])
        ends_s = begins_s
        stage_s = self._step_seconds(work, begins_s) / len(free_s)
        for stage, stage_free_s in enumerate(free_s):
            ends_s = free_s[stage] = max(ends_s, stage_free_s) + stage_s
        return begins_s, ends_s

    def _complete(self) -> None:
        step = self._in_flight.popleft()
        self.now_s = max(self.now_s, step.ends_s)
        outputs = self.scheduler.update_from_output(step.output, step.result)
        if self._observer is not None:
            made = outputs.get(0)
            self._observer.completed(step, made.outputs if made is not None else [])
