# SPDX-License-Identifier: Apache-2.0
"""The result of a simulated run, as the JSON object that `hygen simulate` writes.

TTFT runs from a request's arrival to its first token, TBT is the gap between two output tokens of a
request, one sample a token. The wait of an online request that has no token when the run ends
counts as its TTFT: a lower bound. tokens_per_s counts prompt and output tokens of work done inside
the run, of finished and unfinished requests alike, each token once.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hygen_vllm.lab.report.result_file import FORMAT, VERSION
from hygen_vllm.lab.simulator.run_log import STEP_COLUMNS, RequestRecord, Sample
from hygen_vllm.lab.simulator.simulation import Run
from hygen_vllm.slo import LatencyStats, Slo

NUM_BINS = 240
WINDOW_S = 900.0
WINDOWS_PER_LENGTH = 15
WINDOW_SLACK = 0.02
"""A window is kept if the statistic is at most by this share beyond its limit."""
LEAST_SAMPLES, LEAST_BEYOND = 30, 3
"""Samples of a window that say something, in all and beyond a percentile."""
SHOWN = ("mean", "p50", "p90", "p99")
QUANTILE_LEVELS = (
    *(i / 100 for i in range(100)),
    *(0.991, 0.992, 0.993, 0.994, 0.995, 0.996, 0.997, 0.998, 0.999, 0.9995, 0.9999, 1.0),
)


@dataclass(frozen=True)
class Latencies:
    """The latencies that online requests saw, seconds, float64 (num_samples,).

    Args:
        num_unserved: online requests without a token.
        ttft_at_s: when each request of `ttft_s` arrived.
        tbt_at_s: when the gap of each of `tbt_s` ended.
    """

    ttft_s: Any
    tbt_s: Any
    num_unserved: int
    ttft_at_s: Any
    tbt_at_s: Any

    @classmethod
    def of(cls, run: Run, from_s: float = 0.0) -> "Latencies":
        """Return those of a run, of what began before `from_s` none."""
        online = [record for record in run.log.records.values() if not record.is_offline]
        times = ((record.arrival.time_s, record.token_times_s) for record in online)
        return cls.of_times(times, run.virtual_s, from_s)

    @classmethod
    def of_times(
        cls,
        requests: Iterable[tuple[float, Sequence[float]]],
        end_s: float,
        from_s: float = 0.0,
    ) -> "Latencies":
        """Return those of requests, given the arrival and the times of the tokens of each.

        Args: from_s: waits and gaps that began before do not count.
        """
        requests = list(requests)
        late = [(arrival_s, times_s) for arrival_s, times_s in requests if arrival_s >= from_s]
        first_s = [(times_s or [end_s])[0] - arrival_s for arrival_s, times_s in late]
        later = [np.array(times_s[bisect_left(times_s, from_s) :]) for _, times_s in requests]
        return cls(
            np.array(first_s),
            np.concatenate([np.empty(0), *map(np.diff, later)]),
            sum(not times_s for _, times_s in late),
            np.array([arrival_s for arrival_s, _ in late]),
            np.concatenate([np.empty(0), *(times_s[1:] for times_s in later)]),
        )

    def of_metric(self, metric: str) -> tuple[Any, Any]:
        """Return the times of the samples of `ttft` or `tbt`, and these."""
        if metric == "ttft":
            return self.ttft_at_s, self.ttft_s
        return self.tbt_at_s, self.tbt_s

    def stats(self) -> dict[str, LatencyStats]:
        """Return the statistics by metric."""
        return {"ttft": LatencyStats.of(self.ttft_s), "tbt": LatencyStats.of(self.tbt_s)}


def slo_results(
    slos: Sequence[Slo],
    served: Latencies,
    alone: Latencies | None,
    end_s: float,
    window_s: float = WINDOW_S,
) -> list[dict[str, Any]]:
    """Return each SLO with its limit and what was measured; None where there is nothing.

    Where no TBT is known for want of tokens, its SLO is not met.

    Args:
        served: what online requests saw until `end_s`.
        alone: what the same requests see when they are served alone; None if it is not known.
        window_s: see `windows_of`.
    """
    stats = served.stats()
    base = {} if alone is None else alone.stats()
    rows = []
    for slo in slos:
        limit_s = slo.resolved_s(base.get(slo.metric))
        measured_s = getattr(stats[slo.metric], slo.statistic)
        met = None
        if limit_s is not None and measured_s is not None:
            met = measured_s <= limit_s
        elif limit_s is not None and served.num_unserved:
            met = False
        row = {"slo": str(slo), "limit_s": limit_s, "measured_s": measured_s, "met": met}
        rows.append({**row, "windows": windows_of(slo, served, alone, end_s, window_s)})
    return rows


def windows_of(
    slo: Slo, served: Latencies, alone: Latencies | None, end_s: float, length_s: float = WINDOW_S
) -> dict[str, Any]:
    """Return in how many sliding windows an SLO was kept.

    They begin every fifteenth of their length. A relative limit is that of the same window of
    `alone`. A TTFT belongs to the time at which its request arrived, a gap to that at which it
    ended. Windows with too few samples to say are left out.

    Returns: {"length_s", "count", "kept", "worst_of_limit"}: windows that were looked at, those in
        which measured / limit is at most 1 + WINDOW_SLACK, and the largest of these ratios.
    """
    return windows_kept(ratios_of(slo, served, alone, end_s, length_s), length_s)


def windows_kept(
    ratios: Sequence[tuple[float, float]], length_s: float = WINDOW_S
) -> dict[str, Any]:
    """Return what `windows_of` does, given the `ratios_of` its windows."""
    of_limit = [ratio for _, ratio in ratios]
    return {
        "length_s": length_s,
        "count": len(of_limit),
        "kept": sum(ratio <= 1.0 + WINDOW_SLACK for ratio in of_limit),
        "worst_of_limit": max(of_limit, default=None),
    }


def ratios_of(
    slo: Slo, served: Latencies, alone: Latencies | None, end_s: float, length_s: float = WINDOW_S
) -> list[tuple[float, float]]:
    """Return when each window that `windows_of` looks at begins, seconds, and measured / limit."""
    ratios = []
    least = max(LEAST_SAMPLES, LEAST_BEYOND / (1.0 - (slo.share or 0.0)))
    served_windows = _Windows(*served.of_metric(slo.metric))
    alone_windows = None if alone is None else _Windows(*alone.of_metric(slo.metric))
    for from_s in np.arange(0.0, end_s - length_s + 1e-6, length_s / WINDOWS_PER_LENGTH).tolist():
        samples_s = served_windows.between(from_s, from_s + length_s)
        base_s = np.empty(0)
        if alone_windows is not None:
            base_s = alone_windows.between(from_s, from_s + length_s)
        is_known = slo.rise is None or len(base_s) >= least
        if len(samples_s) < least or not is_known:
            continue
        limit_s = slo.resolved_s(LatencyStats.of(base_s))
        assert limit_s is not None
        measured_s = getattr(LatencyStats.of(samples_s), slo.statistic)
        ratios.append((from_s, measured_s / limit_s))
    return ratios


class _Windows:
    """Samples by time."""

    def __init__(self, at_s: Any, samples_s: Any) -> None:
        order = np.argsort(at_s, kind="stable")
        self._at_s, self._samples_s = at_s[order], samples_s[order]

    def between(self, from_s: float, until_s: float) -> Any:
        first, last = np.searchsorted(self._at_s, (from_s, until_s))
        return self._samples_s[first:last]


def result_of(
    run: Run, profile: str, seed: int, slos: list[dict[str, Any]], details: dict[str, Any]
) -> dict[str, Any]:
    """Return the result; `details` gains what `hygen report` draws."""
    latencies = Latencies.of(run)
    records = list(run.log.records.values())
    online, offline = _by_class(records)
    steps = run.log.steps()
    rates = tokens_per_s(run)
    return {
        "policy": run.policy.name,
        "profile": profile,
        "seed": seed,
        "virtual_s": run.virtual_s,
        "wall_s": run.wall_s,
        "steps": run.log.num_steps,
        **figures_by_class(records, latencies, rates),
        "total_tokens_per_s": sum(rates),
        "slo": slos,
        "details": {
            "format": FORMAT,
            "version": VERSION,
            "kind": "simulated",
            **details,
            "arrived": {
                "online": len(online),
                "offline": len(offline) - run.log.num_came_again,
            },
            "unserved": latencies.num_unserved,
            "online_prefix_hit_rate": hit_rate(online),
            "offline_tokens_by_tenant": _tokens_by_tenant(offline),
            "recomputed_tokens": sum(record.recomputed_tokens for record in offline),
            "predictor_mape": _predictor_mape(steps),
            "num_samples": {"ttft_s": len(latencies.ttft_s), "tbt_s": len(latencies.tbt_s)},
            "quantiles": _quantiles(latencies),
            "series": _series(run, steps),
        },
    }


def tokens_per_s(run: Run, from_s: float = 0.0) -> tuple[float, float]:
    """Return the tokens of work done in a second of a run, of online and of offline requests.

    Args: from_s: what was done by steps that ended before does not count.
    """
    steps, duration_s = run.log.steps(), run.virtual_s - from_s or math.inf
    steps = steps[_column(steps, "ends_s") >= from_s]
    online, offline = (
        float(_column(steps, f"{name}_tokens_done").sum()) / duration_s
        for name in ("online", "offline")
    )
    return online, offline


def figures_by_class(
    records: Sequence[RequestRecord], latencies: Latencies, rates: tuple[float, float]
) -> dict[str, Any]:
    """Return the figures of each class, as a result has them.

    Args: rates: tokens_per_s of online and of offline requests.
    """
    stats = latencies.stats()
    online, offline = _by_class(records)
    return {
        "online": {
            "finished": _num_finished(online),
            "tokens_per_s": rates[0],
            "ttft_s": _shown(stats["ttft"]),
            "tbt_s": _shown(stats["tbt"]),
        },
        "offline": {
            "finished": _num_finished(offline),
            "tokens_per_s": rates[1],
            "prefix_hit_rate": hit_rate(offline),
            "preemptions": sum(record.num_preemptions for record in offline),
        },
    }


def _shown(stats: LatencyStats) -> dict[str, float | None]:
    """Return the statistics that every result has."""
    return {name: getattr(stats, name) for name in SHOWN}


def _by_class(
    records: Sequence[RequestRecord],
) -> tuple[list[RequestRecord], list[RequestRecord]]:
    return [r for r in records if not r.is_offline], [r for r in records if r.is_offline]


def _num_finished(records: Sequence[RequestRecord]) -> int:
    return sum(record.finished_s is not None for record in records)


def hit_rate(records: Sequence[RequestRecord]) -> float:
    """Share of the prompt tokens of requests that started which the prefix cache had."""
    started = [record for record in records if record.has_started]
    prompt_tokens = sum(record.arrival.prompt_tokens for record in started)
    return sum(record.cached_tokens for record in started) / prompt_tokens if started else 0.0


def _tokens_by_tenant(records: Iterable[RequestRecord]) -> dict[str, int]:
    """Return the prompt and output tokens that each tenant was served."""
    tokens: Counter[str] = Counter()
    for record in records:
        tokens[record.arrival.tenant] += record.prompt_tokens_done + record.num_output_tokens
    return dict(tokens)


def _column(steps: Any, name: str) -> Any:
    return steps[:, STEP_COLUMNS.index(name)]


def _predictor_mape(steps: Any) -> float | None:
    """Mean of |predicted / true - 1| over the steps that were predicted."""
    predicted_s = _column(steps, "predicted_s")
    true_s = _column(steps, "ends_s") - _column(steps, "begins_s")
    is_known = np.isfinite(predicted_s) & (true_s > 0)
    if not is_known.any():
        return None
    return float(np.abs(predicted_s[is_known] / true_s[is_known] - 1.0).mean())


def _quantiles(latencies: Latencies) -> dict[str, list[float]]:
    found = {"levels": list(QUANTILE_LEVELS)}
    for name, samples in (("ttft_s", latencies.ttft_s), ("tbt_s", latencies.tbt_s)):
        found[name] = np.quantile(samples, QUANTILE_LEVELS).tolist() if len(samples) else []
    return found


def _series(run: Run, steps: Any) -> dict[str, Any]:
    """Return what happened over time, in NUM_BINS bins; None where nothing was measured."""
    edges = np.linspace(0.0, max(run.virtual_s, 1e-9), NUM_BINS + 1)
    width_s = edges[1] - edges[0]
    ends_s = _column(steps, "ends_s")
    arrivals = [r.arrival.time_s for r in run.log.records.values() if not r.is_offline]
    durations = ends_s - _column(steps, "begins_s")
    series: dict[str, Any] = {
        "bin_s": width_s,
        "time_s": (0.5 * (edges[1:] + edges[:-1])).tolist(),
        "online_arrivals_per_s": (np.histogram(arrivals, edges)[0] / width_s).tolist(),
        "step_s": _means(ends_s, durations, edges),
        "limit_s": _means(ends_s, _column(steps, "limit_s"), edges),
        "price": _means(ends_s, _column(steps, "price"), edges),
    }
    for name in ("online", "offline"):
        done = np.histogram(ends_s, edges, weights=_column(steps, f"{name}_tokens_done"))[0]
        series[f"{name}_tokens_per_s"] = (done / width_s).tolist()
    return {**series, "samples": _samples(run.log.samples, run.log.num_blocks)}


def _means(times_s: Any, values: Any, edges: Any) -> list[float | None]:
    """Return the mean of the finite values in each bin."""
    is_known = np.isfinite(values)
    sums = np.histogram(times_s[is_known], edges, weights=values[is_known])[0]
    counts = np.histogram(times_s[is_known], edges)[0]
    return [float(s / n) if n else None for s, n in zip(sums, counts, strict=True)]


def _samples(samples: Sequence[Sample], num_blocks: int) -> dict[str, Any]:
    """Return the state of the engine at some NUM_BINS moments; counts are since the one before."""
    stride = max(1, len(samples) // NUM_BINS)
    some = [*samples[:-1][::stride], *samples[-1:]]
    reasons = sorted({reason for sample in some for reason in sample.refusals})
    kept = ("online_waiting", "offline_waiting", "online_running", "offline_running")
    return {
        "time_s": [sample.time_s for sample in some],
        **{name: [getattr(sample, name) for sample in some] for name in kept},
        "online_kv_share": [sample.online_kv_blocks / num_blocks for sample in some],
        "offline_kv_share": [sample.offline_kv_blocks / num_blocks for sample in some],
        "preemptions": _since([sample.num_preemptions for sample in some]),
        "refusals": {
            reason: _since([sample.refusals.get(reason, 0) for sample in some])
            for reason in reasons
        },
    }


def _since(counts: list[int]) -> list[int]:
    return [b - a for a, b in zip([0, *counts], counts, strict=False)]
