# SPDX-License-Identifier: Apache-2.0
"""Time of one schedule() call, ours against stock AsyncScheduler, in one process and one run.

Two engines without a model decode side by side: a few steps of one, a few of the other, in turn.
What counts is schedule(), as a ratio of medians; with --slos, in mode `slo`, schedule() and
update_from_output() together, for there the controller listens.

With --check FILE: are ratios still what FILE says? A short run of the cases in it.
"""

import argparse
import csv
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.provenance import stamp_out
from harness.regression import Row, Verdict, add_check, compare, read_rows, report
from tqdm import tqdm
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.outputs import ModelRunnerOutput

from hygen_vllm import HyGenAsyncScheduler
from hygen_vllm.lab.bare_scheduler import Limits, make_request, make_scheduler

MEASURES = (
    "serves",
    "hygen_vllm/lab/bare_scheduler.py",
    "experiments/01-scheduler-cost/run.py",
)
KEYS = ("running", "case", "offline_waiting")
TURNS, MOST_WAITING = 30, 100_000
CHECK_TURNS, CHECK_MOST_WAITING = 6, 1_000
PROMPT_TOKENS = 512
MAX_TOKENS = 30_000
STEPS_PER_TURN = 20
DEPTH = 2  # steps in flight
WARM_UP_TURNS = 2
# Limits that nothing exceeds: every grant is priced, none is refused for its price.
FIXED = {"latency_budget_s": 100.0}
SLOS = {"slos": ["tbt_p99=100s", "tbt_p50=100s"]}


@dataclass(frozen=True)
class Case:
    """So many running requests, the share of them offline, and a queue of offline requests."""

    num_running: int
    offline_share: float
    num_waiting: int

    @property
    def name(self) -> str:
        if not self.offline_share and not self.num_waiting:
            return "online only"
        return "half offline" if self.offline_share else "online running, offline waiting"


def cases(max_waiting: int) -> Iterator[Case]:
    for num_running in (16, 64, 256):
        yield Case(num_running, 0.0, 0)
        for num_waiting in (0, 1_000, 100_000):
            if num_waiting <= max_waiting:
                if num_waiting:
                    yield Case(num_running, 0.0, num_waiting)
                yield Case(num_running, 0.5, num_waiting)


class DecodingEngine:
    """A scheduler whose slots are full of decoding requests, two steps in flight."""

    def __init__(self, cls: type[Scheduler], case: Case, hygen: Mapping[str, Any]) -> None:
        limits = Limits(
            max_num_seqs=case.num_running,
            max_num_batched_tokens=8192,
            max_model_len=60_000,
            num_blocks=case.num_running * (PROMPT_TOKENS // 16 + 400),
            block_size=16,
        )
        self.scheduler = make_scheduler(cls, limits, hygen)
        num_offline = int(case.num_running * case.offline_share)
        for i in range(case.num_running):
            slo_class = "offline" if i < num_offline else "online"
            self.scheduler.add_request(_request(f"running-{i}", slo_class, PROMPT_TOKENS, i))
        self._in_flight = []
        while any(r.num_output_tokens < DEPTH for r in self.scheduler.requests.values()):
            self.step()
        for i in range(case.num_waiting):
            self.scheduler.add_request(_request(f"waiting-{i}", "offline", 32, i))

    def step(self) -> tuple[float, float]:
        """Run one step; return the seconds of schedule() and of update_from_output()."""
        started = time.perf_counter()
        output = self.scheduler.schedule()
        schedule_s, update_s = time.perf_counter() - started, 0.0
        ids = list(output.num_scheduled_tokens)
        decoding = [not self.scheduler.requests[i].is_prefill_chunk for i in ids]
        self._in_flight.append((output, ids, decoding))
        if len(self._in_flight) == DEPTH:
            done, ids, decoding = self._in_flight.pop(0)
            result = ModelRunnerOutput(
                req_ids=ids,
                req_id_to_index={request_id: i for i, request_id in enumerate(ids)},
                sampled_token_ids=[[7] if is_decoding else [] for is_decoding in decoding],
            )
            started = time.perf_counter()
            self.scheduler.update_from_output(done, result)
            update_s = time.perf_counter() - started
        return schedule_s, update_s


def _request(request_id: str, slo_class: str, num_tokens: int, seed: int):
    prompt = [(seed * 31 + i) % 997 for i in range(num_tokens)]
    return make_request(
        request_id, prompt, slo_class=slo_class, max_tokens=MAX_TOKENS, block_size=16
    )


def measure(case: Case, num_turns: int, has_slos: bool) -> dict[str, Any]:
    settings = SLOS if has_slos else FIXED
    stock = DecodingEngine(AsyncScheduler, case, settings)
    hygen = DecodingEngine(HyGenAsyncScheduler, case, settings)
    times: dict[str, list[float]] = {"stock": [], "hygen": []}
    for turn in range(num_turns + WARM_UP_TURNS):
        for name, engine in (("stock", stock), ("hygen", hygen)):
            steps = [engine.step() for _ in range(STEPS_PER_TURN)]
            seconds = [sum(step) if has_slos else step[0] for step in steps]
            if turn >= WARM_UP_TURNS:
                times[name].append(statistics.median(seconds))
    ratios = [b / a for a, b in zip(times["stock"], times["hygen"], strict=True)]
    return {
        "running": case.num_running,
        "case": case.name,
        "offline_waiting": case.num_waiting,
        "stock_us": round(1e6 * statistics.median(times["stock"]), 1),
        "hygen_us": round(1e6 * statistics.median(times["hygen"]), 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
    }


def check(rows: Sequence[Row], num_turns: int, has_slos: bool) -> list[Verdict]:
    """Measure the cases of a table again, shortly."""
    by_key = {
        (str(case.num_running), case.name, str(case.num_waiting)): case
        for case in cases(MOST_WAITING)
    }

    def ratio(row: Row, effort: int) -> float:
        case = by_key[tuple(row[key] for key in KEYS)]
        return float(measure(case, effort * num_turns, has_slos)["ratio"])

    return compare(tqdm(rows, unit="case", file=sys.stderr), KEYS, ratio)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the table as CSV")
    parser.add_argument("--turns", type=int, help=f"{TURNS}; {CHECK_TURNS} with --check")
    parser.add_argument("--slos", action="store_true", help="in mode slo, update included")
    parser.add_argument(
        "--max-waiting", type=int, help=f"{MOST_WAITING}; {CHECK_MOST_WAITING} with --check"
    )
    add_check(parser)
    options = parser.parse_args()
    if options.check is not None:
        most = CHECK_MOST_WAITING if options.max_waiting is None else options.max_waiting
        rows = [row for row in read_rows(options.check) if int(row["offline_waiting"]) <= most]
        verdicts = check(rows, options.turns or CHECK_TURNS, options.slos)
        sys.exit(report(verdicts, options.verdicts))
    most = MOST_WAITING if options.max_waiting is None else options.max_waiting
    table = [
        measure(case, options.turns or TURNS, options.slos)
        for case in tqdm(list(cases(most)), unit="case", file=sys.stderr)
    ]
    for stream in [sys.stdout] + ([options.out.open("w", newline="")] if options.out else []):
        writer = csv.DictWriter(stream, fieldnames=list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    stamp_out(options.out, MEASURES)


if __name__ == "__main__":
    main()
