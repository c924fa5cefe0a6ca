# SPDX-License-Identifier: Apache-2.0
"""How much faster than real time is a simulation, and where does its time go?

Azure requests at 1.1 a second and an arXiv backlog on the A100 Llama-2-7B model with 2,600 KV
blocks, each policy once, statistics included. Writes speed.csv; its ratio is that of a step's
processor time to that of a step under vllm-fcfs with the same stepping. With --check FILE: are
ratios still what FILE says? With --memory: one hour with an offline backlog of 100,000 requests,
and what it took of memory.
"""

import argparse
import csv
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.provenance import stamp_out
from harness.regression import Row, Verdict, add_check, compare, read_rows, report
from tqdm import tqdm

from hygen_vllm.lab.policies import NAMES, PolicyInput, find_policy
from hygen_vllm.lab.simulator import simulation
from hygen_vllm.lab.simulator.figures import result_of
from hygen_vllm.lab.simulator.run_log import RunLog
from hygen_vllm.lab.simulator.simulated_engine import SimulatedEngine
from hygen_vllm.lab.simulator.simulation import Requests, Run, simulate
from hygen_vllm.lab.simulator.step_time import StepClock
from hygen_vllm.lab.simulator.virtual_engine import VirtualEngine
from hygen_vllm.lab.workloads.arrival_processes import ARXIV_LENGTHS, generate_backlog
from hygen_vllm.lab.workloads.sources import OnlineQuery, find_offline, find_online
from hygen_vllm.lab.workloads.tokenizers import HashTokenizer

HERE = Path(__file__).parent
MEASURES = (
    "simulates",
    "experiments/03-simulator/speed.py",
    "profiles/a100/llama2-7b/*.json",
)
REFERENCE = "vllm-fcfs"
KEYS = ("policy", "stepping")
PROCESSOR_MS = "processor_ms_per_step"
SECONDS, CHECK_SECONDS = 600.0, 200.0
PROFILE = "a100-llama2-7b"
KV_BLOCKS = 2600
ONLINE_PER_S = 1.1
BACKLOG = 20_000
GIVEN = PolicyInput(latency_budget_s=0.04, offline_rate_per_s=0.3)


