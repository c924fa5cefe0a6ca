# SPDX-License-Identifier: Apache-2.0
"""Simulated runs for the experiments of this folder: several at a time, kept in a CSV file."""

import csv
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hygen_vllm.simulator.command import SimulateOptions, simulated_result

HERE = Path(__file__).parent
STATISTICS = ("mean", "p99")
METRICS = ("ttft", "tbt")


@dataclass(frozen=True)
class Case:
    """A run of `hygen simulate`.

    Args:
        flags: of the command, under the names of SimulateOptions, where they are not the default.
    """

    name: str
    policy: str
    flags: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """What came of a run; latencies in milliseconds."""

    name: str
    policy: str
    slos: str
    worst_ratio: float
    """Largest measured / limit over the SLOs; 0 without any."""
    online_tokens_per_s: float
    offline_tokens_per_s: float
    ttft_mean_ms: float
    ttft_p99_ms: float
    tbt_mean_ms: float
    tbt_p99_ms: float

    def latency_ms(self, metric: str, statistic: str) -> float:
        return float(getattr(self, f"{metric}_{statistic}_ms"))


def options_of(case: Case) -> SimulateOptions:
    """Return the flags of the command that makes a run."""
    usual = {"profile": "a100-llama2-7b", "offline": "arxiv"}
    return SimulateOptions(**{**usual, **case.flags, "policy": case.policy})


def run(case: Case) -> Row:
    """Simulate a case."""
    result = simulated_result(options_of(case))
    online = result["online"]
    ratios = [row["measured_s"] / row["limit_s"] for row in result["slo"]]
    latencies = {
        f"{metric}_{statistic}_ms": 1e3 * (online[f"{metric}_s"][statistic] or float("nan"))
        for metric in METRICS
        for statistic in STATISTICS
    }
    return Row(
        name=case.name,
        policy=case.policy,
        slos=" ".join(row["slo"] for row in result["slo"]),
        worst_ratio=max(ratios, default=0.0),
        online_tokens_per_s=online["tokens_per_s"],
        offline_tokens_per_s=result["offline"]["tokens_per_s"],
        **latencies,
    )


def run_all(cases: Sequence[Case], jobs: int | None = None) -> list[Row]:
    """Simulate cases in as many processes as there are cores; the order stays."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    with ProcessPoolExecutor(jobs or os.cpu_count()) as pool:
        return list(tqdm(pool.map(_quiet_run, cases), total=len(cases), file=sys.stderr))


def _quiet_run(case: Case) -> Row:
    tqdm.__init__ = _without_bar  # type: ignore[method-assign]
    return run(case)


_tqdm_init = tqdm.__init__


def _without_bar(self: Any, *args: Any, **kwargs: Any) -> None:
    _tqdm_init(self, *args, **{**kwargs, "disable": True})


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        names = [each.name for each in fields(Row)]
        writer.writerow(names)
        for row in rows:
            values = (getattr(row, name) for name in names)
            writer.writerow(f"{v:.6g}" if isinstance(v, float) else v for v in values)


def read_rows(path: Path) -> list[Row]:
    """Read what `write_rows` wrote."""
    kinds = {each.name: str if each.type in (str, "str") else float for each in fields(Row)}
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Row(**{name: kinds[name](value) for name, value in line.items()})
            for line in csv.DictReader(file)
        ]
