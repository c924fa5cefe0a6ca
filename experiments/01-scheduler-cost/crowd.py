# SPDX-License-Identifier: Apache-2.0
"""The longest steps of a scheduler: 256 requests run, 20,000 online and a million offline wait.

    python experiments/01-scheduler-cost/crowd.py --out experiments/01-scheduler-cost/crowd.csv

Two engines without a model in one process, 50 steps in turn: HyGen's with all requests, and stock
vLLM's with as many that run, and the online ones that wait. Requests end and come in every step,
now and then 256 online ones that share a prefix, and 2,000 offline ones of 40 tenants. `crowd`:
all that run are online, and more wait than can run. `mixed`: half of those that run are offline,
and no online request waits for long. `part`: the seconds of a step's schedule() in HyGen's code,
which are all but those of vLLM's own schedule(), and those of the hook that it calls. The garbage
collector is off: its pauses are those of the requests themselves.
"""

import argparse
import csv
import gc
import itertools
import os
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from harness.provenance import stamp_out
from tqdm import tqdm
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.outputs import ModelRunnerOutput

from hygen_vllm import HyGenScheduler
from hygen_vllm.cost.learner import CostLearner
from hygen_vllm.cost.step_cost import StepCost
from hygen_vllm.lab.bare_scheduler import Limits, make_request, make_scheduler

MEASURES = (
    "serves",
    "hygen_vllm/lab/bare_scheduler.py",
    "experiments/01-scheduler-cost/crowd.py",
)
NUM_RUNNING, ONLINE_WAITING, OFFLINE_WAITING = 256, 20_000, 1_000_000
NUM_STEPS, TURN = 5000, 50
STEP_S = 0.02
BURST_EVERY, BURST = 300, 256
OFFLINE_BURST_EVERY, OFFLINE_BURST = 700, 2000
BLOCK_SIZE = 16
COST = StepCost(0.01, 1e-5, 1e-9, 1e-5, 5e-6, 1e-11, 1e-10)
CASES = ("crowd", "mixed")
POLICIES = ("fcfs", "priority")
MOST_NUMBERS = 1 << 20


class TimedVllm(AsyncScheduler):
    """vLLM's scheduler, which says how long its schedule() took."""

    inner_s = 0.0

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        started_s = time.perf_counter()
        try:
            return super().schedule(*args, **kwargs)
        finally:
            self.inner_s = time.perf_counter() - started_s


class TimedHyGen(HyGenScheduler, TimedVllm):
    """HyGen's scheduler above a timed one; its hook is timed, too."""

    hook_s = 0.0

    def _limit(self, *args: Any) -> int:
        started_s = time.perf_counter()
        granted = super()._limit(*args)
        self.hook_s += time.perf_counter() - started_s
        return granted


class Engine:
    """A scheduler with two steps in flight, and a device whose steps take STEP_S."""

    def __init__(self, cls: Any, policy: str, settings: dict[str, Any] | None) -> None:
        self.now_s = 0.0
        limits = Limits(
            max_num_seqs=NUM_RUNNING,
            max_num_batched_tokens=8192,
            max_model_len=8192,
            num_blocks=40_000,
            block_size=BLOCK_SIZE,
            policy=policy,
            log_stats=False,
            scheduler_options={"async_scheduling": True},
        )
        clocks = {} if settings is None else {"clock": lambda: self.now_s}
        self.scheduler: Any = make_scheduler(cls, limits, settings, **clocks)
        if settings is not None:
            self.scheduler.hygen.learner = CostLearner(COST)
        self._in_flight: deque[tuple[SchedulerOutput, ModelRunnerOutput]] = deque()
        self._numbers = itertools.count()

    def add(self, slo_class: str, count: int, family: int | None = None) -> None:
        """Add requests; those of a family share 20 blocks of 24, others two of six."""
        for _ in range(count):
            number = next(self._numbers)
            shared = number % 4000 if family is None else -family
            head = [(shared * 7919 + i) % 30_011 for i in range(BLOCK_SIZE * (20 if family else 2))]
            tail = [(number * 104_729 + i) % 30_011 for i in range(64)]
            is_offline = slo_class == "offline"
            self.scheduler.add_request(
                make_request(
                    f"{slo_class}-{number}",
                    head + tail,
                    slo_class=slo_class,
                    max_tokens=40 + number % 400,
                    block_size=BLOCK_SIZE,
                    priority=1 + number % 20 if is_offline else 0,
                    arrival_time=self.now_s + number / MOST_NUMBERS,
                    extra_args={"tenant": f"t{number % 40}"} if is_offline else None,
                )
            )

    def step(self) -> tuple[float, float]:
        """Run one step; return the seconds of schedule(), and those of HyGen's part."""
        self.scheduler.hook_s = 0.0
        started_s = time.perf_counter()
        output = self.scheduler.schedule()
        seconds = time.perf_counter() - started_s
        part_s = seconds - self.scheduler.inner_s + self.scheduler.hook_s
        ids = list(output.num_scheduled_tokens)
        requests = self.scheduler.requests
        tokens = [[] if requests[i].is_prefill_chunk else [7] for i in ids]
        places = {request_id: place for place, request_id in enumerate(ids)}
        result = ModelRunnerOutput(req_ids=ids, req_id_to_index=places, sampled_token_ids=tokens)
        self._in_flight.append((output, result))
        self.now_s += STEP_S
        if len(self._in_flight) > 1:
            self.scheduler.update_from_output(*self._in_flight.popleft())
        return seconds, part_s