class Stopwatch:
    """Adds up the seconds spent in functions that it wraps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            started_s = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - started_s

        return timed


@dataclass(frozen=True)
class Took:
    """Seconds of a run with the making of its result: on the clock, and of the processor."""

    wall_s: float
    processor_s: float


def run(policy_name: str, requests: Requests, seconds: float, stepping: str) -> tuple[Run, Took]:
    """Simulate once."""
    policy = find_policy(policy_name)
    engine = SimulatedEngine.load(PROFILE, num_kv_blocks=KV_BLOCKS, is_async=stepping == "async")
    mine = Requests(
        requests.online if policy.has_online else [], requests.offline if policy.has_offline else []
    )
    started_s, processor_s = time.perf_counter(), time.process_time()
    done = simulate(engine, policy, policy.settings(GIVEN), mine, seed=0, until_s=seconds)
    result_of(done, PROFILE, 0, [], {})
    return done, Took(time.perf_counter() - started_s, time.process_time() - processor_s)


def shares(policy_name: str, requests: Requests, seconds: float) -> dict[str, float]:
    """Return the share of the time in each part; measured apart, since watches take time too."""
    parts = {name: Stopwatch() for name in ("schedule", "update", "device", "log", "add")}
    make = simulation.make_scheduler

    def watched(*args: Any, **clocks: Any) -> Any:
        scheduler = make(*args, **clocks)
        scheduler.schedule = parts["schedule"].wrap(scheduler.schedule)
        scheduler.update_from_output = parts["update"].wrap(scheduler.update_from_output)
        return scheduler

    originals = StepClock.step_seconds, RunLog.made, RunLog.completed, VirtualEngine.add
    simulation.make_scheduler = watched
    StepClock.step_seconds = parts["device"].wrap(StepClock.step_seconds)
    RunLog.made = parts["log"].wrap(RunLog.made)
    RunLog.completed = parts["log"].wrap(RunLog.completed)
    VirtualEngine.add = parts["add"].wrap(VirtualEngine.add)
    try:
        _, took = run(policy_name, requests, seconds, "async")
    finally:
        simulation.make_scheduler = make
        StepClock.step_seconds, RunLog.made, RunLog.completed, VirtualEngine.add = originals
    return {name: watch.seconds / took.wall_s for name, watch in parts.items()}


def workload(seconds: float) -> Requests:
    tokenizer = HashTokenizer()
    online = find_online(OnlineQuery("azure", ONLINE_PER_S, seconds, 0), tokenizer)
    offline = find_offline("arxiv", BACKLOG, 0, tokenizer)
    return Requests(online.requests, offline.requests).fitted(4096)[0]


def step_ms(policy: str, requests: Requests, seconds: float, stepping: str, repeats: int) -> float:
    """Return milliseconds of the processor for a step, in the fastest of some runs."""
    runs = (run(policy, requests, seconds, stepping) for _ in range(repeats))
    return min(1e3 * took.processor_s / done.log.num_steps for done, took in runs)


def with_ratios(rows: Sequence[Row], column: str) -> list[dict[str, str]]:
    """Return rows with the ratio of a step to a step of stock vLLM that is stepped alike."""
    stock = {row["stepping"]: row[column] for row in rows if row["policy"] == REFERENCE}
    return [
        {**row, "ratio": f"{float(row[column]) / float(stock[row['stepping']]):.3f}"}
        for row in rows
    ]


def speeds(seconds: float, repeats: int, out: Path) -> None:
    requests = workload(seconds)
    rows = []
    for policy in NAMES:
        for stepping in ("sync", "async"):
            runs = [run(policy, requests, seconds, stepping) for _ in range(repeats)]
            done, took = min(runs, key=lambda pair: pair[1].wall_s)
            steps = done.log.num_steps
            row = {
                "policy": policy,
                "stepping": stepping,
                "times_real_time": f"{done.virtual_s / took.wall_s:.0f}",
                "steps": str(steps),
                "ms_per_step": f"{1e3 * took.wall_s / steps:.3f}",
                PROCESSOR_MS: f"{1e3 * min(t.processor_s for _, t in runs) / steps:.4f}",
            }
            print(*row.values(), flush=True)
            rows.append(row)
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "ratio"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(with_ratios(rows, PROCESSOR_MS))
    stamp_out(out, MEASURES)
    for policy in ("vllm-priority", "fixed-budget"):
        found = shares(policy, requests, seconds)
        found["rest"] = 1 - sum(found.values())
        print(policy, ", ".join(f"{name} {share:.0%}" for name, share in found.items()))


def committed(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table but those of the reference, which are 1."""
    rows = read_rows(path)
    if "ratio" not in rows[0]:
        rows = with_ratios(rows, "ms_per_step")
    return [row for row in rows if row["policy"] != REFERENCE]


def check(rows: Sequence[Row], seconds: float) -> list[Verdict]:
    """Measure the policies of a table again, each in turn with stock vLLM, in shorter runs."""
    requests = workload(seconds)

    def ratio(row: Row, effort: int) -> float:
        policy, stepping = row["policy"], row["stepping"]
        if policy not in NAMES:
            raise LookupError(policy)
        ours, stock = (
            step_ms(name, requests, seconds, stepping, effort) for name in (policy, REFERENCE)
        )
        return ours / stock

    return compare(tqdm(rows, unit="case", file=sys.stderr), KEYS, ratio)


def memory() -> None:
    online = find_online(OnlineQuery("azure", ONLINE_PER_S, 3600.0, 0), HashTokenizer()).requests
    offline = generate_backlog(ARXIV_LENGTHS, 100_000, 0)
    requests = Requests(online, offline).fitted(4096)[0]
    done, took = run("fixed-budget", requests, 3600.0, "async")
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"one hour, {len(offline)} offline requests: {took.wall_s:.1f} s, "
        f"{3600 / took.wall_s:.0f} times real time, {peak_mib:.0f} MiB at most, "
        f"{done.log.num_finished} requests finished"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seconds", type=float, help=f"virtual ({SECONDS:g}; {CHECK_SECONDS:g} with --check)"
    )
    parser.add_argument("--repeats", type=int, default=3, help="the fastest counts (%(default)s)")
    parser.add_argument("--memory", action="store_true", help="the hour with 100,000 requests")
    parser.add_argument("--out", type=Path, default=HERE / "speed.csv", help="%(default)s")
    add_check(parser)
    options = parser.parse_args()
    if options.check is not None:
        verdicts = check(committed(options.check), options.seconds or CHECK_SECONDS)
        sys.exit(report(verdicts, options.verdicts))
    if options.memory:
        memory()
    else:
        speeds(options.seconds or SECONDS, options.repeats, options.out)


if __name__ == "__main__":
    main()
