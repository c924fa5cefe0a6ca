# SPDX-License-Identifier: Apache-2.0
"""The table of a report: a row for each policy, as HTML."""

from collections.abc import Sequence
from html import escape
from typing import Any

from hygen_vllm.lab.report.comparison import BASELINES
from hygen_vllm.lab.report.number_text import (
    NOTHING,
    milliseconds,
    percent,
    rounded,
    setting,
    told_apart,
    whole,
)
from hygen_vllm.lab.report.result_file import Result

HEAD = """<thead>
<tr><th rowspan="2" class="first">policy</th><th colspan="2">TTFT (ms)</th>
<th colspan="2">TBT (ms)</th><th colspan="3">tokens/s</th><th colspan="3">offline requests</th>
<th rowspan="2" class="text">SLOs: measured and limit</th>
<th rowspan="2">predictor<br>MAPE</th></tr>
<tr><th>mean</th><th>P99</th><th>mean</th><th>P99</th><th>online</th><th>offline</th><th>total</th>
<th>finished</th><th>prefix<br>hits</th><th>preemptions</th></tr>
</thead>"""
MET = {True: ("met", "met"), False: ("not-met", "NOT met"), None: ("unknown", "no data")}


def results_table(
    results: Sequence[Result], labels: Sequence[str], highlighted: Result | None
) -> str:
    """Return the table; baselines are grey, the highlighted result stands out."""
    rows = "\n".join(
        _row(result, label, result is highlighted)
        for result, label in zip(results, labels, strict=True)
    )
    return f'<div class="scroll"><table>\n{HEAD}\n<tbody>\n{rows}\n</tbody></table></div>'


def footnotes(results: Sequence[Result], labels: Sequence[str]) -> list[str]:
    """Return what a reader of the table may stumble over, as text."""
    notes = []
    for result, label in zip(results, labels, strict=True):
        if result.details is not None and (unserved := result.details["unserved"]):
            notes.append(
                f"{label}: {whole(unserved)} of {whole(result.details['arrived']['online'])} "
                "online requests had no token when the run ended. Their wait until then counts as "
                "their TTFT, which is a lower bound (\N{GREATER-THAN OR EQUAL TO})."
            )
    if any("=+" in slo["slo"] for result in results for slo in result.figures["slo"]):
        notes.append("An SLO with a percentage is relative to the same online load served alone.")
    return notes


def _row(result: Result, label: str, is_highlighted: bool) -> str:
    figures, details = result.figures, result.details or {}
    online, offline = figures["online"], figures["offline"]
    bound = "\N{GREATER-THAN OR EQUAL TO}" if details.get("unserved") else ""
    cells = [
        *(_latency(online["ttft_s"][name], bound) for name in ("mean", "p99")),
        *(_latency(online["tbt_s"][name]) for name in ("mean", "p99")),
        rounded(online["tokens_per_s"]),
        f"<b>{rounded(offline['tokens_per_s'])}</b>",
        rounded(figures["total_tokens_per_s"]),
        _finished(offline["finished"], details),
        percent(offline["prefix_hit_rate"]) if offline["tokens_per_s"] else NOTHING,
        whole(offline["preemptions"]),
    ]
    numbers = "".join(f"<td>{cell}</td>" for cell in cells)
    slos = "".join(_slo(slo) for slo in figures["slo"]) or NOTHING
    kind = "baseline" if result.policy in BASELINES else "hygen"
    return (
        f'<tr class="{kind}{" best" if is_highlighted else ""}">'
        f'<th scope="row" class="first">{escape(label)}{_about(details)}</th>{numbers}'
        f'<td class="text">{slos}</td><td>{percent(details.get("predictor_mape"))}</td></tr>'
    )


def _latency(value_s: float | None, bound: str = "") -> str:
    return f"{bound if value_s is not None else ''}{milliseconds(value_s)}"


def _finished(num_finished: int, details: Any) -> str:
    if not details or not details["arrived"]["offline"]:
        return whole(num_finished)
    return f"{whole(num_finished)}<small>of {whole(details['arrived']['offline'])}</small>"


def _about(details: Any) -> str:
    """Return the second lines of a row's head: what the policy is, and how it was set."""
    if not details:
        return "<small>no details in the file</small>"
    settings = ", ".join(f"{name} {setting(v)}" for name, v in details["settings"].items())
    lines = [details["policy"], *([settings] if settings else [])]
    return "".join(f"<small>{escape(line)}</small>" for line in lines)


def _slo(slo: Any) -> str:
    """Return an SLO with a word, and what was measured beside the limit where both are known."""
    look, word = MET[slo["met"]]
    text = str(slo["slo"])
    known = slo["met"] is not None and None not in (slo["measured_s"], slo["limit_s"])
    if known:
        relation = "\N{LESS-THAN OR EQUAL TO}" if slo["met"] else ">"
        measured, limit = told_apart(1e3 * slo["measured_s"], 1e3 * slo["limit_s"])
        text = f"{text.partition('=')[0]} {measured} {relation} {limit} ms"
    return (
        f'<div class="slo" title="{escape(slo["slo"])}"><b class="{look}">{word}</b> '
        f"{escape(text)}</div>"
    )
