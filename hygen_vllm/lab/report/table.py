# SPDX-License-Identifier: Apache-2.0
"""The table of a report: a row for each policy, and what has to be said about it."""

from collections.abc import Sequence
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

Row = dict[str, Any]
"""Texts of a row by their names in page.html."""
MET = {True: ("met", "met"), False: ("not-met", "NOT met"), None: ("unknown", "no data")}


def row_of(result: Result, label: str, *, is_best: bool) -> Row:
    """Return what the template shows of a result; baselines are grey, the best stands out."""
    figures, details = result.figures, result.details or {}
    online, offline = figures["online"], figures["offline"]
    arrived = details["arrived"]["offline"] if details else 0
    kind = "baseline" if result.policy in BASELINES else "hygen"
    bound = "\N{GREATER-THAN OR EQUAL TO}" if details.get("unserved") else ""
    return {
        "look": f"{kind}{' best' if is_best else ''}",
        "label": label,
        "about": _about(details),
        "latencies": [
            *(_latency(online["ttft_s"][name], bound) for name in ("mean", "p99")),
            *(_latency(online["tbt_s"][name]) for name in ("mean", "p99")),
        ],
        "online_rate": rounded(online["tokens_per_s"]),
        "offline_rate": rounded(offline["tokens_per_s"]),
        "total_rate": rounded(figures["total_tokens_per_s"]),
        "finished": whole(offline["finished"]),
        "arrived": whole(arrived) if arrived else "",
        "prefix_hits": percent(offline["prefix_hit_rate"]) if offline["tokens_per_s"] else NOTHING,
        "preemptions": whole(offline["preemptions"]),
        "slos": [_slo(slo) for slo in figures["slo"]],
        "mape": percent(details.get("predictor_mape")),
    }


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


def _latency(value_s: float | None, bound: str = "") -> str:
    return f"{bound if value_s is not None else ''}{milliseconds(value_s)}"


def _about(details: Any) -> list[str]:
    """Return the second lines of a row's head: what the policy is, and how it was set."""
    if not details:
        return ["no details in the file"]
    settings = ", ".join(f"{name} {setting(v)}" for name, v in details["settings"].items())
    return [details["policy"], *([settings] if settings else [])]


def _slo(slo: Any) -> dict[str, str]:
    """Return an SLO with a word, and what was measured beside the limit where both are known."""
    look, word = MET[slo["met"]]
    text = str(slo["slo"])
    known = slo["met"] is not None and None not in (slo["measured_s"], slo["limit_s"])
    if known:
        relation = "\N{LESS-THAN OR EQUAL TO}" if slo["met"] else ">"
        measured, limit = told_apart(1e3 * slo["measured_s"], 1e3 * slo["limit_s"])
        text = f"{text.partition('=')[0]} {measured} {relation} {limit} ms"
    return {"title": slo["slo"], "look": look, "word": word, "text": text}
