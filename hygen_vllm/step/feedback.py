# SPDX-License-Identifier: Apache-2.0
"""Pairs each schedule() with its update_from_output(): how long the step took. Pure.

Steps complete in the order in which they were scheduled. While the engine is busy a step lasts
from the completion before it to its own, which is what a user sees between two tokens, with one
step in flight or with several. After an idle time it lasts from its schedule(); the idle time
itself is nobody's. Where the layers are spread over p stages, p steps run at once and a request is
in every p-th: what is seen between two of its tokens is p times the time between two completions.

With several in flight a step may be done on the device before the processor, busy launching the
next, looks at it: a small step of an 8B model on an H200 takes as long as its neighbours' launch
(experiments/real-gpu). What a step takes of itself is seen where it is alone in flight, or
where its neighbours are of its kind.
"""

from collections import deque
from dataclasses import dataclass

from hygen_vllm.cost.composition import StepComposition
from hygen_vllm.step.terms import StepForecast


@dataclass(slots=True)
class MeasuredStep:
    """A step, from the moment at which it is made to what it took.

    Args:
        num_requests, num_tokens: what decides how long its launch takes.
        composition: what is in it; None if nobody is to learn from it.
        forecast: what was expected of it, if anything.
        has_online_prefill: where there is a forecast.
        seconds: that it took.
        is_steady: they are its own: no other was in flight, or those before and behind were alike.
    """

    num_requests: int = 0
    num_tokens: int = 0
    composition: StepComposition | None = None
    forecast: StepForecast | None = None
    has_online_prefill: bool = False
    seconds: float = 0.0
    is_steady: bool = False

    def is_like(self, other: "MeasuredStep | None") -> bool:
        """Whether both steps have prefill or neither has, and neither is twice as large."""
        if other is None:
            return False
        small, large = sorted((self.num_tokens, other.num_tokens))
        return self._has_prefill == other._has_prefill and large <= 2 * small

    @property
    def _has_prefill(self) -> bool:
        return self.num_tokens > self.num_requests


class StepFeedback:
    """Steps in flight and the moment of the last completion. Times are monotonic seconds.

    Args: num_stages: of the pipeline, each with a part of the layers.
    """

    def __init__(self, num_stages: int = 1) -> None:
        self._num_stages = num_stages
        self._in_flight: deque[tuple[object, MeasuredStep]] = deque()
        self._last_completion_s = 0.0
        self._last: MeasuredStep | None = None
        """The last that completed, if another was scheduled before that."""
        self._is_busy = False
        self.step_s = 0.0
        """Seconds of the last step that completed."""

    def scheduled(self, output: object, started_s: float, step: MeasuredStep) -> None:
        """Note that a step was scheduled at `started_s`.

        Args: output: any object that stands for it, compared by identity.
        """
        if not self._in_flight and not self._is_busy:
            self._last_completion_s = started_s
        if not self._in_flight:
            self._last = None
        self._in_flight.append((output, step))

    def completed(self, output: object, now_s: float, is_busy: bool) -> MeasuredStep | None:
        """Return the step that completed with its seconds; None for one that is not known.

        Args:
            is_busy: requests remain, so that the engine goes straight on.
        """
        step = self._pop(output)
        before, self._last = self._last, step
        started_s, self._last_completion_s = self._last_completion_s, now_s
        self._is_busy = is_busy
        self.step_s = now_s - started_s
        if step is None:
            return None
        behind = self._in_flight[0][1] if self._in_flight else None
        is_alone = before is None and behind is None
        step.is_steady = is_alone or (step.is_like(before) and step.is_like(behind))
        step.seconds = (1 if before is None else self._num_stages) * (now_s - started_s)
        return step

    def _pop(self, output: object) -> MeasuredStep | None:
        while self._in_flight:
            scheduled, step = self._in_flight.popleft()
            if scheduled is output:
                return step
        return None
