# SPDX-License-Identifier: Apache-2.0
"""All charts of a page, with their headings and legends."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hygen_vllm.lab.report.chart_kinds import KV, LOAD, PRICE, REFUSALS, STEPS, THROUGHPUT
from hygen_vllm.lab.report.chart_style import LegendEntry, policy_lines
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


@dataclass(frozen=True)
class Section:
    """Charts with their heading and legend.

    Args:
        look: of their grid.
        charts: SVG.
    """

    heading: str
    text: str
    legend: Sequence[LegendEntry]
    look: str
    charts: Sequence[str]


def timelines_of(results: Sequence[Result], labels: Sequence[str]) -> list[Timeline]:
    """Return what there is to draw over time of the results that have it."""
    pairs = zip(results, labels, strict=True)
    found = [Timeline.of(result, label) for result, label in pairs]
    return [timeline for timeline in found if timeline is not None]


def timeline_sections(timelines: Sequence[Timeline]) -> list[Section]:
    """Return the charts over time, those of a kind beside each other."""
    layout = ("wide", WIDE) if len(timelines) in TWO_COLUMNS_FOR else ("narrow", NARROW)
    is_single = len(timelines) == 1
    first: Groups = ((LOAD,), (THROUGHPUT,)) if is_single else ((LOAD, THROUGHPUT),)
    others = ((STEPS,), (PRICE,), (REFUSALS,), (KV,))
    sections = [_section(kinds, timelines, layout) for kinds in (*first, *others)]
    return [section for section in sections if section is not None]


def distributions(results: Sequence[Result], labels: Sequence[str], word: str) -> Section | None:
    """Return the distributions of TTFT and TBT.

    Args: word: "Simulated" or "Measured", what the numbers are.
    """
    lines = policy_lines([result.policy for result in results])
    drawn = [draw_distribution(metric, results, lines, word) for metric in SAMPLES_OF]
    charts = [chart for chart in drawn if chart is not None]
    if not charts:
        return None
    has_slos = any(slo_limits(metric, results) for metric in SAMPLES_OF)
    text = ABOUT_DISTRIBUTIONS + (ABOUT_SLOS if has_slos else "")
    legend = distribution_legend(results, labels, lines)
    return Section("Online latency", text, legend, "wide", charts)


def _section(
    kinds: Sequence[ChartKind], timelines: Sequence[Timeline], layout: Layout
) -> Section | None:
    """Return the charts of some kinds; None if no timeline has any of them."""
    look, size = layout
    drawn = {kind: found for kind in kinds if (found := _drawn(kind, timelines))}
    if not drawn:
        return None
    charts = [chart for kind in drawn for chart in draw_timelines(kind, drawn[kind], size)]
    text = " ".join(kind.text for kind in drawn)
    legend = [entry for kind in drawn for entry in kind.legend(drawn[kind])]
    heading = " and ".join(kind.title for kind in drawn)
    return Section(heading[0].upper() + heading[1:], text, legend, look, charts)


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
