# SPDX-License-Identifier: Apache-2.0
"""One simulated run: requests, a real scheduler, a virtual clock; and what came of it.

Reading order of the package: `options.py` and `simulated_engine.py` (what is asked for),
`step_work.py` and `step_time.py` (how long a step really takes),
`predictor.py` (what the scheduler believes), `policies.py` (which scheduler), `lazy_request.py` and
`virtual_engine.py` (the run), `run_log.py` (what happened, and that it adds up), `figures.py`
(the result).
"""

import gc
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from hygen_vllm.cost.learner import CostLearner
from hygen_vllm.lab.bare_scheduler import Limits, block_hasher, make_scheduler
from hygen_vllm.lab.policies import Policy
from hygen_vllm.lab.simulator.lazy_request import LazyRequest, quick_hash, sampling_params
from hygen_vllm.lab.simulator.predictor import DistortedLearner, Distortion, profile_device
from hygen_vllm.lab.simulator.run_log import RunLog
from hygen_vllm.lab.simulator.simulated_engine import SimulatedEngine
from hygen_vllm.lab.simulator.step_time import StepClock
from hygen_vllm.lab.simulator.virtual_engine import Observer, VirtualClock, VirtualEngine
from hygen_vllm.lab.workloads.arrivals import Arrival, fit_length

ONLINE, OFFLINE = "online", "offline"
OFFLINE_PRIORITY = 1
"""Lower is more urgent in vLLM's priority policy; online requests have 0."""
STUCK_S = 600.0
"""Virtual seconds without a step after which a run with nothing more to come is given up."""
PROGRESS_EVERY = 256

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Requests:
    """What is served: requests of each class in order of time.

    Args:
        breaks: (from, until) in virtual seconds, in order and apart: times without offline work.
            What is not finished at the beginning of one is withdrawn, and comes again at its end.
    """

    online: Sequence[Arrival]
    offline: Sequence[Arrival]
    breaks: Sequence[tuple[float, float]] = ()

    def fitted(self, max_model_len: int) -> "tuple[Requests, int]":
        """Return requests that the model can serve, and how many had to be shortened."""
        online, offline = (
            [fit_length(item, max_model_len) for item in some]
            for some in (self.online, self.offline)
        )
        pairs = zip([*online, *offline], [*self.online, *self.offline], strict=True)
        num_shortened = sum(new is not old for new, old in pairs)
        return replace(self, online=online, offline=offline), num_shortened

    def in_order(self) -> Iterator[tuple[str, int, Arrival]]:
        """Yield (class, number, request) in order of time; of one time, online first.

        Offline requests of a break come at its end.
        """
        named = [(ONLINE, self.online), (OFFLINE, [self._after_break(a) for a in self.offline])]
        items = [(name, n, item) for name, some in named for n, item in enumerate(some)]
        return iter(sorted(items, key=lambda item: item[2].time_s))

    def _after_break(self, arrival: Arrival) -> Arrival:
        for from_s, until_s in self.breaks:
            if from_s <= arrival.time_s < until_s:
                return replace(arrival, time_s=until_s)
        return arrival


@dataclass(frozen=True)
class Run:
    """A run that is over.

    Args:
        virtual_s: when it ended, virtual seconds from its start.
        wall_s: real seconds it took.
    """

    log: RunLog
    policy: Policy
    settings: dict[str, Any]
    virtual_s: float
    wall_s: float


def simulate(  # noqa: PLR0913 - the parts of a simulation
    engine: SimulatedEngine,
    policy: Policy,
    settings: dict[str, Any],
    requests: Requests,
    *,
    seed: int,
    until_s: float = math.inf,
    progress: Progress = lambda _: None,
) -> Run:
    """Serve requests until all are finished or `until_s`; the same input gives the same run.

    Args:
        settings: fields of HyGenConfig.
        progress: called with the virtual seconds that have passed, now and then.
    Raises: LawError if the run does not add up; RuntimeError if nothing can ever run.
    """
    started_s = time.perf_counter()
    clock = VirtualClock()
    scheduler = scheduler_of(engine, policy, settings, seed, clock)
    log = RunLog(scheduler)
    virtual = virtual_engine(engine, scheduler, clock, seed, log)
    with calm_garbage_collector():
        end_s = _Serving(virtual, log, requests, engine.info.block_size).serve(until_s, progress)
    log.check_ids()
    return Run(log, policy, settings, end_s, time.perf_counter() - started_s)


class RequestMaker:
    """Makes requests of arrivals, for engines with KV blocks of one size."""

    def __init__(self, block_size: int) -> None:
        hasher = block_hasher(block_size, quick_hash)
        self._options = {"block_size": block_size, "hasher": hasher}

    def make(
        self, slo_class: str, number: int, arrival: Arrival, num_withdrawn: int = 0
    ) -> LazyRequest:
        """Return the request of a number in its class, which came so many times before."""
        is_offline = slo_class == OFFLINE
        return LazyRequest(
            f"{slo_class}-{number}" + (f"-again-{num_withdrawn}" if num_withdrawn else ""),
            arrival,
            2 * number + is_offline,
            sampling_params=sampling_params(slo_class, arrival.output_tokens, arrival.tenant),
            priority=OFFLINE_PRIORITY if is_offline else 0,
            **self._options,
        )


