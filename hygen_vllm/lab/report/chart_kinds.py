# SPDX-License-Identifier: Apache-2.0
"""What is drawn over time: online load, throughput, step times, refusals, the KV cache."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from hygen_vllm.lab.report.chart_style import (
    OFFLINE_COLOUR,
    OFFLINE_LINE,
    ONLINE_COLOUR,
    ONLINE_LINE,
    STEP_COLOUR,
    STEP_LIMIT_LINE,
    LegendEntry,
    Line,
    reason_colour,
)
from hygen_vllm.lab.report.timelines import HEADROOM, ChartKind, Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NUM_POINTS = 60
"""Of a line or area; a result has more, which would be a thicket in a small chart."""


def refusals_per_s(timeline: Timeline) -> dict[str, Any]:
    """Return offline requests refused a second by reason, float64 (NUM_POINTS,)."""
    import numpy as np

    samples = timeline.series["samples"]
    edges = _edges_s(timeline)
    times_s = np.clip(samples["time_s"], 0.0, edges[-1])
    return {
        reason: np.histogram(times_s, edges, weights=counts)[0] / (edges[1] - edges[0])
        for reason, counts in samples["refusals"].items()
        if any(counts)
    }


def _edges_s(timeline: Timeline) -> Any:
    """Return the ends of the bins in which refusals are counted."""
    import numpy as np

    return np.linspace(0.0, max(timeline.virtual_s, 1e-9), NUM_POINTS + 1)


def _thinned(values: Sequence[float]) -> Any:
    """Return means of neighbours, float64 (at most NUM_POINTS,)."""
    import numpy as np

    parts = np.array_split(np.asarray(values, dtype=np.float64), min(NUM_POINTS, len(values)))
    return np.array([part.mean() for part in parts])


def _draw_throughput(axes: "Axes", timeline: Timeline) -> None:
    series = timeline.series
    time_s = _thinned(series["time_s"])
    online = _thinned(series["online_tokens_per_s"])
    axes.fill_between(time_s, online, color=ONLINE_COLOUR, alpha=0.15, linewidth=0)
    axes.plot(time_s, online, **ONLINE_LINE.arguments())
    axes.plot(time_s, _thinned(series["offline_tokens_per_s"]), **OFFLINE_LINE.arguments())


def _throughput_top(timeline: Timeline) -> float:
    names = ("online_tokens_per_s", "offline_tokens_per_s")
    return max(float(_thinned(timeline.series[name]).max()) for name in names)


def _draw_load(axes: "Axes", timeline: Timeline) -> None:
    series = timeline.series
    time_s, rate = _thinned(series["time_s"]), _thinned(series["online_arrivals_per_s"])
    axes.fill_between(time_s, rate, color=ONLINE_COLOUR, alpha=0.15, linewidth=0)
    axes.plot(time_s, rate, **ONLINE_LINE.arguments())


def _load_top(timeline: Timeline) -> float:
    return float(_thinned(timeline.series["online_arrivals_per_s"]).max())


def _milliseconds(values_s: Sequence[float | None]) -> Any:
    """Return milliseconds, NaN where there is nothing, float64 (num_bins,)."""
    import numpy as np

    return 1e3 * np.array([np.nan if value is None else value for value in values_s])


def _bin_edges_s(timeline: Timeline) -> Any:
    import numpy as np

    return timeline.series["bin_s"] * np.arange(len(timeline.series["time_s"]) + 1)


def _draw_steps(axes: "Axes", timeline: Timeline) -> None:
    edges = _bin_edges_s(timeline)
    step_ms = _milliseconds(timeline.series["step_s"])
    axes.stairs(step_ms, edges, fill=True, color=STEP_COLOUR, alpha=0.75)
    limit_ms = _milliseconds(timeline.series["limit_s"])
    axes.stairs(limit_ms, edges, baseline=None, **STEP_LIMIT_LINE.arguments())


def _steps_top(timeline: Timeline) -> float:
    names = ("step_s", "limit_s")
    known = [value for name in names for value in timeline.series[name] if value is not None]
    return 1e3 * max(known, default=0.0)


def _steps_legend(timelines: Sequence[Timeline]) -> list[LegendEntry]:
    entries = [LegendEntry(STEP_COLOUR, "mean step time")]
    if any(limit_s is not None for t in timelines for limit_s in t.series["limit_s"]):
        entries.append(LegendEntry(STEP_LIMIT_LINE, "mean limit of a step"))
    return entries


def _prices(timeline: Timeline) -> list[float | None]:
    """Return the mean price of a bin; files written before there were prices have none."""
    prices: list[float | None] = timeline.series.get("price", [])
    return prices


def _draw_price(axes: "Axes", timeline: Timeline) -> None:
    import numpy as np

    prices = np.array([np.nan if value is None else value for value in _prices(timeline)])
    axes.stairs(prices, _bin_edges_s(timeline), baseline=None, **STEP_LIMIT_LINE.arguments())


def _price_top(timeline: Timeline) -> float:
    return max((price for price in _prices(timeline) if price is not None), default=0.0)


def _draw_refusals(axes: "Axes", timeline: Timeline) -> None:
    refusals, edges = refusals_per_s(timeline), _edges_s(timeline)
    colours = [reason_colour(reason) for reason in refusals]
    axes.stackplot(0.5 * (edges[1:] + edges[:-1]), *refusals.values(), colors=colours, linewidth=0)


def _refusals_top(timeline: Timeline) -> float:
    return float(sum(refusals_per_s(timeline).values()).max())


def _refusals_legend(timelines: Sequence[Timeline]) -> list[LegendEntry]:
    reasons = dict.fromkeys(reason for t in timelines for reason in refusals_per_s(t))
    return [LegendEntry(reason_colour(reason), reason) for reason in reasons]


def _draw_kv(axes: "Axes", timeline: Timeline) -> None:
    import numpy as np

    samples = timeline.series["samples"]
    shares = [100 * np.array(samples[f"{name}_kv_share"]) for name in ("online", "offline")]
    colours = (ONLINE_COLOUR, OFFLINE_COLOUR)
    axes.stackplot(samples["time_s"], *shares, colors=colours, linewidth=0)


def _classes(look: str) -> Callable[[Sequence[Timeline]], list[LegendEntry]]:
    looks: tuple[Line | str, Line | str] = (ONLINE_LINE, OFFLINE_LINE)
    if look == "area":
        looks = (ONLINE_COLOUR, OFFLINE_COLOUR)
    return lambda _: [LegendEntry(looks[0], "online"), LegendEntry(looks[1], "offline")]


LOAD = ChartKind(
    name="load",
    title="online load",
    text=f"Online requests that arrived, in {NUM_POINTS} bins of time.",
    y_label="requests/s",
    draw=_draw_load,
    top=_load_top,
    legend=lambda _: [],
    applies=lambda timeline: any(timeline.series["online_arrivals_per_s"]),
)
THROUGHPUT = ChartKind(
    name="throughput",
    title="throughput",
    text="Prompt and output tokens of work done, by class; offline work fills what online work "
    "leaves.",
    y_label="tokens/s",
    draw=_draw_throughput,
    top=_throughput_top,
    legend=_classes("line"),
)
STEPS = ChartKind(
    name="steps",
    title="step time",
    text="Mean of the steps in each small bin of time, and the mean of the limits they were "
    "planned to keep, where the policy sets one.",
    y_label="ms",
    draw=_draw_steps,
    top=_steps_top,
    applies=lambda timeline: _steps_top(timeline) > 0,
    legend=_steps_legend,
)
PRICE = ChartKind(
    name="price",
    title="price of interference",
    text="What a second added to a step costs, in seconds of offline work; mean of the steps with "
    "offline requests. Above 1 only work that is cheaper in this step than in a full one is done.",
    y_label="price",
    draw=_draw_price,
    top=_price_top,
    applies=lambda timeline: _price_top(timeline) > 0,
    legend=lambda _: [],
)
REFUSALS = ChartKind(
    name="refusals",
    title="offline refusals",
    text="How often an offline request was granted nothing in a step, by what was short; only "
    "policies that refused any.",
    y_label="refusals/s",
    draw=_draw_refusals,
    top=_refusals_top,
    legend=_refusals_legend,
    applies=lambda timeline: bool(refusals_per_s(timeline)),
)
KV = ChartKind(
    name="kv",
    title="KV cache",
    text="Share of the KV blocks that requests of each class hold.",
    y_label="KV blocks held (%)",
    draw=_draw_kv,
    top=lambda _: 100.0 / HEADROOM,
    applies=lambda timeline: bool(timeline.series["samples"]["time_s"]),
    legend=_classes("area"),
)
