# SPDX-License-Identifier: Apache-2.0
"""Targets kept although something is wrong, and what that costs in offline work.

    python experiments/04-slo-control/hard_times.py

Prints a table and writes hard-times.csv.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from runs import HERE, Case, Row, read_rows, run_all, write_rows

from hygen_vllm.workloads.arrivals import Arrival
from hygen_vllm.workloads.sources import OnlineQuery, find_online
from hygen_vllm.workloads.tokenizers import HashTokenizer

TARGETS = (["tbt_mean=+10%"], ["tbt_p99=+20%"], ["ttft_p99=+20%"])
PAIRS = [["ttft_p99=+8%", f"tbt_mean=+{rise}%"] for rise in (10, 20, 30, 40, 50)]
SPIKE_S, SPIKE_FACTOR = 60.0, 3.0
HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def write_spike(path: Path, rate: float, seconds: float, seed: int) -> None:
    """Write the trace with three times the requests for a minute in the middle."""
    base, more = (
        find_online(OnlineQuery("azure", times * rate, seconds, seed), HashTokenizer(0)).requests
        for times in (1.0, SPIKE_FACTOR)
    )
    begins_s = 0.5 * seconds
    ends_s = begins_s + SPIKE_S
    spike = [item for item in more if begins_s <= item.time_s < ends_s]
    others = [item for item in base if not begins_s <= item.time_s < ends_s]
    lines = [_line(item) for item in sorted([*spike, *others], key=lambda item: item.time_s)]
    path.write_text(HEADER + "".join(lines), encoding="utf-8")


def _line(item: Arrival) -> str:
    minutes, seconds = divmod(item.time_s, 60.0)
    clock = f"2023-11-16 {18 + int(minutes) // 60:02}:{int(minutes) % 60:02}:{seconds:010.7f}"
    return f"{clock},{item.prompt_tokens},{item.output_tokens}\n"


def cases(flags: dict[str, object], spike: Path) -> list[Case]:
    """Return each target in each kind of trouble."""
    half_s = 0.5 * float(str(flags["seconds"]))
    troubles: dict[str, dict[str, object]] = {
        "none": {},
        "predictor error 5 %": {"predictor_error": 0.05},
        "predictor error 10 %": {"predictor_error": 0.1},
        "predictor error 20 %": {"predictor_error": 0.2},
        "3x online for 60 s": {"online": str(spike), "online_rate": None},
        "steps 30 % longer from half-time on": {"slowdown": [(half_s, 1.3)]},
        "no profile": {"unprofiled": True},
        "5 % noise": {"noise": 0.05},
    }
    found = [
        Case(name, "slo", {**flags, **trouble, "slo": slos})
        for slos in TARGETS
        for name, trouble in troubles.items()
    ]
    return found + [Case("two targets", "slo", {**flags, "slo": slos}) for slos in PAIRS]


def table(rows: list[Row]) -> str:
    """Return the runs as a Markdown table."""
    calm = {row.slos: row.offline_tokens_per_s for row in rows if row.name == "none"}
    lines = ["| targets | trouble | of its limit | offline tokens/s | change |"]
    lines.append("|---|---|---:|---:|---:|")
    for row in rows:
        change = ""
        if row.slos in calm and row.name != "none":
            change = f"{row.offline_tokens_per_s / calm[row.slos] - 1:+.0%}"
        lines.append(
            f"| {row.slos} | {row.name} | {row.worst_ratio:.3f} | "
            f"{row.offline_tokens_per_s:,.0f} | {change} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=31)
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--table", action="store_true", help="only print what was measured before")
    arguments = parser.parse_args()
    path = HERE / "hard-times.csv"
    if not arguments.table:
        flags: dict[str, object] = {
            "online": "azure",
            "online_rate": 1.1,
            "offline_requests": int(4 * arguments.seconds),
            "seconds": arguments.seconds,
            "seed": arguments.seed,
        }
        with TemporaryDirectory() as folder:
            spike = Path(folder) / "spike.csv"
            write_spike(spike, 1.1, arguments.seconds, arguments.seed)
            rows = run_all(cases(flags, spike))
        write_rows(path, rows)
    print(table(read_rows(path)))


if __name__ == "__main__":
    main()
