# SPDX-License-Identifier: Apache-2.0
"""Serves a tuning workload on a real engine, in real time and in this process.

The engine core is driven as vLLM's own busy loop does: requests that came while a step ran are
added after it. TTFT runs from the time at which the workload has a request to its first token.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm.engine.arg_utils import EngineArgs
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.core import EngineCore
from vllm.v1.executor import Executor
from vllm.v1.request import Request, RequestStatus

from hygen_vllm.simulator.figures import Latencies
from hygen_vllm.simulator.simulation import OFFLINE, Requests
from hygen_vllm.step_plan import LatencyGate
from hygen_vllm.tuner.served import Progress, Served
from hygen_vllm.workloads.arrivals import Arrival

IDLE_SLEEP_S = 1e-3


@dataclass
class _Record:
    """A request that is served; seconds count from the start of the probe."""

    arrival: Arrival
    is_offline: bool
    token_times_s: list[float] = field(default_factory=list)


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
        engine_args.additional_config = {**(engine_args.additional_config or {}), "hygen": {}}
        engine_args.disable_log_stats = True
        config = engine_args.create_engine_config()
        self._core = EngineCore(config, Executor.get_class(config), log_stats=False)
        self._model = config.model_config.model
        self._find_requests = find_requests
        self._max_model_len = config.model_config.max_model_len
        self._vocabulary = config.model_config.get_vocab_size()
        self._seconds = seconds

    @property
    def description(self) -> str:
        return f"{self._model}, requests up to {self._max_model_len} tokens"

    def serve(self, latency_budget_s: float | None, repeat: int, progress: Progress) -> Served:
        """Serve the workload of a repeat; see Server."""
        scheduler: Any = self._core.scheduler
        requests, _ = self._find_requests(repeat).fitted(self._max_model_len)
        if latency_budget_s is None:
            requests = Requests(requests.online, [])
        else:
            scheduler.gate = LatencyGate("fixed", latency_budget_s, 0.0, 0.0)
        self._core.reset_prefix_cache()
        records = self._run(requests, progress)
        return _served(records, self._seconds)

    def close(self) -> None:
        """End the engine and its workers."""
        self._core.shutdown()

    def _run(self, requests: Requests, progress: Progress) -> list[_Record]:
        """Serve requests until the time is over, then end those that are left."""
        core = self._core
        scheduler: Any = core.scheduler
        records: dict[str, _Record] = {}
        coming = requests.in_order()
        following = next(coming, None)
        started_s = time.monotonic()
        while (now_s := time.monotonic() - started_s) < self._seconds:
            while following is not None and following[2].time_s <= now_s:
                slo_class, number, arrival = following
                request_id = f"{slo_class}-{number}"
                records[request_id] = _Record(arrival, slo_class == OFFLINE)
                scheduler.add_request(self._request(request_id, slo_class, number, arrival))
                following = next(coming, None)
            if scheduler.has_requests() or core.batch_queue:
                self._step(records, started_s)
            else:
                time.sleep(IDLE_SLEEP_S)
            progress(now_s / self._seconds)
        left = [request_id for request_id in records if request_id in scheduler.requests]
        scheduler.finish_requests(left, RequestStatus.FINISHED_ABORTED)
        while scheduler.has_requests() or core.batch_queue:
            core.step_fn()
        return list(records.values())

    def _step(self, records: dict[str, _Record], started_s: float) -> None:
        outputs, was_executed = self._core.step_fn()
        self._core.post_step(was_executed)
        now_s = time.monotonic() - started_s
        for of_client in (outputs or {}).values():
            for output in of_client.outputs:
                times_s = records[output.request_id].token_times_s
                times_s.extend([now_s] * len(output.new_token_ids))

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
            block_hasher=self._core.request_block_hasher,
        )


def _served(records: Sequence[_Record], seconds: float) -> Served:
    online = [record for record in records if not record.is_offline]
    latencies = Latencies.of_times(((r.arrival.time_s, r.token_times_s) for r in online), seconds)
    tokens = [0.0, 0.0]
    for record in records:
        if record.token_times_s:
            num_tokens = record.arrival.prompt_tokens + len(record.token_times_s)
            tokens[record.is_offline] += num_tokens / seconds
    return Served(latencies.stats(), latencies.num_unserved, *tokens)
