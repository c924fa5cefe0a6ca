# SPDX-License-Identifier: Apache-2.0
"""The result of a simulated fleet: that of one engine, over all of them, and of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hygen_vllm.simulator.figures import (
    Latencies,
    figures_of_class,
    hit_rate,
    num_finished,
    shown,
    tokens_per_s,
)
from hygen_vllm.simulator.run_log import RequestRecord
from hygen_vllm.simulator.simulation import Run


@dataclass(frozen=True)
class FleetRuns:
    """The runs of the engines of a fleet, all of one time.

    Args: router: which sent the requests.
    """

    runs: Sequence[Run]
    router: str

    def latencies(self) -> Latencies:
        """Return what online requests saw, whichever engine they came to."""
        online = [record for record in self.records() if not record.is_offline]
        times = ((r.arrival.time_s, r.token_times_s) for r in online)
        return Latencies.of_times(times, self.runs[0].virtual_s)

    def records(self) -> list[RequestRecord]:
        """Return all requests that came to an engine."""
        return [record for run in self.runs for record in run.log.records.values()]

    def result(
        self, profile: str, seed: int, slos: list[dict[str, Any]], details: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the result, like that of one engine."""
        first = self.runs[0]
        records = self.records()
        online = [r for r in records if not r.is_offline]
        offline = [r for r in records if r.is_offline]
        latencies = self.latencies()
        stats = latencies.stats()
        rates = [tokens_per_s(run) for run in self.runs]
        online_rate, offline_rate = (sum(rate[i] for rate in rates) for i in (0, 1))
        return {
            "policy": first.policy.name,
            "profile": profile,
            "seed": seed,
            "replicas": len(self.runs),
            "router": self.router,
            "virtual_s": first.virtual_s,
            "wall_s": first.wall_s,
            "steps": sum(run.log.num_steps for run in self.runs),
            "online": {
                "finished": num_finished(online),
                "tokens_per_s": online_rate,
                "ttft_s": shown(stats["ttft"]),
                "tbt_s": shown(stats["tbt"]),
            },
            "offline": {
                "finished": num_finished(offline),
                "tokens_per_s": offline_rate,
                "prefix_hit_rate": hit_rate(offline),
                "preemptions": sum(record.num_preemptions for record in offline),
            },
            "total_tokens_per_s": online_rate + offline_rate,
            "slo": slos,
            "per_replica": [figures_of_class(run) for run in self.runs],
            "details": {
                "kind": "simulated fleet",
                **details,
                "unserved": latencies.num_unserved,
                "online_prefix_hit_rate": hit_rate(online),
                "recomputed_tokens": sum(record.recomputed_tokens for record in offline),
            },
        }