class _Serving:
    """Feeds an engine its requests as their times come."""

    def __init__(
        self, engine: VirtualEngine, log: RunLog, requests: Requests, block_size: int
    ) -> None:
        self._engine = engine
        self._log = log
        self._maker = RequestMaker(block_size)
        self._requests = requests.in_order()
        self._next = next(self._requests, None)
        self._idle_until_s = 0.0
        self._breaks = deque(requests.breaks)
        self._offline: dict[str, tuple[int, Arrival]] = {}
        """Number and arrival of those that came, where they may be withdrawn."""
        self._withdrawn: list[tuple[int, Arrival]] = []
        self._num_withdrawn = 0
        """Breaks so far."""

    def serve(self, until_s: float, progress: Progress) -> float:
        """Return the time at which the run ended."""
        engine = self._engine
        turns = 0
        while engine.now_s < until_s:
            self._take_break(engine.now_s)
            self._add_due(engine.now_s)
            if engine.has_work:
                if not engine.turn(until_s):
                    break
                self._check_stuck()
            elif self._next_s() == math.inf:
                return engine.now_s
            else:
                engine.now_s = self._idle_until_s = self._next_s()
            turns += 1
            if turns % PROGRESS_EVERY == 0:
                progress(engine.now_s)
        self._add_due(until_s)
        return until_s

    def _add_due(self, now_s: float) -> None:
        while self._next is not None and self._next[2].time_s <= now_s:
            self._add(*self._next)
            self._next = next(self._requests, None)

    def _add(self, slo_class: str, number: int, arrival: Arrival, num_withdrawn: int = 0) -> None:
        is_offline = slo_class == OFFLINE
        request = self._maker.make(slo_class, number, arrival, num_withdrawn)
        self._log.arrived(request.request_id, arrival, is_offline, num_withdrawn > 0)
        self._engine.add(request)
        if is_offline and self._breaks:
            self._offline[request.request_id] = number, arrival

    def _next_s(self) -> float:
        """Return when the next request comes, infinity if none does."""
        next_s = math.inf if self._next is None else self._next[2].time_s
        return min(next_s, self._breaks[0][1]) if self._withdrawn else next_s

    def _take_break(self, now_s: float) -> None:
        """Withdraw offline requests where a break begins, and let them come again at its end."""
        if self._breaks and self._breaks[0][0] <= now_s and self._offline:
            self._num_withdrawn += 1
            ids = self._log.withdraw_offline()
            self._engine.abort(ids)
            self._withdrawn += [self._offline[request_id] for request_id in ids]
            self._offline.clear()
        if self._breaks and self._breaks[0][1] <= now_s:
            self._breaks.popleft()
            withdrawn, self._withdrawn = self._withdrawn, []
            for number, arrival in withdrawn:
                self._add(OFFLINE, number, replace(arrival, time_s=now_s), self._num_withdrawn)

    def _check_stuck(self) -> None:
        idle_s = self._engine.now_s - max(self._log.last_step_s, self._idle_until_s)
        if idle_s > STUCK_S and self._next_s() == math.inf:
            raise RuntimeError(
                f"nothing has run for {idle_s:.0f} virtual seconds: "
                f"{len(self._log.records) - self._log.num_finished} requests wait for ever"
            )


def virtual_engine(
    engine: SimulatedEngine, scheduler: Any, clock: VirtualClock, seed: int, observer: Observer
) -> VirtualEngine:
    """Return the engine that a scheduler of it drives, which was made with the same clock."""
    step_clock = StepClock(engine.device, engine.disturbance, seed)
    num_stages = engine.info.pipeline_parallel
    depth = num_stages + int(engine.info.is_async)
    return VirtualEngine(scheduler, clock, step_clock.step_seconds, depth, num_stages, observer)


def limits_of(engine: SimulatedEngine) -> Limits:
    """Return the limits of an engine's scheduler."""
    info = engine.info
    return Limits(
        max_num_seqs=info.max_num_seqs,
        max_num_batched_tokens=info.max_num_batched_tokens,
        max_model_len=info.max_model_len,
        num_blocks=info.num_kv_blocks,
        block_size=info.block_size,
        v2_runner=info.pipeline_parallel > 1,  # as V1 does not schedule pipelines ahead
        pipeline_parallel=info.pipeline_parallel,
        log_stats=False,
    )


def scheduler_of(
    engine: SimulatedEngine,
    policy: Policy,
    settings: dict[str, Any],
    seed: int,
    clock: VirtualClock,
) -> Any:
    """Return the scheduler of a policy for an engine."""
    limits = replace(
        limits_of(engine),
        policy=policy.vllm_policy,
        scheduler_options={"async_scheduling": engine.info.is_async},
    )
    cls = policy.scheduler_class(engine.info.is_async)
    hygen = settings if policy.is_hygen else None
    scheduler: Any = make_scheduler(cls, limits, hygen, **policy.clocks(clock))
    if not policy.is_hygen:
        return scheduler
    scheduler.hygen.prefix_of = attrgetter("shared_prefix")
    scheduler.faults.are_raised = True
    if not engine.is_profiled:
        return scheduler
    given, X = profile_device(engine.device, engine.info, engine.knees, seed)
    scheduler.hygen.learner = CostLearner(given)
    if engine.predictor_error:
        distortion = Distortion(given, X, engine.predictor_error, seed)
        scheduler.hygen.learner = DistortedLearner(given, distortion)
    return scheduler


@contextmanager
def calm_garbage_collector() -> Iterator[None]:
    """Keep the collector from walking over what stays: a backlog, and all of vLLM."""
    threshold = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*threshold)
        gc.unfreeze()


def progress_bar(total_s: float) -> Any:
    """Return a bar on stderr that counts virtual seconds; `total_s` may be infinite."""
    from tqdm import tqdm

    return tqdm(
        total=None if math.isinf(total_s) else round(total_s, 1),
        unit=" virtual s",
        file=sys.stderr,
        mininterval=0.5 if sys.stderr.isatty() else 10.0,
        delay=1.0,
        leave=False,
    )
