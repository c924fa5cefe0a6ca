# SPDX-License-Identifier: Apache-2.0
"""Days of an engine with everything that happens in them, in virtual time, on the real scheduler.

Online requests come and go with the day and the week, in bursts at times. Offline ones come in a
nightly and in hourly batches and one by one, of several tenants, some with a LoRA adapter, some
with a grammar that takes seconds to compile, some with KV that a connector loads, or fails to. A
neighbour slows the device down for ten minutes, it stalls, clients go away, and the engine is
started anew, without what it had learned. All laws of RunLog are checked all the time.
"""

import heapq
import itertools
import logging
import math
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from harness.experiment import Row
from harness.kv_store import KvStore, transfer_config
from harness.memory import reachable_bytes
from harness.tasks import windows_row
from vllm.lora.request import LoRARequest
from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.request import RequestStatus
from vllm.v1.structured_output.request import StructuredOutputRequest

from hygen_vllm.cost.learner import CostLearner
from hygen_vllm.lab.bare_scheduler import block_hasher, make_scheduler
from hygen_vllm.lab.policies import Policy, find_policy
from hygen_vllm.lab.simulator.figures import Latencies, ratios_of, windows_kept
from hygen_vllm.lab.simulator.lazy_request import LazyRequest, quick_hash, sampling_params
from hygen_vllm.lab.simulator.predictor import profile_device
from hygen_vllm.lab.simulator.run_log import STEP_COLUMNS, RequestRecord, RunLog
from hygen_vllm.lab.simulator.simulated_engine import SimulatedEngine
from hygen_vllm.lab.simulator.simulation import calm_garbage_collector, limits_of
from hygen_vllm.lab.simulator.step_time import Device, Disturbance, StepClock
from hygen_vllm.lab.simulator.step_work import StepWork
from hygen_vllm.lab.simulator.virtual_engine import VirtualClock, VirtualEngine, VirtualStep
from hygen_vllm.lab.workloads.arrival_processes import (
    ARXIV_LENGTHS,
    AZURE_LENGTHS,
    SHAREGPT_LENGTHS,
)
from hygen_vllm.lab.workloads.arrivals import Arrival, fit_length
from hygen_vllm.slo import Slo

HOUR_S, DAY_S = 3600.0, 86400.0
WEEKEND = (5, 6)
WEEKEND_SHARE = 0.5
DAY_SWING, NIGHT_AT_H = 0.8, 4.0
BURSTS_A_DAY, BURST = 8, 3.0
BURST_S = (60.0, 300.0)
NIGHTLY_AT_H = 22.0
NEIGHBOUR_AT_H, NEIGHBOUR_S, NEIGHBOUR = 11.0, 600.0, 1.4
STALL_AT_H, STALL_S = 16.0, 30.0
RESTARTS = ((0, 14.5), (3, 3.0))
"""(day of the week, hour)."""
DOWN_S = 60.0
ABORTED_SHARE, GRAMMAR_SHARE = 0.03, 0.2
ABORT_WITHIN_S = 120.0
LOADED_PER_CENT, FAILED_SHARE = 10, 0.2
LOAD_S = 0.5
NUM_ADAPTERS, MAX_LORAS = 3, 2
MEASURED_AT_H = 9.5
"""When the memory of the scheduler is measured, each day."""


@dataclass(frozen=True)
class Coming:
    """A request that will come.

    Args:
        tenant: of an offline one; None for an online one.
        lora: number of its adapter, 0 for none.
        grammar_s: that its grammar takes to compile, None without one.
        aborted_s: when its client goes away, seconds after it came; None if it stays.
    """

    arrival: Arrival
    tenant: str | None = None
    lora: int = 0
    grammar_s: float | None = None
    aborted_s: float | None = None


@dataclass(frozen=True)
class WeekFlags:
    """What is served.

    Args:
        days: from a Monday on.
        slowdown: how many times as long as the profile's device a step takes.
        online_rate: mean of a working day, requests/s.
        nightly, hourly: offline requests of a batch.
        trickle_per_hour: single offline requests.
    """

    profile: str
    days: float
    slowdown: float
    online_rate: float
    nightly: int
    hourly: int
    trickle_per_hour: float
    slo: Sequence[str]
    seed: int


