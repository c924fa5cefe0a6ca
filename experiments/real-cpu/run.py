# SPDX-License-Identifier: Apache-2.0
"""The main comparison in a real engine on the CPU, and what the simulator says of the same runs.

    python experiments/real-cpu/run.py

Profiles the engine, serves every policy three times, simulates the same runs with that profile, and
writes results.json, summary.csv, figure.png, claims.json, the table in README.md and RESULTS.md.
With --simulate only the last part is done again.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import yaml
from harness.claims import BEHIND, MISSED
from harness.comparison import PRIORITY
from harness.experiment import Claim, Row
from harness.provenance import stamp
from harness.real_engine import (
    FIXED,
    KNOWN,
    RATE,
    add_options,
    limit_of,
    policies_of,
    run_engine,
)
from harness.record import fill_result
from harness.results_page import results_page
from harness.spread import Spread, bars_of
from harness.tables import markdown, write_csv
from harness.tasks import ALONE

from hygen_vllm.lab.simulator.many_runs import Flags, simulate_all
from hygen_vllm.lab.small_model import prepare_small_model
from hygen_vllm.lab.workloads.arrivals import Arrival, LengthScale
from hygen_vllm.lab.workloads.sources import OnlineQuery, find_online
from hygen_vllm.lab.workloads.tokenizers import HashTokenizer
from hygen_vllm.lab.workloads.trace_files import AZURE_COLUMNS
from hygen_vllm.slo import METRICS, LatencyStats, Slo

HERE = Path(__file__).parent
OWN = ("experiments/real-cpu/run.py", "experiments/real-cpu/config.yaml")
SERVED = ("engines", "profiles", "small model", "experiments/harness/real_engine.py", *OWN)
COMPARED = (
    "simulates",
    "findings",
    "small model",
    "experiments/harness/real_engine.py",
    *OWN,
)
PROFILE = HERE / "profile"
RESULTS = HERE / "results.json"
TRACE_S = 3600.0
FIGURES = {
    "TTFT mean, ms": ("ttft", "mean"),
    "TTFT P99, ms": ("ttft", "p99"),
    "TBT mean, ms": ("tbt", "mean"),
    "TBT P99, ms": ("tbt", "p99"),
    "offline tokens/s": None,
}
COLOURS = {"measured": "#0b6e4f", "simulated": "#8a8f98"}


def write_trace(config: Mapping[str, Any], path: Path) -> None:
    """Write the online trace with shorter requests."""
    query = OnlineQuery("azure", None, TRACE_S, config["seed"])
    scale = LengthScale(config["prompt_divisor"], 2048, config["output_divisor"], 2048)
    requests = find_online(query, HashTokenizer(0)).requests
    lines = [",".join(AZURE_COLUMNS), *(_line(scale.apply(item)) for item in requests)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _line(item: Arrival) -> str:
    minutes, seconds = divmod(item.time_s, 60.0)
    clock = f"2023-11-16 {18 + int(minutes) // 60:02}:{int(minutes) % 60:02}:{seconds:010.7f}"
    return f"{clock},{item.prompt_tokens},{item.output_tokens}"


def engine_flags(config: Mapping[str, Any]) -> list[str]:
    """Return vLLM's flags."""
    flags = []
    for name, value in config["engine"].items():
        flags += [f"--{name}", *([] if value is True else [str(value)])]
    return flags


def profile(config: Mapping[str, Any], model: Path) -> None:
    """Measure the engine's step times anew: another machine has others."""
    shutil.rmtree(PROFILE, ignore_errors=True)
    flags = [f"--{name}={value}" for name, value in config["profile"].items()]
    command = [sys.executable, "-m", "hygen_vllm.lab.cli", "profile", "--model", str(model)]
    subprocess.run([*command, *flags, *engine_flags(config), "--out", str(PROFILE)], check=True)


def options_of(config: Mapping[str, Any], model: Path, trace: Path) -> argparse.Namespace:
    """Return the options of harness.real_engine."""
    parser = argparse.ArgumentParser()
    add_options(parser)
    options = parser.parse_args(["--model", str(model), "--out", str(RESULTS)])
    names = ("online_rate", "offline", "offline_requests", "seconds", "runs", "seed", "slo")
    for name in (*names, "latency_budget_ms", "offline_rate"):
        setattr(options, name, config[name])
    options.online, options.hygen_profile = str(trace), PROFILE
    return options


