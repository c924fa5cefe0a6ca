# SPDX-License-Identifier: Apache-2.0
"""The online requests in the engine: the TTFT and TBT they see. Pure.

TTFT runs from the arrival of a request to its first token, TBT is the gap between two of its
tokens, one sample a token. Several tokens that come at once are one gap and others of zero.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from hygen_vllm.targets.latency_window import LatencyWindow
from hygen_vllm.targets.online_alone import AloneRequest

OVERTAKEN_S = 5.0
"""A request waits out of turn if one has a token that came so much later."""


@dataclass(slots=True)
class OnlineRequest:
    """A request that is here. Seconds are monotonic."""

    arrival_s: float
    prompt_tokens: int
    cached_tokens: int = 0
    last_token_s: float = 0.0
    alone: AloneRequest | None = None
    """The same request in OnlineAlone, from its first token on."""


@dataclass(slots=True)
class Tokens:
    """The online tokens that one step brought.

    Args:
        num_gaps: tokens that are not the first of their request.
        first: requests that got their first token.
    """

    num_gaps: int
    first: list[AloneRequest]


class OnlineLatency:
    """Measures the online requests.

    Args:
        window_s: how long what was measured counts.
    """

    def __init__(self, window_s: float) -> None:
        self.windows = {metric: LatencyWindow(window_s) for metric in ("ttft", "tbt")}
        self._here: dict[str, OnlineRequest] = {}
        self._without_token: dict[str, OnlineRequest] = {}
        """Those that wait in their turn for a first token."""
        self._last_served_s = -math.inf
        """Arrival of the latest request that has a token."""
        self._leaving: list[str] = []

    def came(self, request_id: str, arrival_s: float, prompt_tokens: int) -> None:
        """Add a request. One that was here under its name, and left in this step, is gone."""
        if request_id in self._here:
            self._forget(request_id)
            self._leaving = [name for name in self._leaving if name != request_id]
        request = OnlineRequest(arrival_s, prompt_tokens)
        self._here[request_id] = self._without_token[request_id] = request

    def started(self, request_id: str, cached_tokens: int) -> None:
        """Note how many prompt tokens of a request the prefix cache had."""
        request = self._here.get(request_id)
        if request is not None:
            request.cached_tokens = min(cached_tokens, request.prompt_tokens - 1)

    def left(self, request_id: str) -> None:
        """Note that a request gets no token after those of the step that is completing."""
        if request_id in self._here:
            self._leaving.append(request_id)

    def first_waiting_s(self, now_s: float) -> float:
        """Return the arrival of the oldest request without a token, `now_s` if there is none.

        One that was overtaken (it lacks a LoRA slot, waits for a KV transfer, or its priority is
        low) is passed over: nobody knows when it comes, and it holds up nobody.
        """
        without_token = self._without_token
        while without_token:
            request_id, request = next(iter(without_token.items()))
            if request.arrival_s >= self._last_served_s - OVERTAKEN_S:
                return min(now_s, request.arrival_s)
            del without_token[request_id]
        return now_s

    def tokens_came(self, counts: Iterable[tuple[str, int]], now_s: float) -> Tokens:
        """Note the tokens of a completed step: (request id, number), of any class."""
        tokens = Tokens(0, [])
        for request_id, count in counts:
            request = self._here.get(request_id)
            if request is None or count == 0:
                continue
            if request.alone is None:
                request.alone = self._first_token(request_id, request, now_s)
                request.alone.num_tokens = count
                tokens.first.append(request.alone)
                self._count(tokens, count - 1, 0.0, now_s)
            else:
                self._count(tokens, count, now_s - request.last_token_s, now_s)
                request.alone.num_tokens += count
            request.last_token_s = now_s
        self._let_go()
        return tokens

    def _count(self, tokens: Tokens, count: int, gap_s: float, now_s: float) -> None:
        """Count tokens that came at once, `gap_s` after the one before."""
        if count == 0:
            return
        window = self.windows["tbt"]
        window.add(gap_s, 1, now_s)
        if count > 1:
            window.add(0.0, count - 1, now_s)
        tokens.num_gaps += count

    def _first_token(self, request_id: str, request: OnlineRequest, now_s: float) -> AloneRequest:
        self._without_token.pop(request_id, None)
        self._last_served_s = max(self._last_served_s, request.arrival_s)
        ttft_s = now_s - request.arrival_s
        self.windows["ttft"].add(ttft_s, 1, now_s)
        new_tokens = request.prompt_tokens - request.cached_tokens
        return AloneRequest(request.arrival_s, new_tokens, request.cached_tokens, ttft_s)

    def _let_go(self) -> None:
        for request_id in self._leaving:
            self._forget(request_id)
        self._leaving.clear()

    def _forget(self, request_id: str) -> None:
        request = self._here.pop(request_id, None)
        self._without_token.pop(request_id, None)
        if request is not None and request.alone is not None:
            request.alone.is_over = True