@dataclass(frozen=True)
class SlowDevice:
    """A device whose steps take `factor` times as long as another's."""

    device: Device
    factor: float

    def step_seconds(self, work: StepWork) -> float:
        return self.factor * self.device.step_seconds(work)


def requests_of(flags: WeekFlags, max_model_len: int) -> list[Coming]:
    """Return all requests, in order of time."""
    rng = np.random.default_rng([flags.seed, 27])
    found = [*_online(flags, rng), *_offline(flags, rng)]
    fitted = [replace(each, arrival=fit_length(each.arrival, max_model_len)) for each in found]
    return sorted(fitted, key=lambda each: each.arrival.time_s)


def _online(flags: WeekFlags, rng: np.random.Generator) -> Iterator[Coming]:
    end_s = flags.days * DAY_S
    num_bursts = rng.poisson(BURSTS_A_DAY * flags.days)
    bursts = [(b, b + rng.uniform(*BURST_S)) for b in sorted(rng.uniform(0, end_s, num_bursts))]
    highest = flags.online_rate * (1 + DAY_SWING) * BURST
    time_s = 0.0
    while (time_s := time_s + rng.exponential(1.0 / highest)) < end_s:
        rate = flags.online_rate * shape_of_week(time_s)
        rate *= BURST if any(a <= time_s < b for a, b in bursts) else 1.0
        if rng.random() * highest < rate:
            yield Coming(Arrival(time_s, *AZURE_LENGTHS.draw(rng)), aborted_s=_abort(rng))


