# SPDX-License-Identifier: Apache-2.0
"""Serves a tuning workload in the simulator; repeats draw other requests."""

from dataclasses import replace
from functools import cache
from typing import Any

from hygen_vllm.lab.policies import find_policy
from hygen_vllm.lab.simulator.figures import Latencies, tokens_per_s
from hygen_vllm.lab.simulator.options import SimulateOptions, load_engine, load_workloads
from hygen_vllm.lab.simulator.simulation import Requests, simulate
from hygen_vllm.lab.tune.served import Progress, Served


class SimulatedServer:
    """Serves in virtual time.

    Args: options: of `hygen simulate`; policy and budget are not looked at.
    """

    def __init__(self, options: SimulateOptions) -> None:
        self._options = options
        self._engine = load_engine(options)
        self._requests = cache(lambda repeat: find_requests(options, repeat))

    @property
    def description(self) -> str:
        options = self._options
        return f"{options.profile}, simulated: {options.online} and {options.offline}"

    def serve(self, latency_budget_s: float | None, repeat: int, progress: Progress) -> Served:
        """Serve the workload of a repeat; see Server."""
        requests, _ = self._requests(repeat).fitted(self._engine.info.max_model_len)
        name, settings = "online-only", {}
        if latency_budget_s is None:
            requests = Requests(requests.online, [])
        else:
            name, settings = "fixed-budget", _settings(latency_budget_s)
        until_s = self._options.until_s
        run = simulate(
            self._engine,
            find_policy(name),
            settings,
            requests,
            seed=self._options.seed + repeat,
            until_s=until_s,
            progress=lambda now_s: progress(now_s / until_s),
        )
        latencies = Latencies.of(run)
        online, offline = tokens_per_s(run)
        return Served(latencies.stats(), latencies.num_unserved, online, offline)

    def close(self) -> None:
        """Nothing is left running."""


def _settings(latency_budget_s: float) -> dict[str, Any]:
    return {"mode": "fixed", "latency_budget_s": latency_budget_s}


def find_requests(options: SimulateOptions, repeat: int) -> Requests:
    """Return the workload of a repeat."""
    options = replace(options, seed=options.seed + repeat)
    online, offline = load_workloads(options, find_policy("fixed-budget"))
    return Requests(online.requests, offline.requests)