def measure(case: str, policy: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return a row of the table."""
    ours = Engine(TimedHyGen, policy, {})
    stock = Engine(TimedVllm, policy, None)
    waiting = options.online_waiting if case == "crowd" else 0
    for engine in (ours, stock):
        is_ours = engine is ours
        running = NUM_RUNNING if case == "crowd" or not is_ours else NUM_RUNNING // 2
        engine.add("online", running)
        for _ in range(20):
            engine.step()
        engine.add("online", waiting)
    ours.add("offline", options.offline_waiting)
    while ours.scheduler.waiting.offline.num_new and case == "mixed":
        ours.scheduler.waiting.offline.start_scan(ours.now_s)
    times: dict[str, list[float]] = {"ours": [], "stock": [], "part": []}
    bar = tqdm(total=options.steps, unit="step", desc=f"{case}, {policy}", file=sys.stderr)
    for step in range(0, options.steps, TURN):
        for name, engine in (("stock", stock), ("ours", ours)):
            turn = [_step(engine, step + n, case, name) for n in range(TURN)]
            times[name] += [seconds for seconds, _ in turn]
            if engine is ours:
                times["part"] += [part_s for _, part_s in turn]
        bar.update(TURN)
    bar.close()
    quantiles = {name: np.quantile(values, (0.5, 0.999, 1.0)) for name, values in times.items()}
    return {
        "case": case,
        "policy": policy,
        "online_waiting": waiting,
        "offline_waiting": options.offline_waiting,
        **{
            f"{name}_{what}_ms": 1e3 * float(value)
            for name in times
            for what, value in zip(("p50", "p99.9", "max"), quantiles[name], strict=True)
        },
        "ratio_p50": float(quantiles["ours"][0] / quantiles["stock"][0]),
        "ratio_p99.9": float(quantiles["ours"][1] / quantiles["stock"][1]),
        "part_p99.9_of_stock": float(quantiles["part"][1] / quantiles["stock"][1]),
    }


def _step(engine: Engine, step: int, case: str, name: str) -> tuple[float, float]:
    """Let requests come, as many as end; run a step."""
    missing = NUM_RUNNING // (2 if case == "mixed" and name == "ours" else 1)
    scheduler = engine.scheduler
    num_online = sum(r.request_id.startswith("online") for r in scheduler.running)
    if case == "mixed" and num_online < missing:
        engine.add("online", min(4, missing - num_online))
    if case == "crowd":
        engine.add("online", 1)
    if step % BURST_EVERY == BURST_EVERY - 1:
        engine.add("online", BURST, family=1 + step)
    if name == "ours" and step % OFFLINE_BURST_EVERY == OFFLINE_BURST_EVERY - 1:
        engine.add("offline", OFFLINE_BURST)
    return engine.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the table as CSV")
    parser.add_argument("--steps", type=int, default=NUM_STEPS)
    parser.add_argument("--online-waiting", type=int, default=ONLINE_WAITING)
    parser.add_argument("--offline-waiting", type=int, default=OFFLINE_WAITING)
    options = parser.parse_args()
    rows = []
    for case in CASES:
        for policy in POLICIES:
            gc.collect()
            gc.disable()
            rows.append(measure(case, policy, options))
            gc.enable()
            print(rows[-1], file=sys.stderr)
    if options.out is not None:
        with options.out.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        stamp_out(options.out, MEASURES)


if __name__ == "__main__":
    main()