def simulated(config: Mapping[str, Any], options: argparse.Namespace) -> list[Row]:
    """Return the figures of the same runs in the simulator."""
    noise = json.loads((PROFILE / "profile.json").read_text())["fit"].get("noise_floor") or 0.0
    common: Flags = {
        **{name: getattr(options, name) for name in ("online", "online_rate", "offline")},
        **{name: config[name] for name in ("offline_requests", "seconds")},
        "profile": PROFILE,
        "noise": noise,
    }
    names = list(policies_of(options))
    rows: list[Row] = []
    for some in (
        [n for n in names if not n.endswith(KNOWN)],
        [n for n in names if n.endswith(KNOWN)],
    ):
        places = [(run, policy) for run in range(options.runs) for policy in some]
        alone = _alone_by_run(rows)  # who is told it comes second
        cases = [
            {**common, "seed": options.seed + run, **_policy(policy, options, alone.get(run, {}))}
            for run, policy in places
        ]
        results = simulate_all(cases)
        rows += [_row(*place, result) for place, result in zip(places, results, strict=True)]
    alone = _alone_by_run(rows)
    for row in rows:
        ratios = {s: Slo.parse(s).of_limit(_stats(row), alone[row["run"]]) for s in options.slo}
        row["of_limit"] = {slo: ratio for slo, ratio in ratios.items() if ratio is not None}
    return rows


def _alone_by_run(rows: Sequence[Row]) -> dict[int, dict[str, LatencyStats]]:
    return {row["run"]: _stats(row) for row in rows if row["policy"] == ALONE}


def _stats(row: Row) -> dict[str, LatencyStats]:
    return {metric: LatencyStats(**{"p95": None, **row[metric]}) for metric in METRICS}


def _row(run: int, policy: str, result: Row) -> Row:
    return {
        "run": run,
        "policy": policy,
        **{metric: result["online"][f"{metric}_s"] for metric in METRICS},
        "offline_tokens_per_s": result["offline"]["tokens_per_s"],
    }


def _policy(
    policy: str, options: argparse.Namespace, alone: Mapping[str, LatencyStats]
) -> dict[str, Any]:
    more = {
        FIXED: {"latency_budget_ms": options.latency_budget_ms},
        RATE: {"offline_rate": options.offline_rate},
    }
    if policy.endswith(KNOWN):
        return {"policy": "slo", "slo": [limit_of(policy, alone)]}
    if policy in options.slo:
        return {"policy": "slo", "slo": [policy]}
    return {"policy": policy, **more.get(policy, {})}


def summary_of(measured: Sequence[Row], modelled: Sequence[Row]) -> list[Row]:
    """Return measured and simulated figures by policy: median, lowest, highest."""
    rows = []
    for policy in dict.fromkeys(row["policy"] for row in measured):
        for figure in FIGURES:
            row: Row = {"policy": policy, "figure": figure}
            for name, some in (("measured", measured), ("simulated", modelled)):
                values = [_value(each, figure) for each in some if each["policy"] == policy]
                known = [value for value in values if value is not None]
                if known:
                    spread = Spread.of(known)
                    row |= spread.columns(name)
            if "measured" in row:
                rows.append(row)
    return rows


def _value(row: Row, figure: str) -> float | None:
    names = FIGURES[figure]
    if names is None:
        return float(row["offline_tokens_per_s"])
    value = row[names[0]][names[1]]
    return None if value is None else 1e3 * value


def table_of(result: Row, summary: Sequence[Row]) -> str:
    """Return the comparison for people."""
    slos = list(result["rows"][-1]["of_limit"])
    header = ["policy", *FIGURES, *(f"of {slo}" for slo in slos), "scheduler of the time"]
    lines = []
    for policy in dict.fromkeys(row["policy"] for row in summary):
        found = {row["figure"]: row for row in summary if row["policy"] == policy}
        cells = [f"HyGen, {policy}" if policy.removesuffix(KNOWN) in slos else policy]
        cells += [_cell(found.get(figure)) for figure in FIGURES]
        of_policy, modelled = (
            [row for row in result[name] if row["policy"] == policy]
            for name in ("rows", "simulated")
        )
        for slo in slos:
            kept, said = _kept(of_policy, slo), _kept(modelled, slo)
            cells.append(kept.text(".2f") if kept else "")
            cells[-1] += f"; simulated {said.median:.2f}" if kept and said else ""
        cells.append(Spread.of([row["scheduler_share"] for row in of_policy]).text(".1%"))
        lines.append(cells)
    return markdown(header, lines)


def _kept(rows: Sequence[Row], slo: str) -> Spread | None:
    """Return what rows have of a target's limit; None if one has none, or nobody was served."""
    ratios = [row["of_limit"].get(slo) for row in rows]
    known = [ratio for ratio in ratios if ratio is not None and np.isfinite(ratio)]
    return Spread.of(known) if len(known) == len(ratios) else None


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    measured = Spread.from_row(row, "measured").text()
    if not row.get("simulated"):
        return measured
    return f"{measured}; simulated {row['simulated']:,.0f}"


