# SPDX-License-Identifier: Apache-2.0
"""What serving a workload for a while under one budget finds. Pure."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from hygen_vllm.slo import LatencyStats, Slo

Progress = Callable[[float], None]
"""Called with the share of a probe that is done."""


@dataclass(frozen=True)
class Served:
    """Figures of one probe.

    Args:
        stats: of the online requests, by metric; None in them where nobody got a token.
        num_unserved: online requests without a token.
    """

    stats: Mapping[str, LatencyStats]
    num_unserved: int
    online_tokens_per_s: float
    offline_tokens_per_s: float

    def ratio(self, slos: Sequence[Slo], alone: Mapping[str, LatencyStats]) -> float:
        """Return the largest measured / limit; infinite where something was not measured."""
        return max(self.ratio_of(slo, alone) for slo in slos)

    def ratio_of(self, slo: Slo, alone: Mapping[str, LatencyStats]) -> float:
        """Return measured / limit of one target.

        Raises: ValueError if the online load alone has no latency, or 0 s, that the target is
            relative to.
        """
        if not slo.resolved_s(alone.get(slo.metric)):
            raise ValueError(f"no {slo.metric.upper()} was measured for {slo}: probe longer")
        ratio = slo.of_limit(self.stats, alone)
        return math.inf if ratio is None else ratio


class Server(Protocol):
    """Serves the workload again and again."""

    @property
    def description(self) -> str:
        """Return what serves what, in a line."""

    def serve(self, latency_budget_s: float | None, repeat: int, progress: Progress) -> Served:
        """Serve it under a fixed budget; None: the online requests alone.

        Args: repeat: probes of one budget differ in it where they can.
        """

    def close(self) -> None:
        """End whatever serves."""
