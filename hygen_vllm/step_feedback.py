# SPDX-License-Identifier: Apache-2.0
"""Pairs each schedule() with its update_from_output(): how long the step took. Pure.

Steps complete in the order in which they were scheduled. While the engine is busy a step lasts
from the completion before it to its own, which is what a user sees between two tokens, with one
step in flight or with several. After an idle time it lasts from its schedule(); the idle time
itself is nobody's.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any

from hygen_vllm.latency.step_features import StepComposition
from hygen_vllm.slo.step_terms import StepForecast


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


class StepFeedback:
    """Steps in flight and the moment of the last completion. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._in_flight: deque[tuple[Any, StepRecord | None]] = deque()
        self._last_completion_s = 0.0
        self._is_busy = False

    def scheduled(self, step: Any, started_s: float, record: StepRecord | None) -> None:
        """Note that `step` (any object, compared by identity) was scheduled at `started_s`.

        A record of None means that nobody wants to know how long the step takes.
        """
        if not self._in_flight and not self._is_busy:
            self._last_completion_s = started_s
        self._in_flight.append((step, record))

    def completed(self, step: Any, now_s: float, is_busy: bool) -> StepSample | None:
        """Note that `step` completed; return its sample if it was wanted.

        Args:
            is_busy: requests remain, so that the engine goes straight on.
        """
        record = self._pop(step)
        started_s, self._last_completion_s = self._last_completion_s, now_s
        self._is_busy = is_busy
        return None if record is None else StepSample(record, now_s - started_s)

    def _pop(self, step: Any) -> StepRecord | None:
        while self._in_flight:
            scheduled, record = self._in_flight.popleft()
            if scheduled is step:
                return record
        return None
