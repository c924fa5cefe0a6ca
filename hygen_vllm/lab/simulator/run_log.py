# SPDX-License-Identifier: Apache-2.0
"""What happened in a simulated run, request by request and step by step, and that it adds up.

The laws, checked while the run goes on; a broken one ends it with an error that names it:

- place: every request that has arrived is waiting, running or finished;
- order: arrival <= first token <= last token, and a request ends with all its output tokens;
- going on: a step computes what comes next of a request; only what was preempted begins again;
- blocks: free KV blocks and those held by running requests are all there are.
"""

import math
from array import array
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from vllm.v1.request import Request

from hygen_vllm.engine.state import EngineState
from hygen_vllm.lab.simulator.virtual_engine import VirtualStep
from hygen_vllm.lab.workloads.arrivals import Arrival

STEP_COLUMNS = (
    *("begins_s", "ends_s", "limit_s", "price", "predicted_s"),
    *("online_decodes", "offline_decodes", "online_prefill_tokens", "offline_prefill_tokens"),
    *("online_tokens_done", "offline_tokens_done"),
)
"""limit_s, price and predicted_s are NaN where there is none; tokens done count prompt and output
tokens once, prompt tokens found in the prefix cache too."""
SAMPLE_EVERY_S = 1.0
OUTSIDE = -1


class LawError(RuntimeError):
    """A simulated run that does not add up: a bug of the simulator or of the scheduler."""


@dataclass(slots=True)
class RequestRecord:
    """A request of a run. All seconds are virtual; `token_times_s` is kept for online ones."""

    arrival: Arrival
    is_offline: bool
    token_times_s: "array[float]" = field(default_factory=lambda: array("d"))
    num_output_tokens: int = 0
    computed_tokens: int = OUTSIDE
    """Of its present stay in the engine, those in flight included; OUTSIDE while it waits."""
    prompt_tokens_done: int = 0
    has_started: bool = False
    cached_tokens: int = 0
    """Prompt tokens found in the prefix cache when it first started."""
    num_preemptions: int = 0
    most_computed: int = 0
    """Tokens that were computed at least once."""
    recomputed_tokens: int = 0
    """Tokens computed again after a preemption."""
    finished_s: float | None = None
    is_withdrawn: bool = False
    """It left the engine unfinished; it may have come again, as another one."""

    def compute(self, computed: int, num_tokens: int) -> None:
        """Note that tokens are computed after so many that were."""
        self.computed_tokens = computed + num_tokens
        if computed < self.most_computed:
            self.recomputed_tokens += min(self.most_computed, computed + num_tokens) - computed
        self.most_computed = max(self.most_computed, computed + num_tokens)


@dataclass(frozen=True, slots=True)
class Sample:
    """The state of the engine at a moment; preemptions and refusals are counted from the start."""

    time_s: float
    online_waiting: int
    offline_waiting: int
    online_running: int
    offline_running: int
    online_kv_blocks: int
    offline_kv_blocks: int
    num_preemptions: int
    refusals: dict[str, int]


