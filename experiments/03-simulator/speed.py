# SPDX-License-Identifier: Apache-2.0
"""How much faster than real time is a simulation, and where does its time go?

Azure requests at 1.1 a second and an arXiv backlog on the A100 Llama-2-7B model with 2,600 KV
blocks, each policy once, statistics included. Writes speed.csv. With --memory: one hour with an
offline backlog of 100,000 requests, and what it took of memory.
"""

import argparse
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

from hygen_vllm.simulator import simulation
from hygen_vllm.simulator.figures import result_of
from hygen_vllm.simulator.policies import NAMES, PolicyInput, find_policy
from hygen_vllm.simulator.run_log import RunLog
from hygen_vllm.simulator.simulated_engine import SimulatedEngine
from hygen_vllm.simulator.simulation import Requests, Run, simulate
from hygen_vllm.simulator.step_time import StepClock
from hygen_vllm.simulator.virtual_engine import VirtualEngine
from hygen_vllm.workloads.arrival_processes import ARXIV_LENGTHS, generate_backlog
from hygen_vllm.workloads.sources import OnlineQuery, find_offline, find_online
from hygen_vllm.workloads.tokenizers import HashTokenizer

HERE = Path(__file__).parent
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


def run(policy_name: str, requests: Requests, seconds: float, stepping: str) -> tuple[Run, float]:
    """Return the run, and the real seconds of it with the making of its result."""
    policy = find_policy(policy_name)
    engine = SimulatedEngine.load(PROFILE, num_kv_blocks=KV_BLOCKS, is_async=stepping == "async")
    mine = Requests(
        requests.online if policy.has_online else [], requests.offline if policy.has_offline else []
    )
    started_s = time.perf_counter()
    done = simulate(engine, policy, policy.settings(GIVEN), mine, seed=0, until_s=seconds)
    result_of(done, PROFILE, 0, [], {})
    return done, time.perf_counter() - started_s


def shares(policy_name: str, requests: Requests, seconds: float) -> dict[str, float]:
    """Return the share of the time in each part; measured apart, since watches take time too."""
    parts = {name: Stopwatch() for name in ("schedule", "update", "device", "log", "add")}
    make = simulation.make_scheduler

    def watched(*args: Any) -> Any:
        scheduler = make(*args)
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
        _, total_s = run(policy_name, requests, seconds, "async")
    finally:
        simulation.make_scheduler = make
        StepClock.step_seconds, RunLog.made, RunLog.completed, VirtualEngine.add = originals
    return {name: watch.seconds / total_s for name, watch in parts.items()}


def workload(seconds: float) -> Requests:
    tokenizer = HashTokenizer()
    online = find_online(OnlineQuery("azure", ONLINE_PER_S, seconds, 0), tokenizer)
    offline = find_offline("arxiv", BACKLOG, 0, tokenizer)
    return Requests(online.requests, offline.requests).fitted(4096)[0]


def speeds(seconds: float, repeats: int) -> None:
    requests = workload(seconds)
    lines = ["policy,stepping,times_real_time,steps,ms_per_step"]
    for policy in NAMES:
        for stepping in ("sync", "async"):
            runs = [run(policy, requests, seconds, stepping) for _ in range(repeats)]
            done, wall_s = min(runs, key=lambda pair: pair[1])
            steps = done.log.num_steps
            ratio, step_ms = done.virtual_s / wall_s, 1e3 * wall_s / steps
            lines.append(f"{policy},{stepping},{ratio:.0f},{steps},{step_ms:.3f}")
            print(lines[-1], flush=True)
    (HERE / "speed.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for policy in ("vllm-priority", "fixed-budget"):
        found = shares(policy, requests, seconds)
        found["rest"] = 1 - sum(found.values())
        print(policy, ", ".join(f"{name} {share:.0%}" for name, share in found.items()))


def memory() -> None:
    online = find_online(OnlineQuery("azure", ONLINE_PER_S, 3600.0, 0), HashTokenizer()).requests
    offline = generate_backlog(ARXIV_LENGTHS, 100_000, 0)
    requests = Requests(online, offline).fitted(4096)[0]
    done, wall_s = run("fixed-budget", requests, 3600.0, "async")
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"one hour, {len(offline)} offline requests: {wall_s:.1f} s, {3600 / wall_s:.0f} times "
        f"real time, {peak_mib:.0f} MiB at most, {done.log.num_finished} requests finished"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="virtual (%(default)g)")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest counts (%(default)s)")
    parser.add_argument("--memory", action="store_true", help="the hour with 100,000 requests")
    options = parser.parse_args()
    if options.memory:
        memory()
    else:
        speeds(options.seconds, options.repeats)


if __name__ == "__main__":
    main()
