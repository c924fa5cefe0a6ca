# SPDX-License-Identifier: Apache-2.0
"""The policy in one engine: its parts, made once, and the way of a step through them."""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from vllm import __version__ as vllm_version
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.request import Request

from hygen_vllm.config import HyGenConfig
from hygen_vllm.cost.learner import CostLearner
from hygen_vllm.engine.hook import OnlineOnlyStep, OpenStep
from hygen_vllm.engine.identity import given_cost, new_trace
from hygen_vllm.engine.kv_reserve import KvReserve
from hygen_vllm.engine.leftovers import Leftovers
from hygen_vllm.engine.load_report import LoadReport
from hygen_vllm.engine.offload_tier import KvOffloading
from hygen_vllm.engine.requests import Requests
from hygen_vllm.engine.slo_control import SloControl
from hygen_vllm.engine.state import EngineState
from hygen_vllm.engine.step_builder import StepBuilder
from hygen_vllm.engine.step_meter import StepMeter
from hygen_vllm.engine.waiting_queue import make_queues
from hygen_vllm.operate.faults import PolicyFaults
from hygen_vllm.operate.log import engine_logger, remarks, start_line
from hygen_vllm.operate.offline_log import OfflineLog
from hygen_vllm.step.gate import Gate, LatencyGate
from hygen_vllm.step.terms import StepTerms

logger = engine_logger()

Clock = Callable[[], float]


class Clocks(NamedTuple):
    """The clocks of an engine, in seconds; see Policy."""

    monotonic: Clock
    wall: Clock


