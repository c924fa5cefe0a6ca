# SPDX-License-Identifier: Apache-2.0
"""Several simulated engines in one virtual time: who gets a request, and what came of it.

Engines go on in the order of their clocks. A router sees what an engine reported last, as a request
router on Ray Serve does; reports are of the state after the step that runs. With router `slo`
offline requests wait in one pool from which engines pull, with the others they are sent like online
ones.
"""

import heapq
import itertools
import math
import time
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

from hygen_vllm.fleet.engine_load import EngineLoad
from hygen_vllm.fleet.routing import RoutedRequest, make_router
from hygen_vllm.fleet.work_pool import Work, WorkPool
from hygen_vllm.lab.policies import Policy
from hygen_vllm.lab.simulator.lazy_request import LazyRequest
from hygen_vllm.lab.simulator.run_log import RunLog
from hygen_vllm.lab.simulator.simulated_engine import SimulatedEngine
from hygen_vllm.lab.simulator.simulation import (
    OFFLINE,
    PROGRESS_EVERY,
    Progress,
    RequestMaker,
    Requests,
    Run,
    calm_garbage_collector,
    scheduler_of,
    virtual_engine,
)
from hygen_vllm.lab.simulator.virtual_engine import VirtualClock, VirtualStep
from hygen_vllm.lane.admission_order import OrderRules
from hygen_vllm.lane.offline_queue import LaneKey, QueueRules

REPORT_EVERY_S = 1.0
"""As Ray Serve is told to ask."""
PULL_EVERY_S = 0.25
PULLED = "slo"
"""The router with which offline work is pulled."""


@dataclass(frozen=True)
class Fleet:
    """Engines that serve together.

    Args: router: one of fleet.routing.ROUTERS.
    """

    num_replicas: int
    router: str


class _Replica:
    """One engine of the fleet, and an observer of it."""

    def __init__(
        self, engine: SimulatedEngine, policy: Policy, settings: dict[str, Any], seed: int
    ) -> None:
        clock = VirtualClock()
        self.scheduler = scheduler_of(engine, policy, settings, seed, clock)
        self.log = RunLog(self.scheduler)
        self.virtual = virtual_engine(engine, self.scheduler, clock, seed, self)
        self.load = EngineLoad()
        self.finished: list[str] = []
        """Requests that are done and were not asked for yet."""

    def made(self, step: VirtualStep) -> None:
        self.log.made(step)

    def completed(self, step: VirtualStep, outputs: list[Any]) -> None:
        self.log.completed(step, outputs)
        self.finished += [output.request_id for output in outputs if output.finished]

    def add(self, request: LazyRequest, arrival: Any, is_offline: bool, now_s: float) -> None:
        self._wake(now_s)
        self.log.arrived(request.request_id, arrival, is_offline)
        self.virtual.add(request)

    def report(self, now_s: float) -> EngineLoad:
        """Return the present load."""
        self._wake(now_s)
        load: EngineLoad = self.scheduler.hygen.load_report.now()
        return load

    def _wake(self, now_s: float) -> None:
        """Put the clock of an engine forward that had nothing to do."""
        if not self.virtual.has_work:
            self.virtual.now_s = max(self.virtual.now_s, now_s)


def simulate_fleet(  # noqa: PLR0913 - the parts of a simulation
    fleet: Fleet,
    engine: SimulatedEngine,
    policy: Policy,
    settings: dict[str, Any],
    requests: Requests,
    *,
    seed: int,
    until_s: float = math.inf,
    progress: Progress = lambda _: None,
) -> list[Run]:
    """Serve requests with several engines; return the run of each. Raises as `simulate`.

    Router `slo` asks HyGen's scheduler for its load, so that online requests alone are served by
    it, whose schedule is then vLLM's; ValueError for vLLM's own scheduler with offline requests.
    """
    started_s = time.perf_counter()
    if fleet.router == PULLED and not policy.is_hygen:
        if policy.has_offline:
            raise ValueError(f"router {PULLED} needs a policy of HyGen's, got {policy.name}")
        policy, settings = replace(policy, is_hygen=True), {"mode": "off"}
    replicas = [_Replica(engine, policy, settings, seed + i) for i in range(fleet.num_replicas)]
    serving = _FleetServing(fleet, replicas, requests, engine.info.block_size, seed)
    with calm_garbage_collector():
        end_s = serving.serve(until_s, progress)
    for replica in replicas:
        replica.log.check_ids()
    wall_s = time.perf_counter() - started_s
    return [Run(replica.log, policy, settings, end_s, wall_s) for replica in replicas]


