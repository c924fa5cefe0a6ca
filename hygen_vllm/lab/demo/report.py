# SPDX-License-Identifier: Apache-2.0
"""Turns figures into a table, JSON and CSV; pure but for the files it is told to write."""

import csv
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hygen_vllm.files import replacing
from hygen_vllm.lab.demo.client import RequestLog
from hygen_vllm.lab.demo.measure import (
    Latency,
    PolicyFigures,
    Window,
    throughput_over_time,
    token_gaps,
)
from hygen_vllm.lab.demo.workload import OFFLINE, ONLINE

SCHEMA_VERSION = 1
BIN_S = 5.0
HEADINGS = (
    ("policy", ""),
    ("TTFT mean", "ms"),
    ("TTFT P99", "ms"),
    ("TBT mean", "ms"),
    ("TBT P99", "ms"),
    ("online", "tokens/s"),
    ("offline", "tokens/s"),
    ("total", "tokens/s"),
    ("SLO", "met"),
)


@dataclass(frozen=True)
class PolicyRun:
    """One policy's figures and the logs they come from."""

    figures: PolicyFigures
    logs: list[RequestLog]


def format_table(rows: list[PolicyFigures]) -> str:
    """Return the table, a line per policy, columns aligned, times in milliseconds."""
    lines = [[heading[0] for heading in HEADINGS], [heading[1] for heading in HEADINGS]]
    lines += [_cells(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([*text[:2], "-" * max(map(len, text)), *text[2:]])


def _cells(row: PolicyFigures) -> list[str]:
    met = row.slo[0].met
    ttft_bound = ">" if row.online.unserved else ""
    return [
        row.policy,
        *(_milliseconds(value, ttft_bound) for value in _mean_and_p99(row.online.ttft_s)),
        *(_milliseconds(value) for value in _mean_and_p99(row.online.tbt_s)),
        f"{row.online.tokens_per_s:.0f}",
        f"{row.offline.tokens_per_s:.0f}",
        f"{row.total_tokens_per_s:.0f}",
        "-" if met is None else ("yes" if met else "NO"),
    ]


def _mean_and_p99(latency: Latency) -> tuple[float | None, float | None]:
    return latency.mean, latency.p99


def _milliseconds(value_s: float | None, bound: str = "") -> str:
    return "-" if value_s is None else f"{bound}{value_s * 1e3:.0f}"


def footnotes(rows: list[PolicyFigures]) -> list[str]:
    """Return the lines below the table: sample counts, and what a reader may stumble over."""
    counts = [
        f"{row.policy} {row.online.ttft_s.samples}/{row.online.tbt_s.samples}"
        for row in rows
        if row.online.arrived
    ]
    lines = [f"samples (TTFT/TBT): {', '.join(counts)}"] if counts else []
    lines += [
        f"{row.policy}: SLO missed without any offline work; this machine needs a lower "
        "--online-rate or a higher --slo-tbt-p99-ms"
        for row in rows
        if row.slo[0].met is False and not row.offline.tokens_per_s
    ]
    lines += [
        f"{row.policy}: {row.online.unserved} of {row.online.arrived} online requests had no first "
        "token when the run ended; the wait until then counts"
        for row in rows
        if row.online.unserved
    ]
    return lines


def to_json(settings: dict[str, Any], rows: list[PolicyFigures]) -> dict[str, Any]:
    """Return what --json writes: the settings, and a member of `policies` for each policy."""
    policies = [asdict(row) for row in rows]
    return {"schema_version": SCHEMA_VERSION, **settings, "policies": policies}


def write_csv(path: Path, runs: list[PolicyRun], window: Window) -> None:
    """Write the points behind the picture: online TBT samples, and tokens/s in bins of 5 s."""
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("policy", "class", "quantity", "time_s", "value"))
        for run in runs:
            writer.writerows(_csv_rows(run, window))


def _csv_rows(run: PolicyRun, window: Window) -> Iterator[tuple[str, str, str, str, str]]:
    policy = run.figures.policy
    for time_s, gap_s in tbt_samples(run, window):
        yield policy, ONLINE, "tbt_s", f"{time_s:.4f}", f"{gap_s:.6f}"
    for slo_class in (ONLINE, OFFLINE):
        for time_s, value in throughput(run, slo_class, window):
            yield policy, slo_class, "tokens_per_s", f"{time_s:.1f}", f"{value:.1f}"


def tbt_samples(run: PolicyRun, window: Window) -> list[tuple[float, float]]:
    """Return (seconds into the window, TBT in s) of the online class, in order of time."""
    online = [log for log in run.logs if log.slo_class == ONLINE]
    return sorted(
        (time_s - window.start_s, gap_s)
        for time_s, gap_s in token_gaps(online)
        if window.holds(time_s)
    )


def throughput(run: PolicyRun, slo_class: str, window: Window) -> list[tuple[float, float]]:
    """Return (seconds into the window, tokens/s) of one class, in bins of 5 s."""
    logs = [log for log in run.logs if log.slo_class == slo_class]
    return throughput_over_time(logs, window, BIN_S)
