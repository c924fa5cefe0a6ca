# SPDX-License-Identifier: Apache-2.0
"""KV blocks that no new offline request may take: online may want them soon, or those that run."""

from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus

from hygen_vllm import vllm_view as view
from hygen_vllm.config import HyGenConfig
from hygen_vllm.offline_lane.kv_forecast import KvForecast
from hygen_vllm.offline_lane.output_lengths import OutputLengths
from hygen_vllm.online_headroom import OnlineHeadroom

UPDATED_EVERY = 8
"""What is reserved changes with requests, not with steps."""
STAY_GAIN = 0.05
HORIZON_PER_STAY = 0.25
MOST_HEADROOM = 0.25
"""Share of all KV blocks; more would keep large offline requests out for ever."""
FINISHED_ITSELF = (RequestStatus.FINISHED_STOPPED, RequestStatus.FINISHED_LENGTH_CAPPED)


class KvReserve:
    """Kept up to date while offline requests are in a HyGenScheduler."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        config: HyGenConfig = scheduler.hygen_config
        quantile = None if config.gate_mode == "off" else config.headroom_quantile
        self._headroom = None if quantile is None else OnlineHeadroom(quantile)
        self._forecast = KvForecast((), (), 0.0, scheduler.block_size)
        self._is_stale = True
        self.output_lengths = OutputLengths()
        """Of the offline requests that finished."""
        self._started_s: dict[str, float] = {}
        """When running offline requests started, or went on after a preemption."""
        self._stay_s = 0.0
        """How long they stay, on average."""
        num_blocks: int = scheduler.kv_cache_manager.block_pool.num_gpu_blocks
        self._most_online_blocks = int(MOST_HEADROOM * num_blocks)
        self.online_blocks = 0
        """Headroom for online."""

    def start_step(self, num_online: int, now_s: float) -> None:
        """Look at the requests again if it is time; running ones of online come first."""
        is_due = self._scheduler.current_step % UPDATED_EVERY == 0
        if is_due and self._headroom is not None:
            running = self._scheduler.running[:num_online]
            held = view.tokens_held(running, self._scheduler.waiting.online)
            wanted = self._headroom.blocks(held / self._scheduler.block_size, now_s)
            self.online_blocks = min(wanted, self._most_online_blocks)
        if is_due or self._is_stale:
            self._foresee(self._scheduler.running[num_online:])

    def blocks_to_start(self, request: Request) -> float:
        """Return the free blocks with which an offline request may start.

        The first one may start wherever its prompt fits: it can crowd out no other.
        """
        blocks = view.blocks_to_admit(self._scheduler, request) + self.online_blocks
        if not self._forecast.num_running:
            return blocks
        return blocks + self._forecast.most_blocks(self.remaining_tokens(request))

    def remaining_tokens(self, request: Request) -> float:
        """Return how many tokens an offline request is expected to go on to make."""
        made = request.num_output_tokens
        return self.output_lengths.expected(request.max_tokens - made, made)

    def started(self, request: Request, now_s: float) -> None:
        """Note that an offline request started: it counts from the next step on."""
        self._is_stale = True
        self._started_s[request.request_id] = now_s

    def left(self, request: Request, now_s: float) -> None:
        """Note that an offline request finished or was aborted."""
        started_s = self._started_s.pop(request.request_id, None)
        if started_s is None or request.status not in FINISHED_ITSELF:
            return
        self.output_lengths.add(request.num_output_tokens)
        stay_s = now_s - started_s
        self._stay_s += (stay_s - self._stay_s) * (STAY_GAIN if self._stay_s else 1.0)
        if self._headroom is not None:
            self._headroom.horizon_s = HORIZON_PER_STAY * self._stay_s

    def _foresee(self, offline: list[Request]) -> None:
        scheduler = self._scheduler
        self._is_stale = False
        remaining, freed, prompt_blocks = [], [], 0
        for request in offline:
            remaining.append(self.remaining_tokens(request))
            freed.append(view.num_unshared(scheduler, request))
            if request.is_prefill_chunk:
                prompt_blocks += view.blocks_to_add(scheduler, request, request.num_tokens)
        self._forecast = KvForecast(remaining, freed, prompt_blocks, scheduler.block_size)