class _FleetServing:
    """Gives requests to engines, and lets these go on in the order of their clocks."""

    def __init__(
        self,
        fleet: Fleet,
        replicas: list[_Replica],
        requests: Requests,
        block_size: int,
        seed: int,
    ) -> None:
        self._replicas = replicas
        self._router = make_router(fleet.router, seed)
        self._pulls = fleet.router == PULLED
        self._pool: WorkPool[tuple[LazyRequest, Any]] = WorkPool(
            math.inf, QueueRules(OrderRules(by_prefix=True))
        )
        self._maker = RequestMaker(block_size)
        self._block_size = block_size
        self._requests = requests.in_order()
        self._next = next(self._requests, None)
        self._ready: list[tuple[float, int]] = []
        """(clock, number) of the engines that have work."""
        self._is_ready = [False] * len(replicas)
        self._tick_s = 0.0
        self._num_ticks = 0

    def serve(self, until_s: float, progress: Progress) -> float:
        """Return the time at which the run ended."""
        for turn in itertools.count():
            now_s = self._next_s()
            if now_s >= until_s or now_s == math.inf:
                break
            if self._next is not None and self._next[2].time_s <= now_s:
                self._arrive()
            elif self._pulls and self._tick_s <= now_s:
                self._tick()
            else:
                self._go_on(until_s)
            if turn % PROGRESS_EVERY == 0:
                progress(now_s)
        clocks = [replica.virtual.now_s for replica in self._replicas]
        return max(clocks) if until_s == math.inf else until_s

    def _next_s(self) -> float:
        """Return the time of what happens next, infinity if nothing does."""
        times_s = [self._ready[0][0]] if self._ready else []
        if self._next is not None:
            times_s.append(self._next[2].time_s)
        if self._pulls and (times_s or self._pool.num_waiting):
            times_s.append(self._tick_s)
        return min(times_s, default=math.inf)

    def _arrive(self) -> None:
        assert self._next is not None
        slo_class, _, arrival = self._next
        request = self._maker.make(*self._next)
        if slo_class == OFFLINE and self._pulls:
            key = LaneKey(
                tenant=arrival.tenant,
                hashes=request.shared_prefix,
                tokens=arrival.prompt_tokens + arrival.output_tokens,
            )
            work = Work(request.request_id, (request, arrival), key)
            self._pool.add(work, arrival.time_s)
        else:
            routed = RoutedRequest(arrival.prompt_tokens, request.shared_prefix, self._block_size)
            loads: dict[Hashable, EngineLoad] = {
                i: replica.load for i, replica in enumerate(self._replicas)
            }
            chosen = self._router.choose(routed, loads)
            assert isinstance(chosen, int)
            self._give(chosen, request, arrival, slo_class == OFFLINE, arrival.time_s)
        self._next = next(self._requests, None)

    def _give(
        self, number: int, request: LazyRequest, arrival: Any, is_offline: bool, now_s: float
    ) -> None:
        self._replicas[number].add(request, arrival, is_offline, now_s)
        self._make_ready(number)

    def _make_ready(self, number: int) -> None:
        replica = self._replicas[number]
        if not self._is_ready[number] and replica.virtual.has_work:
            self._is_ready[number] = True
            heapq.heappush(self._ready, (replica.virtual.now_s, number))

    def _tick(self) -> None:
        """Let the engines report, and pull offline work."""
        now_s = self._tick_s
        is_report = self._num_ticks % round(REPORT_EVERY_S / PULL_EVERY_S) == 0
        for number, replica in enumerate(self._replicas):
            load = replica.report(now_s)
            if is_report:
                replica.load = load
            for work in self._pool.take(number, load.offline_wanted, now_s):
                request, arrival = work.content
                self._give(number, request, arrival, True, now_s)
        self._num_ticks += 1
        self._tick_s = self._num_ticks * PULL_EVERY_S

    def _go_on(self, until_s: float) -> None:
        """Let the engine whose clock is behind go on."""
        _, number = heapq.heappop(self._ready)
        self._is_ready[number] = False
        replica = self._replicas[number]
        goes_on = replica.virtual.turn(until_s)
        for request_id in replica.finished:
            if self._pulls:
                self._pool.cancel(request_id)
            self._router.completed(number)
        replica.finished.clear()
        if goes_on:
            self._make_ready(number)
