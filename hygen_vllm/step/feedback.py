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
from typing import Any

from hygen_vllm.price.composition import StepComposition
from hygen_vllm.step.terms import StepForecast


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What somebody wants to know of a step once it is done.

    Args:
        composition: what is in it, for learning from it; None if it is not to be learned from.
        forecast: what was expected of it, if anything.
        has_prefill: it has online prefill.
    """

    composition: StepComposition | None = None
    forecast: StepForecast | None = None
    has_prefill: bool = False


@dataclass(frozen=True, slots=True)
class StepSample:
    """A measured step."""

    record: StepRecord
    seconds: float
    is_steady: bool = True
    """The time is the step's own: no other was in flight, or those before and behind were alike."""


@dataclass(frozen=True, slots=True)
class StepSize:
    """What decides how long the launch of a step takes."""

    num_requests: int
    num_tokens: int

    @property
    def has_prefill(self) -> bool:
        """Whether a request has more than a token."""
        return self.num_tokens > self.num_requests

    def is_like(self, other: "StepSize | None") -> bool:
        """Whether both steps have prefill or neither has, and neither is twice as large."""
        if other is None:
            return False
        small, large = sorted((self.num_tokens, other.num_tokens))
        return self.has_prefill == other.has_prefill and large <= 2 * small


class StepFeedback:
    """Steps in flight and the moment of the last completion. Times are monotonic seconds.

    Args: num_stages: of the pipeline, each with a part of the layers.
    """

    def __init__(self, num_stages: int = 1) -> None:
        self._num_stages = num_stages
        self._in_flight: deque[tuple[Any, StepRecord | None, StepSize]] = deque()
        self._last_completion_s = 0.0
        self._last_size: StepSize | None = None
        """Of the last that completed, if another was scheduled before that."""
        self._is_busy = False
        self.step_s = 0.0
        """Seconds of the last step that completed."""

    def scheduled(
        self, step: Any, started_s: float, record: StepRecord | None, size: StepSize
    ) -> None:
        """Note that `step` (any object, compared by identity) was scheduled at `started_s`.

        A record of None means that nobody wants to know how long the step takes.
        """
        if not self._in_flight and not self._is_busy:
            self._last_completion_s = started_s
        if not self._in_flight:
            self._last_size = None
        self._in_flight.append((step, record, size))

    def completed(self, step: Any, now_s: float, is_busy: bool) -> StepSample | None:
        """Note that `step` completed; return its sample if it was wanted.

        Args:
            is_busy: requests remain, so that the engine goes straight on.
        """
        record, size = self._pop(step)
        before, self._last_size = self._last_size, size
        started_s, self._last_completion_s = self._last_completion_s, now_s
        self._is_busy = is_busy
        self.step_s = now_s - started_s
        if record is None or size is None:
            return None
        behind = self._in_flight[0][2] if self._in_flight else None
        is_alone = before is None and behind is None
        is_steady = is_alone or (size.is_like(before) and size.is_like(behind))
        steps_at_once = 1 if before is None else self._num_stages
        return StepSample(record, steps_at_once * (now_s - started_s), is_steady)

    def _pop(self, step: Any) -> tuple[StepRecord | None, StepSize | None]:
        while self._in_flight:
            scheduled, record, size = self._in_flight.popleft()
            if scheduled is step:
                return record, size
        return None, None
