# SPDX-License-Identifier: Apache-2.0
"""Serves a tuning workload on a real engine, in real time and in this process.

The engine core is driven as vLLM's own busy loop does: requests that came while a step ran are
added after it. TTFT runs from the time at which the workload has a request to its first token. Of
the offline requests a limited number is in the engine at a time, as many as keep it busy.
"""

import gc
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm.engine.arg_utils import EngineArgs
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.core import EngineCore
from vllm.v1.executor import Executor
from vllm.v1.request import Request, RequestStatus

from hygen_vllm.lab.simulator.figures import Latencies
from hygen_vllm.lab.simulator.simulation import OFFLINE, ONLINE, Requests
from hygen_vllm.lab.tune.served import Progress, Served
from hygen_vllm.lab.workloads.arrivals import Arrival
from hygen_vllm.step.gate import LatencyGate

IDLE_SLEEP_S = 1e-3
BACKLOG_PER_SLOT = 2
"""Offline requests in the engine, in requests that it can run at a time."""


@dataclass
class _Record:
    """A request that is served; seconds count from the start of the probe."""

    arrival: Arrival
    is_offline: bool
    token_times_s: list[float] = field(default_factory=list)


_Made = tuple[_Record, Request]


class EngineServer:
    """A real engine with HyGenScheduler. Close it to end its workers.

    Args:
        engine_args: vLLM's EngineArgs, as the engine is served with.
        find_requests: returns the workload of a repeat.
        seconds: how long a probe lasts.
    """

    def __init__(
        self, engine_args: EngineArgs, find_requests: Callable[[int], Requests], seconds: float
    ) -> None:
        engine_args.scheduler_cls = "hygen_vllm.HyGenScheduler"
        settings = {"hygen": {"mode": "off"}}  # until a probe sets a gate
        engine_args.additional_config = {**(engine_args.additional_config or {}), **settings}
        engine_args.disable_log_stats = True
        config = engine_args.create_engine_config()
        self._core = EngineCore(config, Executor.get_class(config), log_stats=False)
        self._model = config.model_config.model
        self._find_requests = find_requests
        self._max_model_len = config.model_config.max_model_len
        self._vocabulary = config.model_config.get_vocab_size()
        self._seconds = seconds
        self._num_offline = 0
        """Offline requests in the engine."""

    @property
    def description(self) -> str:
        return f"{self._model}, requests up to {self._max_model_len} tokens"

    @property
    def scheduler(self) -> Any:
        """The scheduler of the engine, a HyGenScheduler unless another one was chosen."""
        return self._core.scheduler

    def serve(self, latency_budget_s: float | None, repeat: int, progress: Progress) -> Served:
        """Serve the workload of a repeat; see Server."""
        requests = self._find_requests(repeat)
        if latency_budget_s is None:
            requests = Requests(requests.online, [])
        else:
            self.scheduler.hygen.gate = LatencyGate("fixed", latency_budget_s)
        return self.serve_requests(requests, progress)

    def serve_requests(self, requests: Requests, progress: Progress) -> Served:
        """Serve requests under the gate that is set, from an empty prefix cache."""
        requests, _ = requests.fitted(self._max_model_len)
        self._core.reset_prefix_cache()
        return _served(self._run(requests, progress), self._seconds)

    def use_scheduler(self, scheduler_cls: str | None, policy: str = "fcfs") -> None:
        """Give the idle engine a new scheduler.

        Args:
            scheduler_cls: as of vLLM's EngineArgs; None for vLLM's own.
            policy: vLLM's, `fcfs` or `priority`, in which offline requests have priority 1.
        """
        self._core.vllm_config.scheduler_config.scheduler_cls = scheduler_cls
        self._core.vllm_config.scheduler_config.policy = policy
        renew_scheduler(self._core)

    def close(self) -> None:
        """End the engine and its workers."""
        self._core.shutdown()

    def _run(self, requests: Requests, progress: Progress) -> list[_Record]:
        """Serve requests until the time is over, then end those that are left."""
        core, scheduler = self._core, self.scheduler
        records: dict[str, _Record] = {}
        coming = _Coming(
            self._made(ONLINE, requests.online),
            self._made(OFFLINE, requests.offline),
            BACKLOG_PER_SLOT * scheduler.max_num_running_reqs,
        )
        self._num_offline = 0
        gc.collect()
        gc.freeze()  # as vLLM does before its own loop: a collection takes as long as many steps
        started_s = time.monotonic()
        while (now_s := time.monotonic() - started_s) < self._seconds:
            for record, request in coming.until(now_s, self._num_offline):
                records[request.request_id] = record
                self._num_offline += record.is_offline
                request.arrival_time = time.time() - (now_s - record.arrival.time_s)
                scheduler.add_request(request)
            if scheduler.has_requests() or core.batch_queue:
                self._step(records, started_s)
            else:
                time.sleep(IDLE_SLEEP_S)
            progress(now_s / self._seconds)
        gc.unfreeze()
        left = [request_id for request_id in records if request_id in scheduler.requests]
        scheduler.finish_requests(left, RequestStatus.FINISHED_ABORTED)
        while scheduler.has_requests() or core.batch_queue:
            core.step_fn()
        return list(records.values())

    def _made(self, slo_class: str, arrivals: Sequence[Arrival]) -> Iterator[_Made]:
        """Yield the requests of a class in order of time, each made when it is asked for."""
        for number, arrival in enumerate(sorted(arrivals, key=lambda item: item.time_s)):
            request = self._request(f"{slo_class}-{number}", slo_class, number, arrival)
            yield _Record(arrival, slo_class == OFFLINE), request

    def _step(self, records: dict[str, _Record], started_s: float) -> None:
        outputs, was_executed = self._core.step_fn()
        self._core.post_step(was_executed)
        now_s = time.monotonic() - started_s
        for of_client in (outputs or {}).values():
            for output in of_client.outputs:
                record = records[output.request_id]
                record.token_times_s.extend([now_s] * len(output.new_token_ids))
                self._num_offline -= record.is_offline and output.finished

    def _request(self, request_id: str, slo_class: str, number: int, arrival: Arrival) -> Request:
        is_offline = slo_class == OFFLINE
        return Request(
            request_id=request_id,
            prompt_token_ids=arrival.token_ids(2 * number + is_offline, self._vocabulary),
            sampling_params=SamplingParams(
                temperature=0.0,
                max_tokens=arrival.output_tokens,
                ignore_eos=True,
                extra_args={"slo_class": slo_class},
            ),
            pooling_params=None,
            priority=int(is_offline),
            block_hasher=self._core.request_block_hasher,
        )


