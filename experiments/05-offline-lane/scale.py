# SPDX-License-Identifier: Apache-2.0
"""What a long queue of offline requests costs: time of a step, memory, time to take it in.

    python experiments/05-offline-lane/scale.py --out scale.csv
    python experiments/05-offline-lane/scale.py --check scale.csv   # are ratios as they were?

Real scheduler objects without a model. `step`: all slots are taken by decoding requests, half of
them offline, and the queue waits. `admit`: every step finishes offline requests of one output token
and starts as many. Both with the queue as long as it says and with a queue that is just not empty,
40 steps in turn in one process. `added`: 100,000 requests come between two steps; the longest and
the median of the steps after it, while they are put in order, and how much longer they are on
average than before, as a share of a step of 20 ms on a device. `memory`: bytes of the offline lane
for a queued request, beside vLLM's own objects. Python's garbage collector is off in timings: its
pauses are those of vLLM's own objects, and the same without us.
"""

import argparse
import gc
import os
import statistics
import sys
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.provenance import stamp_out
from harness.regression import Row, Verdict, add_check, compare, read_rows, report
from runs import write_rows
from tqdm import tqdm
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request

from hygen_vllm import HyGenScheduler
from hygen_vllm.lab.bare_scheduler import Limits, make_request, make_scheduler

MEASURES = (
    "serves",
    "hygen_vllm/lab/bare_scheduler.py",
    "experiments/05-offline-lane/scale.py",
    "experiments/05-offline-lane/runs.py",
)
KEYS = ("case", "kind", "queued")
BLOCK_SIZE = 16
PROMPT_TOKENS = 128
NUM_RUNNING = 64
DEVICE_STEP_S = 0.02
"""Seconds of a step on the device behind the schedulers, as far as they know."""
SHORT = 200
LENGTHS = (10_000, 100_000, 1_000_000)
BURST = 100_000
TURNS, STEPS_PER_TURN = 8, 40
STEPS_AROUND = 400
"""Before and after a burst, with which its steps are compared."""
MOST, CHECK_MOST = 1_000_000, 10_000
FAMILY = 250
"""Requests that share six blocks of eight."""
KINDS = ("unique", "families", "identical")
SLOTS = {"step": NUM_RUNNING, "admit": NUM_RUNNING + 4}
CASES = (*SLOTS, "added", "memory")


