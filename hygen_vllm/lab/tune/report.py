# SPDX-License-Identifier: Apache-2.0
"""What tuning found: table, picture, reference for relative targets, settings to serve with."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hygen_vllm.files import replacing, write_text
from hygen_vllm.lab.tune.budget_search import TriedBudget
from hygen_vllm.slo import LatencyStats
from hygen_vllm.targets.reference import FILE_NAME

if TYPE_CHECKING:
    from hygen_vllm.lab.tune.tune import Tuning

SETTINGS_NAME = "hygen.yaml"
OFFLINE_COLOUR, LIMIT_COLOUR, MET_COLOUR = "#e0861a", "#b3261e", "#0b6e4f"


def write_report(tuning: "Tuning", folder: Path) -> str:
    """Write tune.json, the reference, settings if a budget was found, and, with matplotlib, a
    picture; return the report's text.
    """
    text = report_text(tuning)
    _write_json(folder / "tune.json", _as_json(tuning))
    online = {f"{metric}_s": asdict(stats) for metric, stats in tuning.alone[0].stats.items()}
    _write_json(folder / FILE_NAME, {"online": online, "source": tuning.description})
    best = tuning.result.best if tuning.result else None
    settings, picture = folder / SETTINGS_NAME, folder / "tune.png"
    for old in (settings, picture):  # of another search
        old.unlink(missing_ok=True)
    if best is not None:
        lines = ["mode: fixed", f"latency_budget_s: {best.budget_s:.6g}", ""]
        write_text(settings, "\n".join(lines))
        text += f"\nServe with it: HYGEN_CONFIG={settings}\n"
    try:
        _draw(tuning, picture)
    except ModuleNotFoundError:
        text += "No picture: it needs matplotlib (pip install 'hygen-vllm[lab]').\n"
    write_text(folder / "report.md", text)
    return text


def report_text(tuning: "Tuning") -> str:
    """Return what was found, in Markdown."""
    result = tuning.result
    assert result is not None
    alone, best = tuning.alone[0].stats, result.best
    names = ", ".join(str(slo) for slo in tuning.slos)
    lines = [f"# Latency budget for {names}", "", tuning.description, ""]
    lines += [f"Online alone: {_stats_text('TTFT', alone['ttft'])}"]
    lines += [f"{_stats_text('TBT', alone['tbt'])}.", ""]
    header = ["budget", "probes", *(f"{slo}, of its limit" for slo in tuning.slos)]
    lines += [_row([*header, "offline tokens/s", ""]), _row(["---:"] * (len(header) + 1) + [""])]
    for tried in sorted(result.tried, key=lambda tried: tried.budget_s):
        ratios = [f"{ratio:.1%}" for ratio in _ratios(tuning, tried)]
        met = "met" if tried.meets_targets else "missed"
        cells = [f"{1e3 * tried.budget_s:.2f} ms", str(len(tried.probes)), *ratios]
        lines.append(_row([*cells, f"{tried.offline_tokens_per_s:,.0f}", met]))
    lines += ["", f"Noise of a probe: {result.noise:.2%} of the limit.", ""]
    if best is None:
        lines.append("No budget that was tried meets the targets.")
    else:
        lines.append(
            f"The largest budget that meets them is {1e3 * best.budget_s:.2f} ms: "
            f"{best.offline_tokens_per_s:,.0f} offline tokens/s."
        )
    return "\n".join(lines) + "\n"


def _ratios(tuning: "Tuning", tried: TriedBudget) -> list[float]:
    """Return measured / limit of each target, mean over the probes of a budget."""
    probes = [served for budget_s, served in tuning.probes if budget_s == tried.budget_s]
    return [
        sum(
            served.ratio_of(slo, alone.stats)
            for served, alone in zip(probes, tuning.alone, strict=False)
        )
        / len(probes)
        for slo in tuning.slos
    ]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _stats_text(name: str, stats: LatencyStats) -> str:
    def text(value_s: float | None) -> str:
        return "unknown" if value_s is None else f"{1e3 * value_s:.1f} ms"

    return f"{name} mean {text(stats.mean)}, P99 {text(stats.p99)}"


def _as_json(tuning: "Tuning") -> dict[str, Any]:
    result = tuning.result
    assert result is not None
    return {
        "description": tuning.description,
        "slos": [str(slo) for slo in tuning.slos],
        "noise": result.noise,
        "latency_budget_s": None if result.best is None else result.best.budget_s,
        "tried": [
            {
                "budget_s": tried.budget_s,
                "ratios": [_finite(probe.ratio) for probe in tried.probes],
                "offline_tokens_per_s": [probe.offline_tokens_per_s for probe in tried.probes],
                "met": tried.meets_targets,
            }
            for tried in result.tried
        ],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def _draw(tuning: "Tuning", path: Path) -> None:
    """Write a PNG: how near the limit, and how much offline work, by budget."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    assert tuning.result is not None
    tried = sorted(tuning.result.tried, key=lambda tried: tried.budget_s)
    tried = [each for each in tried if math.isfinite(each.ratio)]
    figure, (near, work) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    budgets_ms = [1e3 * each.budget_s for each in tried]
    colours = [MET_COLOUR if each.meets_targets else LIMIT_COLOUR for each in tried]
    near.plot(budgets_ms, [each.ratio for each in tried], color="0.7", zorder=1)
    near.scatter(budgets_ms, [each.ratio for each in tried], c=colours, zorder=2)
    near.axhline(1.0, color=LIMIT_COLOUR, linestyle="--")
    near.set(xscale="log", xlabel="latency budget (ms)", ylabel="measured / limit, largest")
    offline = [each.offline_tokens_per_s for each in tried]
    work.plot(budgets_ms, offline, color=OFFLINE_COLOUR, marker="o")
    work.set(xscale="log", xlabel="latency budget (ms)", ylabel="offline tokens/s", ylim=(0, None))
    for axes in (near, work):
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        if tuning.result.best is not None:
            axes.axvline(1e3 * tuning.result.best.budget_s, color=MET_COLOUR, linestyle=":")
    figure.suptitle(f"{', '.join(map(str, tuning.slos))}: {tuning.description}", fontsize=10)
    with replacing(path) as part:
        figure.savefig(part, dpi=130)
    plt.close(figure)
