# SPDX-License-Identifier: Apache-2.0
"""How many KV blocks have to be free for an offline request to start.

Its own, and those that running offline requests will grow into before some of them end.
"""

from vllm.v1.request import Request, RequestStatus

from hygen_vllm.engine.requests import Follower
from hygen_vllm.engine.state import EngineState
from hygen_vllm.kv.forecast import KvForecast
from hygen_vllm.kv.output_lengths import OutputLengths

UPDATED_EVERY = 8
"""Steps for which the forecast is good, unless an offline request starts."""
FINISHED_ITSELF = (RequestStatus.FINISHED_STOPPED, RequestStatus.FINISHED_LENGTH_CAPPED)


class KvReserve(Follower):
    """Kept up to date while offline requests are in an engine."""

    def __init__(self, state: EngineState) -> None:
        self._state = state
        self._forecast: KvForecast | None = None
        """None until it is asked for."""
        self._offline: list[Request] = []
        """Those that ran at the last look."""
        self._is_stale = True
        self._started: set[str] = set()
        """Offline requests that have run and are not finished."""
        self.output_lengths = OutputLengths()
        """Of the offline requests that finished."""

    def start_step(self, num_online: int) -> None:
        """Look at the offline requests again if it is time.

        Args: num_online: running online requests, the first of those that run.
        """
        if self._is_stale or self._state.step_number % UPDATED_EVERY == 0:
            self._offline = self._state.running[num_online:]
            self._forecast = None
            self._is_stale = False

    def blocks_to_start(self, request: Request) -> float:
        """Return the free blocks with which an offline request may start.

        The first one may start wherever its prompt fits: it can crowd out no other.
        """
        blocks = self.blocks_to_start_alone(request)
        if not self.num_running:
            return blocks
        if self._forecast is None:
            self._forecast = self._foresee()
        return blocks + self._forecast.most_blocks(self.remaining_tokens(request))

    def blocks_to_start_alone(self, request: Request) -> int:
        """Return the free blocks with which vLLM would admit it."""
        is_busy = bool(self._state.running)
        return self._state.blocks_to_admit(request) + self._state.watermark(is_busy)

    @property
    def num_running(self) -> int:
        """Offline requests that ran at the last look."""
        return len(self._offline)

    def remaining_tokens(self, request: Request) -> float:
        """Return how many tokens an offline request is expected to go on to make."""
        made = request.num_output_tokens
        return self.output_lengths.expected(request.max_tokens - made, made)

    def started(self, request: Request, is_offline: bool, computed_tokens: int) -> None:  # noqa: ARG002
        if is_offline:
            self._is_stale = True  # it counts from the next step on
            self._started.add(request.request_id)

    def left(self, request: Request, is_offline: bool) -> None:
        if not is_offline or request.request_id not in self._started:
            return
        self._started.remove(request.request_id)
        self._is_stale = True
        if request.status in FINISHED_ITSELF:
            self.output_lengths.add(request.num_output_tokens)

    def _foresee(self) -> KvForecast:
        state = self._state
        remaining, freed, prompt_blocks = [], [], 0
        for request in self._offline:
            if request.status is not RequestStatus.RUNNING:
                continue
            remaining.append(self.remaining_tokens(request))
            freed.append(state.num_unshared(request))
            if request.is_prefill_chunk:
                prompt_blocks += state.blocks_to_add(request, request.num_tokens)
        return KvForecast(remaining, freed, prompt_blocks, state.tokens_per_block)