def shape_of_week(time_s: float) -> float:
    """Return the online rate at a time, over the mean of a working day."""
    hour = time_s / HOUR_S
    day = 1.0 - DAY_SWING * math.cos(2 * math.pi * (hour - NIGHT_AT_H) / 24)
    return day * (WEEKEND_SHARE if int(hour // 24) % 7 in WEEKEND else 1.0)


def _abort(rng: np.random.Generator) -> float | None:
    aborted_s = rng.uniform(0.0, ABORT_WITHIN_S)
    return float(aborted_s) if rng.random() < ABORTED_SHARE else None


def _offline(flags: WeekFlags, rng: np.random.Generator) -> Iterator[Coming]:
    def some(tenant: str, time_s: float, lengths: Any, **more: Any) -> Coming:
        arrival = Arrival(time_s, *lengths.draw(rng), tenant=tenant)
        return Coming(arrival, tenant, aborted_s=_abort(rng), **more)

    for hour in range(math.ceil(flags.days * 24)):
        if hour % 24 == NIGHTLY_AT_H:
            for _ in range(flags.nightly):
                yield some("nightly", hour * HOUR_S, ARXIV_LENGTHS)
        for _ in range(flags.hourly):
            grammar_s = rng.uniform(0.5, 5.0) if rng.random() < GRAMMAR_SHARE else None
            yield some("hourly", hour * HOUR_S, ARXIV_LENGTHS, grammar_s=grammar_s)
        for _ in range(rng.poisson(flags.trickle_per_hour)):
            time_s = (hour + rng.random()) * HOUR_S
            lora = int(rng.integers(1, NUM_ADAPTERS + 1))
            yield some(f"adapter-{lora}", time_s, SHAREGPT_LENGTHS, lora=lora)
        yield some("large", (hour + rng.random()) * HOUR_S, _Largest)


class _Largest:
    """Lengths of requests that fill a model's context."""

    @staticmethod
    def draw(_: np.random.Generator) -> tuple[int, int]:
        return 10**6, 64


class Grammar:
    """A compiled grammar that allows everything."""

    def accept_tokens(self, *_: Any) -> bool:
        return True

    def is_terminated(self) -> bool:
        return False


class WeekLog(RunLog):
    """RunLog of an engine whose waiting requests may hold KV blocks, and that is started anew."""

    def __init__(self, scheduler: Any, clock: VirtualClock) -> None:
        super().__init__(scheduler)
        self._clock = clock
        self.waits_s: dict[str, array[float]] = defaultdict(lambda: array("d"))
        """Seconds from coming to starting of the offline requests of each tenant."""

    def restarted(self, scheduler: Any) -> None:
        """Go on with the scheduler of an engine that was started anew."""
        self.follow(scheduler)
        self._in_flight.clear()

    def unfinished(self) -> list[str]:
        """Return the names of the requests that are in the engine."""
        return [
            name
            for name, record in self.records.items()
            if record.finished_s is None and not record.is_withdrawn
        ]

    def _begin_stay(self, record: RequestRecord, request: Any, computed: int) -> None:
        if record.is_offline and not record.has_started:
            waited_s = self._clock.now_s - record.arrival.time_s
            self.waits_s[record.arrival.tenant].append(waited_s)
        super()._begin_stay(record, request, computed)

    def _held_blocks(self) -> tuple[int, int]:
        (manager,) = self._scheduler.kv_cache_manager.coordinator.single_type_managers
        held: list[set[int]] = [set(), set()]
        for name, blocks in manager.req_to_blocks.items():
            held[self.records[name].is_offline].update(block.block_id for block in blocks)
        return len(held[0]), len(held[1] - held[0])


class WeekEngine(VirtualEngine):
    """A VirtualEngine whose worker loads KV: after LOAD_S, or in vain."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._due_s: dict[str, float] = {}
        self.num_loads = self.num_failed = 0

    def _make(self) -> VirtualStep:
        step = super()._make()
        store: KvStore = self.scheduler.connector
        for name in store.loads:
            self._due_s.setdefault(name, self.now_s + LOAD_S)
        ended = [name for name, due_s in self._due_s.items() if due_s <= self.now_s]
        if ended:
            failed = [name for name in ended if hash_share(name) < FAILED_SHARE]
            self.num_loads += len(ended)
            self.num_failed += len(failed)
            for name in ended:
                del self._due_s[name]
            step.result.kv_connector_output = store.finished(ended, failed)
        return step


def hash_share(name: str) -> float:
    """Return a number from 0 to 1 that a name always has."""
    return (sum(ord(letter) * (31 + place) for place, letter in enumerate(name)) % 997) / 997


@dataclass
class WeekRun:
    """What is left of a run."""

    log: WeekLog
    memory_bytes: list[int] = field(default_factory=list)
    """Of the scheduler, each day at MEASURED_AT_H."""
    num_restarts: int = 0
    num_loads: int = 0
    num_failed: int = 0
    num_aborted: int = 0


def serve_week(
    engine: SimulatedEngine,
    policy: Policy,
    settings: Mapping[str, Any],
    flags: WeekFlags,
) -> WeekRun:
    """Serve all requests of `flags` that the policy serves."""
    with calm_garbage_collector():
        return _Week(engine, policy, dict(settings), flags).serve()


class _Week:
    def __init__(
        self, engine: SimulatedEngine, policy: Policy, settings: dict[str, Any], flags: WeekFlags
    ) -> None:
        self._engine, self._policy, self._settings = engine, policy, settings
        self._end_s = flags.days * DAY_S
        self._seed = flags.seed
        self._clock = VirtualClock()
        self._step_clock = StepClock(engine.device, _disturbance(flags.days), flags.seed)
        self._virtual = self._start(is_profiled=True)
        self._run = WeekRun(WeekLog(self._virtual.scheduler, self._clock))
        self._virtual._observer = self._run.log
        self._options = {
            "block_size": engine.info.block_size,
            "hasher": block_hasher(engine.info.block_size, quick_hash),
        }
        self._numbers = itertools.count()
        self._coming: dict[str, Coming] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        for each in requests_of(flags, engine.info.max_model_len):
            if each.tenant is None or policy.has_offline:
                self._at(each.arrival.time_s, lambda each=each: self._add(each))
        for day, hour in RESTARTS:
            for week in range(math.ceil(flags.days / 7)):
                self._at((day + 7 * week) * DAY_S + hour * HOUR_S, self._restart)
        for day in range(math.ceil(flags.days)):
            self._at(day * DAY_S + MEASURED_AT_H * HOUR_S, self._measure)

    def _at(self, time_s: float, do: Callable[[], None]) -> None:
        if time_s < self._end_s:
            heapq.heappush(self._events, (time_s, next(self._numbers), do))

    def _start(self, is_profiled: bool) -> WeekEngine:
        info = self._engine.info
        limits = replace(
            limits_of(self._engine),
            policy=self._policy.vllm_policy,
            max_loras=MAX_LORAS,
            kv_transfer=transfer_config(LOADED_PER_CENT),
            scheduler_options={"async_scheduling": info.is_async},
        )
        hygen = self._settings if self._policy.is_hygen else None
        scheduler: Any = make_scheduler(
            self._policy.scheduler_class(info.is_async),
            limits,
            hygen,
            **self._policy.clocks(self._clock),
        )
        if self._policy.is_hygen:
            scheduler.faults.are_raised = True
            if is_profiled:
                given, _ = profile_device(self._engine.device, info, self._engine.knees, self._seed)
                scheduler.hygen.learner = CostLearner(given)
        depth = info.pipeline_parallel + int(info.is_async)
        return WeekEngine(
            scheduler,
            self._clock,
            self._step_clock.step_seconds,
            depth,
            info.pipeline_parallel,
            None,
        )

    def serve(self) -> WeekRun:
        clock = self._clock
        while clock.now_s < self._end_s:
            while self._events and self._events[0][0] <= clock.now_s:
                heapq.heappop(self._events)[2]()
            if self._virtual.has_work:
                if not self._virtual.turn(self._end_s):
                    break
            elif self._events:
                clock.now_s = max(clock.now_s, self._events[0][0])
            else:
                break
        self._run.num_loads += self._virtual.num_loads
        self._run.num_failed += self._virtual.num_failed
        self._run.log.check_ids()
        return self._run

    def _add(self, coming: Coming, times: int = 0) -> None:
        slo_class = "online" if coming.tenant is None else "offline"
        number = next(self._numbers)
        arrival = coming.arrival
        request = LazyRequest(
            f"{slo_class}-{number}" + (f"-again-{times}" if times else ""),
            arrival,
            number,
            sampling_params=sampling_params(slo_class, arrival.output_tokens, arrival.tenant),
            priority=int(coming.tenant is not None),
            lora_request=LoRARequest(f"lora-{coming.lora}", coming.lora, "/nowhere")
            if coming.lora
            else None,
            **self._options,
        )
        name = request.request_id
        if coming.grammar_s is not None:
            params = StructuredOutputsParams(regex=".*")
            request.structured_output_request = StructuredOutputRequest(params=params)
            request.status = RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR
            self._at(self._clock.now_s + coming.grammar_s, lambda: self._compiled(request))
        if coming.aborted_s is not None:
            self._at(self._clock.now_s + coming.aborted_s, lambda: self._abort(name))
        self._coming[name] = coming
        self._run.log.arrived(name, arrival, coming.tenant is not None, times > 0)
        self._virtual.add(request)

    @staticmethod
    def _compiled(request: Any) -> None:
        request.structured_output_request.grammar = Grammar()

    def _abort(self, name: str) -> None:
        record = self._run.log.records[name]
        if record.finished_s is None and not record.is_withdrawn:
            self._run.num_aborted += 1
            self._run.log.withdraw([name])
            self._virtual.abort([name])

    def _restart(self) -> None:
        """Start the engine anew: offline requests are sent again, users have to ask again."""
        run, log = self._run, self._run.log
        run.num_restarts += 1
        run.num_loads += self._virtual.num_loads
        run.num_failed += self._virtual.num_failed
        names = log.unfinished()
        log.withdraw(names)
        self._clock.now_s += DOWN_S
        self._virtual = self._start(is_profiled=False)
        self._virtual._observer = log
        log.restarted(self._virtual.scheduler)
        for name in names:
            coming = self._coming[name]
            if coming.tenant is not None:
                arrival = replace(coming.arrival, time_s=self._clock.now_s)
                self._add(replace(coming, arrival=arrival), times=run.num_restarts)

    def _measure(self) -> None:
        self._run.memory_bytes.append(
            reachable_bytes(self._virtual.scheduler, (RunLog, VirtualClock))
        )


def _disturbance(days: float) -> Disturbance:
    slowdowns: list[tuple[float, float]] = []
    stalls: list[tuple[float, float]] = []
    for day in range(math.ceil(days)):
        from_s = day * DAY_S + NEIGHBOUR_AT_H * HOUR_S
        slowdowns += [(from_s, NEIGHBOUR), (from_s + NEIGHBOUR_S, 1.0)]
        stalls.append((day * DAY_S + STALL_AT_H * HOUR_S, STALL_S))
    return Disturbance(0.02, tuple(slowdowns), tuple(stalls))


def latencies_of(run: WeekRun, end_s: float) -> Latencies:
    """Return what users saw; those who went away without a token saw nothing."""
    records = [record for record in run.log.records.values() if not record.is_offline]
    return Latencies.of_times(
        (
            (record.arrival.time_s, record.token_times_s)
            for record in records
            if record.token_times_s or not record.is_withdrawn
        ),
        end_s,
    )


def days_figures(flags: Mapping[str, Any]) -> tuple[Row, list[Row]]:
    """Serve the days of WeekFlags; return the figures, and those of each hour."""
    logging.getLogger("vllm").setLevel(logging.ERROR)
    week = WeekFlags(**flags)
    engine = SimulatedEngine.load(week.profile)
    engine = replace(engine, device=SlowDevice(engine.device, week.slowdown))
    end_s = week.days * DAY_S
    alone = latencies_of(serve_week(engine, find_policy("online-only"), {}, week), end_s)
    run = serve_week(engine, find_policy("slo"), {"slos": list(week.slo)}, week)
    served = latencies_of(run, end_s)
    slos = [Slo.parse(text) for text in week.slo]
    ratios = [ratios_of(slo, served, alone, end_s) for slo in slos]
    figures = {**windows_row([*map(windows_kept, ratios)]), **_counts(run, end_s)}
    return figures, _hours(run, [*itertools.chain(*ratios)], end_s)


def _hours(run: WeekRun, ratios: Sequence[tuple[float, float]], end_s: float) -> list[Row]:
    """Return for each hour tokens/s of both classes, and the worst window that began in it."""
    steps = run.log.steps()
    column = STEP_COLUMNS.index
    edges = np.arange(0.0, end_s + 1e-6, HOUR_S)
    ends_s = steps[:, column("ends_s")]
    online, offline = (
        np.histogram(ends_s, edges, weights=steps[:, column(name)])[0] / HOUR_S
        for name in ("online_tokens_done", "offline_tokens_done")
    )
    worst: dict[int, float] = defaultdict(float)
    for from_s, ratio in ratios:
        worst[int(from_s // HOUR_S)] = max(worst[int(from_s // HOUR_S)], ratio)
    return [
        {
            "hour": hour,
            "online_tokens_per_s": float(online[hour]),
            "offline_tokens_per_s": float(offline[hour]),
            "worst_window": worst.get(hour),
        }
        for hour in range(len(edges) - 1)
    ]


def _counts(run: WeekRun, end_s: float) -> Row:
    log = run.log
    offline = [record for record in log.records.values() if record.is_offline]
    done = sum(record.prompt_tokens_done + record.num_output_tokens for record in offline)
    for record in offline:
        if not record.has_started and not record.is_withdrawn:
            log.waits_s[record.arrival.tenant].append(end_s - record.arrival.time_s)
    return {
        "online": sum(not record.is_offline for record in log.records.values()),
        "offline": len(offline) - log.num_came_again,
        "offline_finished": sum(record.finished_s is not None for record in offline),
        "offline_tokens": done,
        "offline_tokens_per_s": done / end_s,
        "steps": log.num_steps,
        "preemptions": log.num_preemptions,
        "aborted": run.num_aborted,
        "restarts": run.num_restarts,
        "loads": run.num_loads,
        "failed_loads": run.num_failed,
        **{f"wait_{tenant}_s": max(waits) for tenant, waits in sorted(log.waits_s.items())},
        "memory_first_day_bytes": run.memory_bytes[0] if run.memory_bytes else None,
        "memory_last_day_bytes": run.memory_bytes[-1] if run.memory_bytes else None,
    }