def prompt(kind: str, number: int) -> list[int]:
    """Return the tokens of a queued request."""
    shared = {"unique": number, "families": number // FAMILY, "identical": 0}[kind]
    own = 0 if kind == "identical" else number
    head = [(shared * 7919 + i) % 30_011 for i in range(6 * BLOCK_SIZE)]
    return head + [(own * 104_729 + i) % 30_011 for i in range(PROMPT_TOKENS - len(head))]


def queued(kind: str, number: int) -> Request:
    return make_request(
        f"queued-{number}",
        prompt(kind, number),
        slo_class="offline",
        max_tokens=1,
        block_size=BLOCK_SIZE,
    )


class Engine:
    """A scheduler whose running requests decode, with a queue behind them.

    Its clock is that of a device on which each step takes DEVICE_STEP_S.

    Args: num_slots: as many as run for slots that are full, more for a queue that moves.
    """

    def __init__(self, num_slots: int, hygen: dict[str, Any]) -> None:
        self.now_s = 0.0
        limits = Limits(
            max_num_seqs=num_slots,
            max_num_batched_tokens=8192,
            max_model_len=60_000,
            num_blocks=NUM_RUNNING * 500,
            block_size=BLOCK_SIZE,
            log_stats=False,
        )
        self.scheduler: Any = make_scheduler(
            HyGenScheduler, limits, hygen, clock=lambda: self.now_s
        )
        for i in range(NUM_RUNNING):
            tokens = [(i * 31 + j) % 997 for j in range(512)]
            slo_class = "offline" if i % 2 else "online"
            name = f"running-{i}"
            request = make_request(
                name, tokens, slo_class=slo_class, max_tokens=40_000, block_size=BLOCK_SIZE
            )
            self.scheduler.add_request(request)
        while any(not r.num_output_tokens for r in self.scheduler.requests.values()):
            self.step()

    def add(self, kind: str, count: int) -> float:
        """Add queued requests; return the seconds that adding one took."""
        requests = [queued(kind, number) for number in range(count)]
        started_s = time.perf_counter()
        for request in requests:
            self.scheduler.add_request(request)
        return (time.perf_counter() - started_s) / max(1, count)

    def put_in_order(self) -> None:
        """Empty the inbox without a step: the running requests stay as long as they are."""
        while self.scheduler.waiting.offline.num_new:
            self.scheduler.waiting.offline.start_scan(self.scheduler.hygen.clock())

    def step(self) -> float:
        """Run one step; return the seconds of schedule()."""
        started_s = time.perf_counter()
        output = self.scheduler.schedule()
        seconds = time.perf_counter() - started_s
        self.now_s += DEVICE_STEP_S
        ids = list(output.num_scheduled_tokens)
        requests = self.scheduler.requests
        tokens = [[] if requests[i].is_prefill_chunk else [7] for i in ids]
        places = {request_id: place for place, request_id in enumerate(ids)}
        self.scheduler.update_from_output(
            output, ModelRunnerOutput(req_ids=ids, req_id_to_index=places, sampled_token_ids=tokens)
        )
        return seconds


def step_row(case: str, kind: str, num_queued: int, turns: int = TURNS) -> dict[str, Any]:
    """Compare steps with a long queue to steps with a short one."""
    hygen = {"latency_budget_s": 100.0}
    short, long = (Engine(SLOTS[case], hygen) for _ in range(2))
    short.add(kind, SHORT)
    long.add(kind, num_queued)
    for engine in (short, long):
        engine.put_in_order()
    times: dict[str, list[float]] = {"short": [], "long": []}
    added = SHORT
    for _ in range(turns):
        for name, engine in (("short", short), ("long", long)):
            steps = [engine.step() for _ in range(STEPS_PER_TURN)]
            times[name].append(statistics.median(steps))
        while len(short.scheduler.waiting.offline) < SHORT:
            short.scheduler.add_request(queued(kind, num_queued + added))
            added += 1
        short.put_in_order()
    ratios = [b / a for a, b in zip(times["short"], times["long"], strict=True)]
    return {
        "case": case,
        "kind": kind,
        "queued": num_queued,
        "short_queue_us": round(1e6 * statistics.median(times["short"]), 1),
        "us": round(1e6 * statistics.median(times["long"]), 1),
        "ratio": round(statistics.median(ratios), 3),
        "added_us": "",
        "longest_ms": "",
        "share_of_steps": "",
        "bytes": "",
    }


def burst_row(kind: str, count: int) -> dict[str, Any]:
    """Time the steps after many requests came at once, while they are put in order."""
    engine = Engine(NUM_RUNNING, {"latency_budget_s": 100.0})
    engine.add(kind, SHORT // 2)
    engine.put_in_order()
    before = [engine.step() for _ in range(STEPS_AROUND)]
    requests = [queued(kind, SHORT + number) for number in range(count)]
    started_s = time.perf_counter()
    for request in requests:
        engine.scheduler.add_request(request)
    each_s = (time.perf_counter() - started_s) / count
    steps = []
    while engine.scheduler.waiting.offline.num_new:
        steps.append(engine.step())
    around = before + [engine.step() for _ in range(STEPS_AROUND)]
    return {
        "case": "added",
        "kind": kind,
        "queued": count,
        "short_queue_us": round(1e6 * statistics.median(around), 1),
        "us": round(1e6 * statistics.median(steps), 1),
        "ratio": "",
        "added_us": round(1e6 * each_s, 1),
        "longest_ms": round(1e3 * max(steps), 2),
        "share_of_steps": round(
            (statistics.mean(steps) - statistics.mean(around)) / DEVICE_STEP_S, 4
        ),
        "bytes": "",
    }


def memory_row(kind: str, count: int) -> dict[str, Any]:
    """Measure what the offline lane holds for a queued request."""
    engine = Engine(NUM_RUNNING, {})
    requests = [queued(kind, number) for number in range(count)]
    queue = engine.scheduler.waiting.offline
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for request in requests:
        queue.add(request, 0.0)
    engine.put_in_order()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {
        "case": "memory",
        "kind": kind,
        "queued": count,
        "short_queue_us": "",
        "us": "",
        "ratio": "",
        "added_us": "",
        "longest_ms": "",
        "share_of_steps": "",
        "bytes": round((after - before) / count),
    }


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep Python's garbage collector off, after one collection."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def rows(most: int, cases: Sequence[str]) -> Iterator[dict[str, Any]]:
    for kind in KINDS:
        lengths = LENGTHS if kind == "families" else LENGTHS[:-1]
        for num_queued in (n for n in lengths if n <= most):
            for case in (case for case in SLOTS if case in cases):
                with no_collection():
                    yield step_row(case, kind, num_queued)
        if "added" in cases:
            with no_collection():
                yield burst_row(kind, min(BURST, most))
        if "memory" in cases:
            yield memory_row(kind, min(BURST, most))


def check(committed: Sequence[Row]) -> list[Verdict]:
    """Measure the steps of a table again; how much is in memory is not a matter of speed."""

    def ratio(row: Row, effort: int) -> float:
        if row["kind"] not in KINDS:
            raise LookupError(row["kind"])
        with no_collection():
            found = step_row(row["case"], row["kind"], int(row["queued"]), effort * TURNS)
        return float(found["ratio"])

    return compare(tqdm(committed, unit="row", file=sys.stderr), KEYS, ratio)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the table as CSV")
    parser.add_argument("--most", type=int, help=f"longest queue: {MOST}; {CHECK_MOST} to check")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    add_check(parser)
    options = parser.parse_args()
    if options.check is not None:
        most = CHECK_MOST if options.most is None else options.most
        cases = SLOTS.keys() & options.cases
        table = read_rows(options.check)
        some = [row for row in table if row["case"] in cases and int(row["queued"]) <= most]
        sys.exit(report(check(some), options.verdicts))
    found = rows(MOST if options.most is None else options.most, options.cases)
    write_rows(options.out, list(tqdm(found, unit="row", file=sys.stderr)))
    stamp_out(options.out, MEASURES)


if __name__ == "__main__":
    main()