def renew_scheduler(core: Any) -> None:
    """Give an idle EngineCore a new scheduler, of the class that its configuration now names."""
    config, old = core.vllm_config, core.scheduler
    core.scheduler = config.scheduler_config.get_scheduler_cls()(
        vllm_config=config,
        kv_cache_config=old.kv_cache_config,
        structured_output_manager=core.structured_output_manager,
        include_finished_set=False,
        log_stats=old.log_stats,
        block_size=old.block_size,
        hash_block_size=old.hash_block_size,
    )


class _Coming:
    """The requests of a run that are not in the engine yet.

    Args: backlog: offline requests that are in the engine at a time.
    """

    def __init__(self, online: Iterator[_Made], offline: Iterator[_Made], backlog: int) -> None:
        # made before the time begins: in vLLM that is other threads' work
        self._online = deque(online)
        self._offline = deque(itertools.islice(offline, backlog))
        self._later_offline = offline
        self._backlog = backlog

    def until(self, now_s: float, num_offline: int) -> Iterator[_Made]:
        """Yield what comes now, given how many offline requests are in the engine."""
        while self._online and self._online[0][0].arrival.time_s <= now_s:
            yield self._online.popleft()
        for _ in range(self._backlog - num_offline):
            if not self._offline:
                self._offline.extend(itertools.islice(self._later_offline, 1))
            if not self._offline or self._offline[0][0].arrival.time_s > now_s:
                return
            yield self._offline.popleft()


def _served(records: Sequence[_Record], seconds: float) -> Served:
    online = [record for record in records if not record.is_offline]
    latencies = Latencies.of_times(((r.arrival.time_s, r.token_times_s) for r in online), seconds)
    tokens = [0.0, 0.0]
    for record in records:
        if record.token_times_s:
            num_tokens = record.arrival.prompt_tokens + len(record.token_times_s)
            tokens[record.is_offline] += num_tokens / seconds
    return Served(latencies.stats(), latencies.num_unserved, *tokens)
