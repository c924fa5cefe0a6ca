# SPDX-License-Identifier: Apache-2.0
"""KV blocks that no new offline request may take: online may want them soon, or those that run.

Headroom for online costs offline nothing while it lacks something else than blocks. So the quantile
that it is to be enough for is the configured one only where offline lacks blocks alone, and rises
to the most that online wanted lately where it waits for time, or for nothing. And it takes a
smaller share of all blocks at most where they are what offline lacks.
"""

from collections.abc import Callable, Collection

from vllm.v1.core.sched.request_queue import RequestQueue
from vllm.v1.request import Request, RequestStatus

from hygen_vllm.config import HyGenConfig
from hygen_vllm.engine.requests import Follower
from hygen_vllm.engine.state import EngineState, tokens_waiting
from hygen_vllm.kv.forecast import KvForecast
from hygen_vllm.kv.headroom import OnlineHeadroom
from hygen_vllm.kv.output_lengths import OutputLengths
from hygen_vllm.step.grant import Refusal

UPDATED_EVERY = 8
"""What is reserved changes with requests, not with steps."""
STAY_GAIN = 0.05
MOST_HEADROOM, MOST_WHERE_SHORT = 0.4, 0.15
"""Shares of all KV blocks; the second where each block kept free is one that offline lacks."""
SHORTAGE_GAIN = 0.003
SHORTAGE = 0.25
"""Offline lacks blocks if it lacks nothing else in so many of the steps."""
FINISHED_ITSELF = (RequestStatus.FINISHED_STOPPED, RequestStatus.FINISHED_LENGTH_CAPPED)


class KvReserve(Follower):
    """Kept up to date while offline requests are in an engine."""

    def __init__(self, state: EngineState, config: HyGenConfig, clock: Callable[[], float]) -> None:
        self._state = state
        self._clock = clock
        is_off = config.gate_mode == "off" or config.headroom_quantile is None
        self._quantile: float = config.headroom_quantile or 1.0
        self._headroom = None if is_off else OnlineHeadroom(self._quantile)
        self._forecast = KvForecast((), (), 0.0, state.block_size)
        self._shortage = 1.0
        """Share of recent steps in which offline lacked blocks and nothing else."""
        self._given_back = 0
        """Blocks that offline requests freed at their ends, in all."""
        self._is_stale = True
        self.output_lengths = OutputLengths()
        """Of the offline requests that finished."""
        self._started_s: dict[str, float] = {}
        """When running offline requests started, or went on after a preemption."""
        self._stay_s = 0.0
        """How long they stay, on average."""
        self.online_blocks = 0
        """Headroom for online."""

    def start_step(self, num_online: int, waiting: RequestQueue, now_s: float) -> None:
        """Look at the requests again if it is time.

        Args:
            num_online: running online requests, the first of those that run.
            waiting: online requests.
        """
        is_due = self._state.step_number % UPDATED_EVERY == 0
        if is_due and self._headroom is not None:
            # about what their blocks hold, or will hold
            held = sum(request.num_tokens for request in self._state.running[:num_online])
            held += tokens_waiting(waiting)
            tightness = min(1.0, self._shortage / SHORTAGE)
            self._headroom.quantile = 1.0 - (1.0 - self._quantile) * tightness
            held_blocks = min(float(self._state.num_blocks), held / self._state.block_size)
            wanted = self._headroom.blocks(held_blocks, self._given_back, now_s)
            most = MOST_HEADROOM - tightness * (MOST_HEADROOM - MOST_WHERE_SHORT)
            self.online_blocks = min(wanted, int(most * self._state.num_blocks))
        if is_due or self._is_stale:
            self._foresee(self._state.running[num_online:])

    def step_ended(self, refused: Collection[Refusal]) -> None:
        """Note what offline requests were refused for in a step."""
        lacks_time = Refusal.LATENCY in refused or Refusal.PRICE in refused
        lacks_blocks = Refusal.BLOCKS in refused and not lacks_time
        self._shortage += SHORTAGE_GAIN * (lacks_blocks - self._shortage)

    def blocks_to_start(self, request: Request) -> float:
        """Return the free blocks with which an offline request may start.

        The first one may start wherever its prompt fits: it can crowd out no other. Nor has it to
        leave headroom if it takes half of all blocks, or it might never start.
        """
        if not self.num_running:
            return self.blocks_to_start_alone(request)
        blocks = self._blocks_to_admit(request)
        growth = self._forecast.most_blocks(self.remaining_tokens(request))
        return blocks + self.online_blocks + growth

    def blocks_to_start_alone(self, request: Request) -> float:
        """Return the free blocks with which it may start where no other offline one runs."""
        blocks = self._blocks_to_admit(request)
        return blocks + max(0, min(self.online_blocks, self._state.num_blocks - 2 * blocks))

    def _blocks_to_admit(self, request: Request) -> int:
        """Return the free blocks with which vLLM admits it."""
        is_busy = bool(self._state.running)
        return self._state.blocks_to_admit(request) + self._state.watermark(is_busy)

    @property
    def num_running(self) -> int:
        """Offline requests that ran when it was last looked."""
        return self._forecast.num_running

    def remaining_tokens(self, request: Request) -> float:
        """Return how many tokens an offline request is expected to go on to make."""
        made = request.num_output_tokens
        return self.output_lengths.expected(request.max_tokens - made, made)

    def started(self, request: Request, is_offline: bool, computed_tokens: int) -> None:  # noqa: ARG002
        if is_offline:
            self._is_stale = True  # it counts from the next step on
            self._started_s[request.request_id] = self._clock()

    def left(self, request: Request, is_offline: bool) -> None:
        if not is_offline:
            return
        self._given_back += self._state.num_unshared(request)
        started_s = self._started_s.pop(request.request_id, None)
        if started_s is None or request.status not in FINISHED_ITSELF:
            return
        self.output_lengths.add(request.num_output_tokens)
        stay_s = self._clock() - started_s
        self._stay_s += (stay_s - self._stay_s) * (STAY_GAIN if self._stay_s else 1.0)
        if self._headroom is not None:  # later than that, all that runs now has given back its own
            self._headroom.horizon_s = self._stay_s

    def _foresee(self, offline: list[Request]) -> None:
        state = self._state
        self._is_stale = False
        remaining, freed, prompt_blocks = [], [], 0
        for request in offline:
            remaining.append(self.remaining_tokens(request))
            freed.append(state.num_unshared(request))
            if request.is_prefill_chunk:
                prompt_blocks += state.blocks_to_add(request, request.num_tokens)
        self._forecast = KvForecast(remaining, freed, prompt_blocks, state.block_size)
