# SPDX-License-Identifier: Apache-2.0
"""From token times to figures; pure.

TTFT runs from the arrival a trace asked for to the first token at the client. TBT is the gap
between two output tokens, a sample per token. tokens_per_s counts the work of finished and
unfinished requests alike: a prompt when its first token comes, an output token when it comes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

import numpy as np

from hygen_vllm.lab.demo.client import RequestLog
from hygen_vllm.lab.demo.workload import OFFLINE, ONLINE
from hygen_vllm.slo import LatencyStats


@dataclass(frozen=True)
class Window:
    """The measured part of a run, in seconds from its start; what lies outside is not counted."""

    start_s: float
    end_s: float

    @property
    def duration_s(self) -> float:
        """Length of the window."""
        return self.end_s - self.start_s

    def holds(self, time_s: float) -> bool:
        """True from start_s up to but not including end_s."""
        return self.start_s <= time_s < self.end_s


@dataclass(frozen=True)
class Latency(LatencyStats):
    """What a user feels, in seconds, and the number of samples."""

    samples: int


@dataclass(frozen=True)
class OfflineFigures:
    """The offline class under one policy; its requests queue for ever, so it has no latency."""

    finished: int
    tokens_per_s: float


@dataclass(frozen=True)
class OnlineFigures:
    """The online class under one policy.

    `arrived` counts requests that came in the window; `unserved` those of them that had no first
    token when the run ended: their wait until then stands in ttft_s, a lower bound.
    """

    arrived: int
    finished: int
    unserved: int
    tokens_per_s: float
    ttft_s: Latency
    tbt_s: Latency


@dataclass(frozen=True)
class SloResult:
    """An SLO and what was measured; `met` is None where the policy serves no online request."""

    slo: str
    limit_s: float
    measured_s: float | None
    met: bool | None


@dataclass(frozen=True)
class PolicyFigures:
    """A row of the demo's table."""

    policy: str
    online: OnlineFigures
    offline: OfflineFigures
    total_tokens_per_s: float
    slo: list[SloResult]


def measure_policy(
    policy: str, logs: list[RequestLog], window: Window, run_s: float, slo_tbt_p99_s: float
) -> PolicyFigures:
    """Return the figures of one run that lasted run_s, of which window counts."""
    online = measure_online([log for log in logs if log.slo_class == ONLINE], window, run_s)
    offline = measure_offline([log for log in logs if log.slo_class == OFFLINE], window)
    measured_s = online.tbt_s.p99
    slo = SloResult(
        slo=f"tbt_p99={slo_tbt_p99_s * 1e3:g}ms",
        limit_s=slo_tbt_p99_s,
        measured_s=measured_s,
        met=None if measured_s is None else measured_s <= slo_tbt_p99_s,
    )
    total_tokens_per_s = online.tokens_per_s + offline.tokens_per_s
    return PolicyFigures(policy, online, offline, total_tokens_per_s, [slo])


def measure_online(logs: list[RequestLog], window: Window, run_s: float) -> OnlineFigures:
    """Return the figures of the online requests."""
    arrived = [log for log in logs if window.holds(log.arrival_s)]
    return OnlineFigures(
        arrived=len(arrived),
        finished=_num_finished(logs, window),
        unserved=sum(not log.token_times_s for log in arrived),
        tokens_per_s=_tokens_per_s(logs, window),
        ttft_s=_latency([(log.token_times_s or [run_s])[0] - log.arrival_s for log in arrived]),
        tbt_s=_latency([gap_s for time_s, gap_s in token_gaps(logs) if window.holds(time_s)]),
    )


def measure_offline(logs: list[RequestLog], window: Window) -> OfflineFigures:
    """Return the figures of the offline requests."""
    return OfflineFigures(_num_finished(logs, window), _tokens_per_s(logs, window))


def _num_finished(logs: list[RequestLog], window: Window) -> int:
    return sum(log.is_finished and window.holds(log.token_times_s[-1]) for log in logs)


def _tokens_per_s(logs: list[RequestLog], window: Window) -> float:
    num_tokens = sum(tokens for time_s, tokens in work_done(logs) if window.holds(time_s))
    return num_tokens / window.duration_s


def work_done(logs: Iterable[RequestLog]) -> Iterator[tuple[float, int]]:
    """Yield (time_s, tokens) for each prompt and each output token, in no order."""
    for log in logs:
        for number, time_s in enumerate(log.token_times_s):
            yield time_s, 1 if number else 1 + log.prompt_tokens


def token_gaps(logs: Iterable[RequestLog]) -> Iterator[tuple[float, float]]:
    """Yield (time_s, gap_s) for each output token after a request's first."""
    for log in logs:
        for earlier_s, time_s in zip(log.token_times_s, log.token_times_s[1:], strict=False):
            yield time_s, time_s - earlier_s


def throughput_over_time(
    logs: Iterable[RequestLog], window: Window, bin_s: float
) -> list[tuple[float, float]]:
    """Return (middle of the bin in s, tokens/s) for each whole bin of the window."""
    num_bins = int(window.duration_s / bin_s + 1e-9)
    tokens = np.zeros(num_bins)
    for time_s, num_tokens in work_done(logs):
        index = int((time_s - window.start_s) // bin_s)
        if 0 <= index < num_bins:
            tokens[index] += num_tokens
    return [((index + 0.5) * bin_s, float(value / bin_s)) for index, value in enumerate(tokens)]


def _latency(samples_s: list[float]) -> Latency:
    return Latency(**asdict(LatencyStats.of(samples_s)), samples=len(samples_s))
