# SPDX-License-Identifier: Apache-2.0
"""Draws how TTFT and TBT are distributed: the share of samples above x, and the SLOs."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hygen_vllm.lab.report.chart_style import SLO_COLOUR, SLO_LINE, LegendEntry, Line
from hygen_vllm.lab.report.number_text import rounded, whole
from hygen_vllm.lab.report.result_file import Result
from hygen_vllm.lab.report.svg_chart import Frame, draw_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (6.2, 4.0)
SAMPLES_OF = {"ttft": "requests", "tbt": "output tokens"}
SMALLEST_PERCENT = 0.1
BELOW_THE_AXIS = 1e-3
MAX_ROWS, ROW_POINTS = 4, 11
"""Of labels above the axes."""
MANY_DECADES = 2.5
BESIDE = 0.25
"""Share of the axis at both ends where a label stands beside its line, not above it."""


@dataclass(frozen=True)
class SloLimit:
    """Where an SLO stands in a chart: at most `percent` of the samples above `limit_ms`.

    Args:
        percent: None for a mean, which is no point of a distribution.
    """

    statistic: str
    limit_ms: float
    percent: float | None

    @property
    def text(self) -> str:
        name = "mean" if self.percent is None else self.statistic.upper()
        return f"{name} \N{LESS-THAN OR EQUAL TO} {rounded(self.limit_ms).removesuffix('.0')} ms"


@dataclass(frozen=True)
class Curve:
    """A line of a chart: (ms, share above in percent), falling."""

    ms: list[float]
    percent: list[float]
    line: Line


def draw_distribution(
    metric: str, results: Sequence[Result], lines: Sequence[Line], word: str
) -> str | None:
    """Return the chart of "ttft" or "tbt" as SVG; None if no result has a sample."""
    curves = [
        curve
        for result, line in zip(results, lines, strict=True)
        if (curve := _curve(metric, result, line)) is not None
    ]
    if not curves:
        return None
    limits = slo_limits(metric, results)
    num_rows = max(min(len(slo_limits(name, results)), MAX_ROWS) for name in SAMPLES_OF)
    title = f"{word} online {metric.upper()}"
    frame = Frame(f"{metric}-distribution", title, SIZE)

    def draw(axes: "Axes") -> None:
        for curve in curves:
            axes.plot(curve.ms, curve.percent, **curve.line.arguments())
        _draw_axes(axes, metric, _range_ms(curves, limits))
        _draw_limits(axes, limits)
        axes.set_title(title, pad=6 + ROW_POINTS * num_rows)

    return draw_svg(frame, draw)


def distribution_legend(
    results: Sequence[Result], labels: Sequence[str], lines: Sequence[Line]
) -> list[LegendEntry]:
    """Return an entry for each result with samples, and how many they are, and the SLO's."""
    entries = [
        LegendEntry(line, f"{label} ({_num_samples(result)})")
        for result, label, line in zip(results, labels, lines, strict=True)
        if _has_samples(result)
    ]
    if any(slo_limits(metric, results) for metric in SAMPLES_OF):
        entries.append(LegendEntry(SLO_LINE, "SLO"))
    return entries


def slo_limits(metric: str, results: Sequence[Result]) -> list[SloLimit]:
    """Return the different limits that SLOs of the results set for a metric, smallest first."""
    limits = set()
    for slo in (slo for result in results for slo in result.figures["slo"]):
        found = re.match(rf"{metric}_(mean|p(\d+))=", slo["slo"])
        if found is not None and slo["limit_s"]:
            percent = 100.0 - float(found[2]) if found[2] else None
            limits.add(SloLimit(found[1], 1e3 * float(f"{slo['limit_s']:.6g}"), percent))
    return sorted(limits, key=lambda limit: (limit.limit_ms, limit.statistic))


def _has_samples(result: Result) -> bool:
    quantiles = {} if result.details is None else result.details["quantiles"]
    return any(quantiles.get(f"{metric}_s") for metric in SAMPLES_OF)


def _num_samples(result: Result) -> str:
    """Return how many samples the curves of a result show, as far as it says."""
    assert result.details is not None
    num_samples = result.details.get("num_samples", {})
    ttft = num_samples.get("ttft_s", result.details["arrived"]["online"])
    texts = [f"n = {whole(ttft)} requests"]
    if "tbt_s" in num_samples:
        texts.append(f"{whole(num_samples['tbt_s'])} gaps")
    return ", ".join(texts)


def _curve(metric: str, result: Result, line: Line) -> Curve | None:
    quantiles = {} if result.details is None else result.details["quantiles"]
    values_s = quantiles.get(f"{metric}_s")
    if not values_s:
        return None
    ms = [1e3 * max(value_s, 0.0) for value_s in values_s]
    percent = [max(100 * (1 - level), BELOW_THE_AXIS) for level in quantiles["levels"]]
    return Curve(ms, percent, line)


def _range_ms(curves: Sequence[Curve], limits: Sequence[SloLimit]) -> tuple[float, float]:
    """Return the ends of the x axis: all curves but their fastest percent, and all limits."""
    first = [value for curve in curves for value in curve.ms[1:3] if value > 0]
    last = [curve.ms[-1] for curve in curves if curve.ms[-1] > 0]
    known = [limit.limit_ms for limit in limits]
    low, high = min([*first, *known], default=1.0), max([*last, *known], default=1.0)
    return low / 1.1, high * 1.1


def _draw_axes(axes: "Axes", metric: str, ends_ms: tuple[float, float]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axes.set(
        xscale="log",
        yscale="log",
        xlim=ends_ms,
        ylim=(SMALLEST_PERCENT, 100),
        xlabel=f"{metric.upper()} (ms)",
        ylabel=f"{SAMPLES_OF[metric]} with a longer {metric.upper()} (%)",
        yticks=(0.1, 1, 10, 100),
        yticklabels=("0.1", "1", "10", "100"),
    )
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(LogLocator(subs=_tick_steps(math.log10(ends_ms[1] / ends_ms[0]))))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _tick_steps(num_decades: float) -> tuple[float, ...]:
    if num_decades > MANY_DECADES:
        return (1.0,)
    return (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0) if num_decades < 1 else (1.0, 2.0, 5.0)


def _draw_limits(axes: "Axes", limits: Sequence[SloLimit]) -> None:
    """Draw each limit as a line with its text above the axes, in rows so that none meet."""
    num_rows = min(len(limits), MAX_ROWS)
    for number, limit in enumerate(limits):
        axes.axvline(limit.limit_ms, zorder=2.5, **SLO_LINE.arguments())
        if limit.percent:
            axes.plot(limit.limit_ms, limit.percent, "o", color=SLO_COLOUR, markersize=5, zorder=4)
        axes.annotate(
            limit.text,
            (limit.limit_ms, 1.0),
            (0, 3 + ROW_POINTS * (num_rows - 1 - number % MAX_ROWS)),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha=_side(axes, limit.limit_ms),
            color=SLO_COLOUR,
            fontsize=8.5,
        )


def _side(axes: "Axes", value: float) -> str:
    """Return the alignment that keeps a text at this value inside the chart."""
    low, high = (math.log(end) for end in axes.get_xlim())
    place = (math.log(value) - low) / (high - low)
    return "left" if place < BESIDE else ("right" if place > 1 - BESIDE else "center")