def claims_of(result: Row, summary: Sequence[Row], options: argparse.Namespace) -> list[Claim]:
    """Return a claim for each target: how much of its limit is used, with how much offline work."""
    offline = {row["policy"]: row for row in summary if row["figure"] == "offline tokens/s"}
    return [_claim(slo, result, offline, options) for slo in options.slo]


def _claim(slo: str, result: Row, offline: Mapping[str, Row], options: argparse.Namespace) -> Claim:
    def kept(policy: str, rows: str = "rows") -> Spread:
        found = _kept([row for row in result[rows] if row["policy"] == policy], slo)
        assert found is not None
        return found

    def done(policy: str) -> Spread:
        return Spread.from_row(offline[policy], "measured")

    def text(policy: str) -> str:
        return f"{kept(policy).text('.2f')} with {done(policy).text()} offline tokens/s"

    def ours(policy: str) -> str:
        said = kept(policy, "simulated").median
        return f"{text(policy)}; simulated {said:.2f} with {offline[policy]['simulated']:,.0f}"

    known = f"{slo}{KNOWN}"
    best = known if known in offline else slo
    missed = kept(best).median
    words = [f"the target is missed by {missed - 1:.1%}"] if missed > MISSED else []
    for other in (FIXED, RATE, PRIORITY):
        ratio = done(best).median / done(other).median
        if kept(other).median <= max(MISSED, missed) and ratio < BEHIND:
            words.append(f"{1 - ratio:.1%} behind {other}, which has no more of its limit")
    return Claim(
        result=f"Measured, small model on two CPU cores: {slo}, of its limit",
        baseline=f"priority {text(PRIORITY)}; HyGen* {text(RATE)}",
        fixed=f"{text(FIXED)} ({options.latency_budget_ms:g} ms, not tuned)",
        ours=ours(best) + ("" if best == slo else f"; cold start {ours(slo)}"),
        note="; ".join(words),
    )


def draw(summary: Sequence[Row]) -> Any:
    """Draw measured beside simulated, a panel a figure."""
    policies = list(dict.fromkeys(row["policy"] for row in summary if row["policy"] != "vllm-fcfs"))
    figure, axes = plt.subplots(1, len(FIGURES), figsize=(15, 4), sharey=True, layout="constrained")
    for ax, name in zip(axes, FIGURES, strict=True):
        found = {row["policy"]: row for row in summary if row["figure"] == name}
        for number, (kind, colour) in enumerate(COLOURS.items()):
            some = [
                (place, found[p]) for place, p in enumerate(policies) if kind in found.get(p, {})
            ]
            at = np.array([place for place, _ in some]) + 0.4 * (number - 0.5)
            values, errors = bars_of([row for _, row in some], kind)
            ax.barh(at, values, 0.38, xerr=errors, color=colour, label=kind)
        ax.set_title(name)
    axes[0].set_yticks(range(len(policies)), policies)
    axes[0].invert_yaxis()
    axes[-1].legend(frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulate", action="store_true", help="only simulate what was measured")
    only_simulates = parser.parse_args().simulate
    config = yaml.safe_load((HERE / "config.yaml").read_text())
    with TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.csv"
        write_trace(config, trace)
        model = prepare_small_model()
        options = options_of(config, model, trace)
        if not only_simulates:
            profile(config, model)
            run_engine(options, engine_flags(config))
            files = [f"profile/{path.name}" for path in sorted(PROFILE.iterdir())]
            stamp(HERE, [RESULTS.name, *files], SERVED)
        result = json.loads(RESULTS.read_text())
        modelled = simulated(config, options)
    result["simulated"] = modelled
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    summary = summary_of(result["rows"], modelled)
    write_csv(HERE / "summary.csv", summary)
    draw(summary).savefig(HERE / "figure.png", dpi=110)
    claims = [asdict(claim) for claim in claims_of(result, summary, options)]
    (HERE / "claims.json").write_text(json.dumps(claims, indent=1) + "\n")
    (HERE.parent / "RESULTS.md").write_text(results_page(HERE.parent), encoding="utf-8")
    text = f"{table_of(result, summary)}\n\n![figure](figure.png)\n"
    fill_result(HERE / "README.md", text, HERE / "README.md")
    stamp(HERE, ["summary.csv", "figure.png", "claims.json"], COMPARED)


if __name__ == "__main__":
    main()
