# SPDX-License-Identifier: Apache-2.0
"""Draws what happened over time: a chart for each result, all charts of a kind on equal axes.

`chart_kinds.py` says what is in them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from hygen_vllm.lab.report.chart_style import LegendEntry
from hygen_vllm.lab.report.result_file import Result
from hygen_vllm.lab.report.svg_chart import Frame, draw_svg, titles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE, NARROW = (6.2, 2.6), (4.7, 2.6)
"""Inches, for charts in two columns and in three."""
HOURS_FROM_S = 7200.0
HEADROOM = 1.05


@dataclass(frozen=True)
class Timeline:
    """A result as far as it is drawn over time."""

    label: str
    word: str
    virtual_s: float
    series: Any

    @classmethod
    def of(cls, result: Result, label: str) -> "Timeline | None":
        """Return that of a result; None where it has no details."""
        if result.details is None or not result.details["series"]["time_s"]:
            return None
        virtual_s = float(result.figures["virtual_s"])
        word = result.details["kind"].capitalize()
        return cls(label, word, virtual_s, result.details["series"])


@dataclass(frozen=True)
class ChartKind:
    """A chart that every result gets.

    Args:
        title: what headings and the titles of charts call it.
        text: what a reader should know about the charts.
        draw: puts a timeline into axes.
        top: the largest value a timeline has; all axes of the kind reach above all of them.
        legend: what the colours mean in charts of these timelines.
        applies: whether a timeline has any of this.
    """

    name: str
    title: str
    text: str
    y_label: str
    draw: Callable[["Axes", Timeline], None]
    top: Callable[[Timeline], float]
    legend: Callable[[Sequence[Timeline]], list[LegendEntry]]
    applies: Callable[[Timeline], bool] = lambda _: True


def draw_timelines(
    kind: ChartKind, timelines: Sequence[Timeline], size: tuple[float, float]
) -> list[str]:
    """Return the charts of one kind as SVG, one for each timeline, on equal axes."""
    top = HEADROOM * max(kind.top(timeline) for timeline in timelines) or 1.0
    duration_s = max(timeline.virtual_s for timeline in timelines)
    found = titles([(f"{t.word} {kind.title}", t.label) for t in timelines], size[0])
    frames = [Frame(f"{kind.name}-{number}", title, size) for number, title in enumerate(found)]
    return [
        draw_svg(frame, partial(_draw, kind=kind, timeline=timeline, ends=(duration_s, top)))
        for frame, timeline in zip(frames, timelines, strict=True)
    ]


def _draw(axes: "Axes", kind: ChartKind, timeline: Timeline, ends: tuple[float, float]) -> None:
    kind.draw(axes, timeline)
    _draw_axes(axes, kind, timeline, ends)


def _draw_axes(
    axes: "Axes", kind: ChartKind, timeline: Timeline, ends: tuple[float, float]
) -> None:
    from matplotlib.ticker import FuncFormatter

    duration_s, top = ends
    unit, unit_s = ("h", 3600.0) if duration_s > HOURS_FROM_S else ("s", 1.0)
    word = "virtual time" if timeline.word == "Simulated" else "time"
    axes.set(
        xlim=(0, duration_s or 1.0),
        ylim=(0, top),
        xlabel=f"{word} ({unit})",
        ylabel=kind.y_label,
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / unit_s:,g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    if unit == "h":
        axes.set_xticks(_hours(duration_s))


def _hours(duration_s: float) -> list[float]:
    """Return full hours, at most 8 or so, in seconds."""
    num_hours = int(duration_s // 3600)
    return [3600.0 * hour for hour in range(0, num_hours + 1, max(1, num_hours // 6))]