class Policy:
    """HyGen beside one scheduler of vLLM.

    Args:
        scheduler: one whose constructor has run; its queues are not set yet.
        kv_offloading: made before, see there.
    """

    prefix_of: Callable[[Request], Sequence[Any]] = staticmethod(attrgetter("block_hashes"))
    """The chained block hashes of a prompt; whoever makes prompts on demand sets another one."""

    def __init__(
        self,
        scheduler: Scheduler,
        config: HyGenConfig,
        kv_offloading: KvOffloading,
        faults: PolicyFaults,
        clocks: Clocks,
    ) -> None:
        vllm_config, vllm_policy = scheduler.vllm_config, scheduler.policy
        self.faults = faults
        self._clocks = clocks
        self.state = EngineState(scheduler)
        self.requests = Requests(config.class_rule(vllm_policy.value), faults)
        self.kv_reserve = KvReserve(self.state)
        """How many KV blocks have to be free for an offline request to start."""
        self.queues = make_queues(
            config,
            policy=vllm_policy,
            is_offline=self.requests.is_offline,
            prefix_of=self._prefix_of,
            remaining_tokens=self.kv_reserve.remaining_tokens,
            clock=self.clock,
            faults=faults,
        )
        self.leftovers = Leftovers(
            self.state,
            config.offline_order == "prefix",
            self._prefix_of,
            self._num_shared,
        )
        """What finished offline requests leave in the prefix cache."""
        self.slo_control: SloControl | None = None
        """Steers by SLOs; None in the other modes."""
        if config.targets:
            limits = self.state.limits()
            self.slo_control = SloControl(config, limits, self.clock, self.wall_clock)
        self.learner = CostLearner(given_cost(config, vllm_config))
        """What a step costs; another one may be set between two steps."""
        control = self.slo_control
        self.gate: Gate = control.controller if control else LatencyGate.from_config(config)
        """Says what offline may do in a step; another one may be set between two steps."""
        self.builder = StepBuilder(
            self.state,
            config,
            self.queues,
            self.requests.offline_ids,
            self.kv_reserve,
            self.slo_control,
        )
        num_stages = vllm_config.parallel_config.pipeline_parallel_size
        trace = new_trace(config, vllm_config, self.clock())
        self.meter = StepMeter(self.state, self.slo_control, trace, num_stages)
        self.offline_log = OfflineLog()
        self.load_report = LoadReport(
            self.state,
            self.queues,
            self.requests.offline_ids,
            cost=self._cost,
            control=self.slo_control,
            clock=self.clock,
        )
        """What this engine has to do, for those who send requests to several."""
        kv_offloading.offline_ids = self.requests.offline_ids
        steering = [] if self.slo_control is None else [self.slo_control]
        self.requests.followers = [
            kv_offloading,
            self.leftovers,
            *steering,
            self.queues,
            self.kv_reserve,
            self.builder,
            self.load_report,
        ]
        self.step_limit_s: float | None = None
        """Seconds that the last step could take, None without offline requests in the engine."""
        self.step_price = 0.0
        """Price of a second in the last step; see step.terms.StepTerms."""
        self._had_no_plan = False
        """Whether the plan of the last step failed."""
        source = None if self.slo_control is None else self.slo_control.alone_source
        logger.info(start_line(config, vllm_version, vllm_policy.value, source))
        for remark in remarks(config, vllm_config.additional_config):
            logger.warning("HyGen: %s", remark)

    @property
    def clock(self) -> Clock:
        """Monotonic seconds: times that are kept are by this clock."""
        return self._clocks.monotonic

    @property
    def wall_clock(self) -> Clock:
        """The clock of `Request.arrival_time`."""
        return self._clocks.wall

    def _prefix_of(self, request: Request) -> Sequence[Any]:
        return self.prefix_of(request)

    def _num_shared(self, hashes: Sequence[Any]) -> int:
        return self.queues.waiting.offline.num_shared(hashes)

    def _cost(self) -> Any:
        return self.learner.cost

    @property
    def expects_online(self) -> bool:
        """Whether an online request may come at any moment."""
        return self.requests.has_seen_online or self.gate.mode == "fixed"

    # --- a step --------------------------------------------------------------------------------

    def open_step(
        self, is_throttled: bool, now_s: float
    ) -> tuple[OpenStep | OnlineOnlyStep | None, bool]:
        """Plan a step; return what vLLM's hook is to ask, and whether vLLM defers prefills.

        Without offline requests in the engine there is nothing to be asked.
        """
        self.step_limit_s, self.step_price = None, 0.0
        if not self.requests.offline_ids:
            return None, is_throttled
        try:
            found = self.builder.open(
                self.gate,
                self.learner,
                expects_online=self.expects_online,
                is_throttled=is_throttled,
                step_s=self.meter.step_s,
                now_s=now_s,
            )
            self._had_no_plan = False
        except Exception:
            self.faults.note("plan of a step")
            return self._step_without_plan(now_s), is_throttled
        return found

    def _step_without_plan(self, now_s: float) -> OnlineOnlyStep | None:
        if self._had_no_plan and self.queues.num_online():
            # without a plan they would never make room
            try:
                for request in filter(self.requests.is_offline, [*self.state.running]):
                    self.state.preempt(request, now_s)
            except Exception:
                self.faults.note("preemption of a request")
        self._had_no_plan = True
        for queue in (self.queues.waiting, self.queues.holding):
            queue.start_step(True, now_s)
        return self.leave_out_offline(None)

    def leave_out_offline(self, step: OpenStep | OnlineOnlyStep | None) -> OnlineOnlyStep | None:
        """Return a step that serves no offline request; None if all requests are offline.

        Then vLLM serves them as it does any.

        Args: step: the one that failed, if there is one.
        """
        running, is_offline = self.state.running, self.requests.is_offline
        num_online = sum(not is_offline(request) for request in running)
        has_online = bool(self.queues.num_online() or num_online)
        self.queues.waiting.offline_is_open = self.queues.holding.offline_is_open = not has_online
        if not has_online:
            return None
        granted = [] if step is None else step.granted
        num_preempted = 0 if step is None else step.num_preempted
        return OnlineOnlyStep(self.requests.offline_ids, num_online, granted, num_preempted)

    def step_made(
        self,
        step: OpenStep | OnlineOnlyStep | None,
        output: SchedulerOutput,
        requests: Mapping[str, Request],
        started_s: float,
    ) -> None:
        """Take in what vLLM made of a step.

        Args:
            requests: of the engine, by id.
            started_s: when vLLM began to make it.
        """
        self.requests.step_made(output, requests)
        plan = None
        if step is not None:
            plan = step.plan
            self._take_in(step)
        self.state.forget_failed_loads(self.requests.is_offline)
        is_priced = self.gate.mode != "off"
        self.meter.scheduled(output, plan, self.learner, is_priced=is_priced, started_s=started_s)

    def _take_in(self, step: OpenStep | OnlineOnlyStep) -> None:
        self.builder.offline_is_stuck = step.offline_is_stuck
        if step.plan is not None:
            budget = step.plan.budget
            terms = StepTerms() if budget is None else budget.terms
            self.step_limit_s, self.step_price = terms.limit_s, terms.price
        waiting = self.queues.waiting.offline
        for request in step.granted:
            if request in waiting:  # vLLM had no room for it
                waiting.no_room(request)
        self.offline_log.count(step.refused, step.num_preempted)

    def step_done(
        self,
        output: SchedulerOutput,
        outputs: Mapping[int, EngineCoreOutputs],
        *,
        is_busy: bool,
        is_logged: bool,
        now_s: float,
    ) -> None:
        """Learn from a step that is done.

        Args:
            outputs: of its requests.
            is_busy: requests remain in the engine.
            is_logged: a line may be written about offline requests.
        """
        if self.requests.offline_ids and is_logged:
            self._log_offline(now_s)
        self.meter.completed(output, outputs, self.learner, is_busy=is_busy, now_s=now_s)

    def _log_offline(self, now_s: float) -> None:
        num_waiting = self.queues.num_offline()
        num_running = len(self.requests.offline_ids) - num_waiting
        line = self.offline_log.line(now_s, num_running, num_waiting)
        if line is not None:
            if self.slo_control is not None:
                line += f"; {self.slo_control.controller.status()}"
            logger.info(line)