class RunLog:
    """Observes a VirtualEngine."""

    def __init__(self, scheduler: Any) -> None:
        self.records: dict[str, RequestRecord] = {}
        self.samples: list[Sample] = []
        self.num_steps = 0
        self.last_step_s = 0.0
        """When the last step that computed something completed."""
        self.num_finished = 0
        self.num_withdrawn = 0
        self.num_came_again = 0
        self.num_preemptions = 0
        self._steps = array("d")
        self.follow(scheduler)
        self._in_flight: deque[tuple[float, ...]] = deque()
        self._next_sample_s = 0.0
        self._num_open = [0, 0]
        """Requests that arrived and have not finished: online, offline."""
        pool = scheduler.kv_cache_manager.block_pool
        self.num_blocks: int = pool.get_num_free_blocks()

    def follow(self, scheduler: Any) -> None:
        """Look at a scheduler from now on, of vLLM or ours."""
        self._scheduler = scheduler
        self._state = EngineState(scheduler)
        self._policy = getattr(scheduler, "hygen", None)

    def arrived(
        self, request_id: str, arrival: Arrival, is_offline: bool, comes_again: bool = False
    ) -> None:
        """Note that a request was added to the engine; it may have been withdrawn before."""
        self.num_came_again += comes_again
        self.records[request_id] = RequestRecord(arrival, is_offline)
        self._num_open[is_offline] += 1

    def withdraw_offline(self) -> list[str]:
        """Note that all offline requests leave, and return those that have not finished."""
        names = [
            name
            for name, record in self.records.items()
            if record.is_offline and record.finished_s is None and not record.is_withdrawn
        ]
        self.withdraw(names)
        return names

    def withdraw(self, names: Iterable[str]) -> None:
        """Note that requests leave unfinished."""
        for name in names:
            record = self.records[name]
            record.is_withdrawn = True
            self._num_open[record.is_offline] -= 1
            self.num_withdrawn += 1

    def made(self, step: VirtualStep) -> None:
        records = self.records
        for request_id in step.output.preempted_req_ids or ():
            records[request_id].num_preemptions += 1
            records[request_id].computed_tokens = OUTSIDE
            self.num_preemptions += 1
        decodes, prefill = [0, 0], [0, 0]
        for request, computed in step.decodes:
            record = records[request.request_id]
            if record.computed_tokens != computed:
                self._begin_stay(record, request, computed)
            record.compute(computed, 1)
            decodes[record.is_offline] += 1
        for request, num_tokens, computed in step.chunks:
            record = records[request.request_id]
            if record.computed_tokens != computed:
                self._begin_stay(record, request, computed)
            record.compute(computed, num_tokens)
            prefill[record.is_offline] += num_tokens
        times = step.begins_s, step.ends_s, *self._expected(step)
        self._in_flight.append((*times, *decodes, *prefill))

    def _begin_stay(self, record: RequestRecord, request: Request, computed: int) -> None:
        """Check a request that does not go on where it was: it is new, or was preempted."""
        if record.computed_tokens != OUTSIDE:
            raise LawError(
                f"going on: request {request.request_id} had computed {record.computed_tokens} "
                f"tokens and goes on after {computed}"
            )
        if not record.has_started:
            record.has_started = True
            record.cached_tokens = computed

    def _expected(self, step: VirtualStep) -> tuple[float, float, float]:
        """Return limit, price and predicted seconds of a step that was just made."""
        if self._policy is None:
            return math.nan, math.nan, math.nan
        limit_s, cost = self._policy.step_limit_s, self._policy.learner.cost
        predicted_s = math.nan if cost is None else cost.seconds(step.work.composition())
        if limit_s is None:
            return math.nan, math.nan, predicted_s
        price = self._policy.step_price
        return math.nan if limit_s == math.inf else limit_s, price, predicted_s

    def completed(self, step: VirtualStep, outputs: list[Any]) -> None:
        row = self._in_flight.popleft()
        if not step.result.req_ids:
            return
        self.num_steps += 1
        self.last_step_s = step.ends_s
        done = self._deliver(outputs, step.ends_s)
        for request, num_tokens, computed in step.chunks:
            self._advance_prompt(self.records[request.request_id], computed + num_tokens, done)
        self._steps.extend((*row, *done))
        if step.ends_s >= self._next_sample_s:
            self._sample(step.ends_s)

    def _deliver(self, outputs: list[Any], now_s: float) -> list[int]:
        """Note the tokens that came; return how many of each class."""
        done = [0, 0]
        for output in outputs:
            record = self.records[output.request_id]
            num_tokens = len(output.new_token_ids)
            if record.num_output_tokens == 0:
                self._advance_prompt(record, record.arrival.prompt_tokens, done)
            record.num_output_tokens += num_tokens
            done[record.is_offline] += num_tokens
            if not record.is_offline:
                record.token_times_s.extend([now_s] * num_tokens)
            if output.finish_reason is not None:
                self._finish(output.request_id, record, now_s)
        return done

    @staticmethod
    def _advance_prompt(record: RequestRecord, computed: int, done: list[int]) -> None:
        new_tokens = min(computed, record.arrival.prompt_tokens) - record.prompt_tokens_done
        if new_tokens > 0:
            done[record.is_offline] += new_tokens
            record.prompt_tokens_done += new_tokens

    def _finish(self, request_id: str, record: RequestRecord, now_s: float) -> None:
        arrival = record.arrival
        is_whole = record.num_output_tokens == arrival.output_tokens
        # A request may be preempted while its last token is on its way.
        expected = arrival.prompt_tokens + arrival.output_tokens - 1, OUTSIDE
        if not is_whole or record.computed_tokens not in expected or now_s < arrival.time_s:
            raise LawError(f"order: request {request_id} finished at {now_s} as {record}")
        record.finished_s = now_s
        self.num_finished += 1
        self._num_open[record.is_offline] -= 1

    def steps(self) -> Any:
        """Return the steps, float64 (num_steps, len(STEP_COLUMNS))."""
        import numpy as np

        return np.frombuffer(self._steps, dtype=np.float64).reshape(-1, len(STEP_COLUMNS))

    def check(self) -> tuple[int, int]:
        """Return the KV blocks of each class. Raises LawError if the engine does not add up."""
        held = self._held_blocks()
        num_free = self._scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
        if sum(held) + num_free != self.num_blocks:
            raise LawError(f"blocks: {held} held and {num_free} free of {self.num_blocks}")
        scheduler = self._scheduler
        num_here = len(scheduler.running) + len(scheduler.waiting)
        num_here += len(scheduler.kv_holding_waiting)
        num_gone = self.num_finished + self.num_withdrawn
        if num_here + num_gone != len(self.records):
            raise LawError(
                f"place: {len(self.records)} arrived, {self.num_finished} finished, "
                f"{self.num_withdrawn} withdrawn, {num_here} here"
            )
        return held

    def check_ids(self) -> None:
        """As `check`, request by request; takes time in proportion to those that wait."""
        self.check()
        scheduler = self._scheduler
        places = Counter(request.request_id for request in scheduler.running)
        places.update(request.request_id for request in scheduler.waiting)
        places.update(request.request_id for request in scheduler.kv_holding_waiting)
        places.update(
            name
            for name, record in self.records.items()
            if record.finished_s is not None or record.is_withdrawn
        )
        if places != Counter(dict.fromkeys(self.records, 1)):
            wrong = [name for name in self.records if places[name] != 1]
            raise LawError(f"place: {wrong[:5]} are in no place, or in two")

    def _sample(self, now_s: float) -> None:
        self._next_sample_s = now_s + SAMPLE_EVERY_S
        blocks = self.check()
        running = [0, 0]
        for request in self._scheduler.running:
            running[self.records[request.request_id].is_offline] += 1
        refused = self._policy.offline_log.refusals if self._policy is not None else {}
        refusals = {reason.value: n for reason, n in refused.items()}
        self.samples.append(
            Sample(
                now_s,
                online_waiting=self._num_open[0] - running[0],
                offline_waiting=self._num_open[1] - running[1],
                online_running=running[0],
                offline_running=running[1],
                online_kv_blocks=blocks[0],
                offline_kv_blocks=blocks[1],
                num_preemptions=self.num_preemptions,
                refusals=refusals,
            )
        )

    def _held_blocks(self) -> tuple[int, int]:
        """Return the KV blocks that online requests hold, and those that only offline ones do."""
        online: set[int] = set()
        offline: set[int] = set()
        for request in self._scheduler.running:
            is_offline = self.records[request.request_id].is_offline
            (offline if is_offline else online).update(self._state.block_ids(request))
        return len(online), len(offline - online)
