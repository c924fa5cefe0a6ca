# SPDX-License-Identifier: Apache-2.0
"""All charts of a page, with their headings and legends, as HTML."""

from collections.abc import Sequence
from dataclasses import replace
from html import escape

from hygen_vllm.lab.report.chart_kinds import KV, LOAD, PRICE, REFUSALS, STEPS, THROUGHPUT
from hygen_vllm.lab.report.chart_style import LegendEntry, Line, policy_lines
from hygen_vllm.lab.report.distributions import (
    SAMPLES_OF,
    distribution_legend,
    draw_distribution,
    slo_limits,
)
from hygen_vllm.lab.report.result_file import Result
from hygen_vllm.lab.report.timelines import (
    NARROW,
    WIDE,
    ChartKind,
    Timeline,
    draw_timelines,
)

Layout = tuple[str, tuple[float, float]]
"""Look of a grid of charts, and the size of one in inches."""
Groups = tuple[tuple[ChartKind, ...], ...]
TWO_COLUMNS_FOR = (1, 2, 4)
"""Numbers of results whose charts would leave a hole in three columns."""
ABOUT_DISTRIBUTIONS = "Share of samples above a latency: a curve crosses 1 % at its P99."
ABOUT_SLOS = " A dot marks an SLO on a percentile; a curve that passes below it meets it."


def charts_html(results: Sequence[Result], labels: Sequence[str], word: str) -> str:
    """Return the charts of all results that have something to draw, and a note about the others.

    Args:
        word: "Simulated" or "Measured", what the numbers are.
    """
    missing = [
        label for result, label in zip(results, labels, strict=True) if result.details is None
    ]
    note = _missing_note(missing)
    timelines = [
        timeline
        for result, label in zip(results, labels, strict=True)
        if (timeline := Timeline.of(result, label)) is not None
    ]
    if not timelines:
        return note
    layout = ("wide", WIDE) if len(timelines) in TWO_COLUMNS_FOR else ("narrow", NARROW)
    is_single = len(timelines) == 1
    first: Groups = ((LOAD,), (THROUGHPUT,)) if is_single else ((LOAD, THROUGHPUT),)
    others = ((STEPS,), (PRICE,), (REFUSALS,), (KV,))
    groups = [_group(kinds, timelines, layout) for kinds in (*first, *others)]
    look = "groups single" if is_single else "groups"
    distributions = _distributions(results, labels, word)
    body = "\n".join(group for group in groups if group)
    return f'{note}{distributions}\n<div class="{look}">\n{body}\n</div>'


def _missing_note(labels: Sequence[str]) -> str:
    if not labels:
        return ""
    return (
        f'<p class="warning">No charts of {escape(", ".join(labels))}: they need the member '
        "<code>details</code>, which the file does not have.</p>"
    )


def _distributions(results: Sequence[Result], labels: Sequence[str], word: str) -> str:
    lines = policy_lines([result.policy for result in results])
    charts = [
        chart
        for metric in SAMPLES_OF
        if (chart := draw_distribution(metric, results, lines, word)) is not None
    ]
    if not charts:
        return ""
    has_slos = any(slo_limits(metric, results) for metric in SAMPLES_OF)
    text = ABOUT_DISTRIBUTIONS + (ABOUT_SLOS if has_slos else "")
    legend = _legend(distribution_legend(results, labels, lines))
    return _section("Online latency", text, legend, _grid("wide", charts))


def _group(kinds: Sequence[ChartKind], timelines: Sequence[Timeline], layout: Layout) -> str:
    """Return a section with the charts of some kinds; "" if no timeline has any of them."""
    look, size = layout
    drawn = {kind: found for kind in kinds if (found := _drawn(kind, timelines))}
    if not drawn:
        return ""
    charts = [chart for kind in drawn for chart in draw_timelines(kind, drawn[kind], size)]
    text = " ".join(kind.text for kind in drawn)
    legend = _legend([entry for kind in drawn for entry in kind.legend(drawn[kind])])
    heading = " and ".join(kind.title for kind in drawn)
    return _section(heading[0].upper() + heading[1:], text, legend, _grid(look, charts))


def _drawn(kind: ChartKind, timelines: Sequence[Timeline]) -> list[Timeline]:
    """Return the timelines that get a chart of a kind; the same online load is drawn once."""
    drawn = [timeline for timeline in timelines if kind.applies(timeline)]
    if kind is not LOAD:
        return drawn
    loads: dict[tuple[float, ...], Timeline] = {}
    for timeline in drawn:
        loads.setdefault(tuple(timeline.series["online_arrivals_per_s"]), timeline)
    if len(loads) == 1 and len(drawn) > 1:
        return [replace(drawn[0], label="the same for all")]
    return list(loads.values())


def _section(heading: str, text: str, legend: str, charts: str) -> str:
    return f"<section><h2>{heading}</h2>\n<p>{text}</p>\n{legend}\n{charts}</section>"


def _grid(look: str, charts: Sequence[str]) -> str:
    figures = "\n".join(f"<figure>{chart}</figure>" for chart in charts)
    return f'<div class="charts {look}">\n{figures}\n</div>'


def _legend(entries: Sequence[LegendEntry]) -> str:
    if not entries:
        return ""
    rows = "".join(f"<li>{_key(entry.look)}{escape(entry.text)}</li>" for entry in entries)
    return f'<ul class="legend">{rows}</ul>'


def _key(look: Line | str) -> str:
    """Return the sample of a line or colour that stands before a legend's text."""
    if isinstance(look, str):
        shape = f'<rect width="14" height="10" fill="{look}"/>'
        return f'<svg width="14" height="10" aria-hidden="true">{shape}</svg>'
    dashes = f' stroke-dasharray="{" ".join(map(str, look.dashes))}"' if look.dashes else ""
    shape = (
        f'<line x1="0" x2="30" y1="5" y2="5" stroke="{look.colour}" '
        f'stroke-width="{look.width + 0.7:.1f}"{dashes}/>'
    )
    return f'<svg width="30" height="10" aria-hidden="true">{shape}</svg>'
