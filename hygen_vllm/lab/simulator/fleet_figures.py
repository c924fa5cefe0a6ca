# SPDX-License-Identifier: Apache-2.0
"""The result of a simulated fleet: that of one engine, over all of them, and of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hygen_vllm.lab.simulator.figures import Latencies, figures_by_class, hit_rate, tokens_per_s
from hygen_vllm.lab.simulator.run_log import RequestRecord
from hygen_vllm.lab.simulator.simulation import Run


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
        latencies = self.latencies()
        rates = [tokens_per_s(run) for run in self.runs]
        total = sum(online for online, _ in rates), sum(offline for _, offline in rates)
        return {
            "policy": first.policy.name,
            "profile": profile,
            "seed": seed,
            "replicas": len(self.runs),
            "router": self.router,
            "virtual_s": first.virtual_s,
            "wall_s": first.wall_s,
            "steps": sum(run.log.num_steps for run in self.runs),
            **figures_by_class(records, latencies, total),
            "total_tokens_per_s": sum(total),
            "slo": slos,
            "per_replica": [
                figures_by_class([*run.log.records.values()], Latencies.of(run), rate)
                for run, rate in zip(self.runs, rates, strict=True)
            ],
            "details": {
                "kind": "simulated fleet",
                **details,
                "unserved": latencies.num_unserved,
                "online_prefix_hit_rate": hit_rate(
                    [record for record in records if not record.is_offline]
                ),
                "recomputed_tokens": sum(r.recomputed_tokens for r in records if r.is_offline),
            },
        }
