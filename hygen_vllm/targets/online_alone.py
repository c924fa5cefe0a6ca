# SPDX-License-Identifier: Apache-2.0
"""The online requests as if they were served alone: what relative targets are relative to. Pure.

A second engine that exists only as arithmetic. It gets every online request at the time at which it
really came, with as many tokens as it really makes, no offline request, and its steps take what the
predictor says. So it knows which TTFT and TBT the same load would have had, queues included, and
not only what a step would have taken without offline work: requests that are slowed down stay
longer and share their steps with more others, which is interference too.

A time in which the real engine stood still, which no step explains, stands still here, too.

It lags behind the real engine as far as it must: it never makes a token that was not really made,
since nobody knows how long an answer will be.

Where the layers are spread over p stages, a request is in every p-th step, p steps run at once, and
a step completes the p-th part of its seconds after the one before it.
"""

import heapq
from bisect import insort
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from hygen_vllm.cost.composition import StepComposition

MOST_STEPS_AT_ONCE = 64
"""Bounds the time that catching up takes in one real step."""
MOST_LAG_S = 60.0
"""Beyond this the two engines have nothing to do with each other any more: begin anew."""


@dataclass(slots=True)
class AloneRequest:
    """An online request that has its first real token.

    Args:
        arrival_s: monotonic seconds.
        new_tokens: prompt tokens to compute, >= 1.
        cached_tokens: prompt tokens before them that the prefix cache had.
        real_ttft_s: in the real engine.
    """

    arrival_s: float
    new_tokens: int
    cached_tokens: int
    real_ttft_s: float
    num_tokens: int = 1
    """Output tokens that were really made."""
    is_over: bool = False
    """No more will be made."""
    computed_tokens: int = 0
    first_step: int = 0
    """The step that made its first token."""

    @property
    def prompt_tokens(self) -> int:
        return self.cached_tokens + self.new_tokens


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Limits of an engine; `is_async`: a step is made while the one before it runs.

    Args: num_stages: of its pipeline.
    """

    max_step_tokens: int
    max_requests: int
    kv_tokens: int
    is_async: bool
    num_stages: int = 1


@dataclass(slots=True)
class Decodes:
    """The requests that decode in the same steps."""

    heap: list[tuple[int, int, AloneRequest]] = field(default_factory=list)
    """(step at which no more tokens of it are known, number, request)."""
    context_tokens: int = 0


class OnlineAlone:
    """An engine that serves the online requests alone.

    Follows vLLM's fcfs policy: decodes, then chunked prefills in order, admission while step
    tokens, requests and KV cache last. Preemption for want of KV blocks is left out.

    Args:
        limits: of the real engine.
        gaps: called with (seconds, count) for the tokens of a step that are not first ones.
        first_token: called with (request, TTFT in seconds).
    """

    def __init__(
        self,
        limits: EngineLimits,
        gaps: Callable[[float, int], None],
        first_token: Callable[[AloneRequest, float], None],
    ) -> None:
        self._limits = limits
        self._gaps = gaps
        self._first_token = first_token
        self._start(0.0)

    def _start(self, now_s: float) -> None:
        self._restart_pipeline(now_s)
        self._waiting: list[AloneRequest] = []
        self._prefills: list[AloneRequest] = []
        self._decodes = [Decodes() for _ in range(self._limits.num_stages)]
        """In turn; the first are those of the next step."""
        self._num_steps = 0
        self._num_started = 0
        self._prefill_kv_tokens = 0
        self._stalls: deque[tuple[float, float]] = deque()
        """(when it began, seconds), those to come."""

    def stall(self, began_s: float, seconds: float) -> None:
        """Note that the real engine stood still, for reasons of its own, from `began_s` on."""
        self._stalls.append((began_s, seconds))

    def arrive(self, request: AloneRequest) -> None:
        """Add a request, in any order that `advance` has not passed."""
        insort(self._waiting, request, key=_arrival_s)

    def advance(self, step_seconds: Callable[[StepComposition], float], until_s: float) -> None:
        """Go on to `until_s`, or as far as tokens are known.

        Args:
            step_seconds: how long a step takes.
            until_s: all requests that came before are here.
        """
        if self._is_busy and until_s - self._now_s > MOST_LAG_S:
            self._start(until_s)
        for _ in range(MOST_STEPS_AT_ONCE):
            if not self._is_busy:
                if not self._waiting or self._waiting[0].arrival_s > until_s:
                    return
                self._restart_pipeline(
                    self._after_stalls(max(self._now_s, self._waiting[0].arrival_s))
                )
            if self._now_s > until_s or not self._knows_next_tokens():
                return
            self._admit()
            if self._is_busy:
                self._run_step(step_seconds)

    @property
    def _now_s(self) -> float:
        return self._completions_s[-1]

    def _restart_pipeline(self, now_s: float) -> None:
        """Let the next step be made now, with none in flight."""
        self._completions_s = deque([now_s] * (self._limits.num_stages + 1))
        """Of the last steps; the last of them is now."""

    def _after_stalls(self, time_s: float) -> float:
        """Return when something can begin that is to begin at a time."""
        while self._stalls and self._stalls[0][0] <= time_s:
            began_s, seconds = self._stalls.popleft()
            time_s = max(time_s, began_s + seconds)
        return time_s

    def _stalled_s(self, until_s: float) -> float:
        """Return the seconds by which a step that would complete then is longer."""
        total_s = 0.0
        while self._stalls and self._stalls[0][0] < until_s + total_s:
            total_s += self._stalls.popleft()[1]
        return total_s

    @property
    def _is_busy(self) -> bool:
        return bool(self._prefills) or any(decodes.heap for decodes in self._decodes)

    def _last_step(self, request: AloneRequest) -> int:
        """Return the step that makes the last token known of a request."""
        return request.first_step + (request.num_tokens - 1) * self._limits.num_stages

    def _knows_next_tokens(self) -> bool:
        """Let requests go that have all their tokens; whether the next one of all others exists."""
        decodes = self._decodes[0]
        heap = decodes.heap
        while heap and heap[0][0] <= self._num_steps:
            _, number, request = heap[0]
            end = self._last_step(request)
            if end > self._num_steps:
                heapq.heapreplace(heap, (end, number, request))
            elif request.is_over:
                heapq.heappop(heap)
                decodes.context_tokens -= request.prompt_tokens + request.num_tokens - 1
            else:
                return False
        return True

    def _admit(self) -> None:
        limits = self._limits
        tokens_left = limits.max_step_tokens - len(self._decodes[0].heap)
        tokens_left -= sum(r.new_tokens - r.computed_tokens for r in self._prefills)
        made_s = self._completions_s[0 if limits.is_async else 1]  # who comes later is not in it
        while self._waiting and self._waiting[0].arrival_s <= made_s and tokens_left > 0:
            prompt_tokens = self._waiting[0].prompt_tokens
            num_running = len(self._prefills) + sum(len(d.heap) for d in self._decodes)
            kv_tokens = self._prefill_kv_tokens + sum(d.context_tokens for d in self._decodes)
            kv_tokens += prompt_tokens
            is_full = num_running >= limits.max_requests or kv_tokens > limits.kv_tokens
            if num_running and is_full:
                return
            request = self._waiting.pop(0)
            self._prefills.append(request)
            self._prefill_kv_tokens += prompt_tokens
            tokens_left -= request.new_tokens

    def _run_step(self, step_seconds: Callable[[StepComposition], float]) -> None:
        decodes = self._decodes.pop(0)
        num_decodes = len(decodes.heap)
        step = StepComposition(num_decodes, decodes.context_tokens)
        tokens_left = self._limits.max_step_tokens - num_decodes
        for request in self._prefills:
            chunk = min(tokens_left, request.new_tokens - request.computed_tokens)
            if chunk <= 0:
                break
            step.add_prefill(chunk, request.cached_tokens + request.computed_tokens)
            request.computed_tokens += chunk
            tokens_left -= chunk
        before_s = self._complete(step_seconds(step) if step.total_tokens else 0.0)
        self._num_steps += 1
        self._decodes.append(decodes)
        decodes.context_tokens += num_decodes
        if num_decodes:
            self._gaps(self._now_s - before_s, num_decodes)
        while self._prefills and self._prefills[0].computed_tokens >= self._prefills[0].new_tokens:
            self._start_decode(self._prefills.pop(0), decodes)

    def _complete(self, seconds: float) -> float:
        """Complete a step; return when the one with the same decodes before it did."""
        num_stages = self._limits.num_stages
        self._completions_s.popleft()
        before_s = self._completions_s[0]
        stage_s = seconds / num_stages
        begins_last_stage_s = max(self._completions_s[-1], before_s + seconds - stage_s)
        completed_s = begins_last_stage_s + stage_s
        self._completions_s.append(completed_s + self._stalled_s(completed_s))
        return before_s

    def _start_decode(self, request: AloneRequest, decodes: Decodes) -> None:
        self._prefill_kv_tokens -= request.prompt_tokens
        decodes.context_tokens += request.prompt_tokens
        request.first_step = self._num_steps
        self._num_started += 1
        entry = self._last_step(request), self._num_started, request
        heapq.heappush(decodes.heap, entry)
        self._first_token(request, self._now_s - request.arrival_s)


def _arrival_s(request: AloneRequest) -> float:
    return request.arrival_s
