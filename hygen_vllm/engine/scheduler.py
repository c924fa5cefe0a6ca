# SPDX-License-Identifier: Apache-2.0
"""HyGenScheduler: vLLM's own scheduler with an offline class behind the online one.

Never copies `Scheduler.schedule()`. A step is: plan what online needs, make room for it by
preempting offline requests, call vLLM once, and cap each offline request through the one hook that
vLLM passes every request through. Without offline requests in the engine nothing is planned and
nothing capped: the schedule is vLLM's.

vLLM 0.32.0, v1/core/sched/scheduler.py: the hook is called at :754 and :1216 after all other caps;
0 skips a running request and ends the admission of waiting ones (0.33: skips those too).
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import filterfalse
from operator import attrgetter
from typing import Any

from vllm import __version__ as vllm_version
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from hygen_vllm.config import HyGenConfig
from hygen_vllm.engine.hook import Granted, OnlineOnlyStep, OpenStep
from hygen_vllm.engine.identity import given_cost, new_trace
from hygen_vllm.engine.kv_reserve import KvReserve
from hygen_vllm.engine.leftovers import Leftovers
from hygen_vllm.engine.load_report import LoadReport, answer_through_engine_core
from hygen_vllm.engine.offload_tier import KvOffloading
from hygen_vllm.engine.planner import StepPlanner
from hygen_vllm.engine.release import check_release
from hygen_vllm.engine.slo_control import SloControl
from hygen_vllm.engine.state import EngineState, extra_args
from hygen_vllm.engine.step_builder import StepBuilder
from hygen_vllm.engine.waiting_queue import QueueParts, TwoLaneQueue
from hygen_vllm.labels import RequestClass
from hygen_vllm.lane.rate_cap import OfflineRate
from hygen_vllm.operate.faults import PolicyFaults
from hygen_vllm.operate.log import engine_logger, remarks, start_line
from hygen_vllm.operate.offline_log import OfflineLog
from hygen_vllm.price.composition import StepComposition
from hygen_vllm.price.learner import CostLearner
from hygen_vllm.price.trace import TracedStep, TraceWriter
from hygen_vllm.step.feedback import StepFeedback, StepRecord, StepSample, StepSize
from hygen_vllm.step.plan import Gate, LatencyGate, StepPlan

logger = engine_logger()

check_release(vllm_version)
answer_through_engine_core()

Clock = Callable[[], float]
MEASURE_EVERY = 4
"""Once the device is known one step in so many is measured; the others stay as cheap as stock."""


class HyGenScheduler(Scheduler):
    """Serves online and offline requests in one engine; see the module docstring.

    Calling it returns the synchronous scheduler, or the asynchronous one where the engine
    schedules asynchronously. Configuration: `config.HyGenConfig`. Raises ConfigError.

    Args:
        clock: monotonic seconds; of whoever drives the scheduler in virtual time.
        wall_clock: the clock of `Request.arrival_time`.
    """

    running: list[Request]
    has_policy = False
    """Whether the constructor has run. Without it, as vLLM's own tests build some schedulers, every
    method is vLLM's."""
    offline_ids: set[str] = frozenset()  # type: ignore[assignment]
    """Requests of the offline class in this engine."""
    slo_control: SloControl | None = None
    """Steers by SLOs; None in the other modes."""
    trace: Any = None
    """Where every step is recorded, None for nowhere; anything with record(TracedStep)."""
    _step: OpenStep | OnlineOnlyStep | None = None
    prefix_of: Callable[[Request], Sequence[Any]] = staticmethod(attrgetter("block_hashes"))
    """The chained block hashes of a prompt; whoever makes prompts on demand sets another one."""

    def __new__(cls, vllm_config: Any = None, *_: Any, **__: Any) -> Any:
        is_async = vllm_config is not None and vllm_config.scheduler_config.async_scheduling
        if is_async and not issubclass(cls, AsyncScheduler):
            return super().__new__(_asynchronous(cls))
        return super().__new__(cls)

    def __init__(
        self,
        vllm_config: Any,
        *args: Any,
        clock: Clock = time.monotonic,
        wall_clock: Clock = time.time,
        **kwargs: Any,
    ) -> None:
        self._clock, self._wall_clock = clock, wall_clock
        self.faults = PolicyFaults(logger.exception)
        self.hygen_config = HyGenConfig.load(vllm_config.additional_config)
        self._kv_offloading = KvOffloading(vllm_config, self.hygen_config.offload_online)
        super().__init__(vllm_config, *args, **kwargs)
        config = self.hygen_config
        self.offline_ids = set()
        self.state = EngineState(self)
        self.kv_reserve = KvReserve(self.state, config)
        """KV blocks that no new offline request may take."""
        self.leftovers = Leftovers(self.state, config.offline_order == "prefix")
        """What finished offline requests leave in the prefix cache."""
        self.waiting: TwoLaneQueue
        self.kv_holding_waiting: TwoLaneQueue
        self.lanes = QueueParts(
            config,
            self.policy,
            self.state,
            self.is_offline,
            self._prefix_of,
            self.kv_reserve.remaining_tokens,
            self.clock,
            self.faults,
        ).lanes()
        self.waiting, self.kv_holding_waiting = self.lanes.waiting, self.lanes.holding
        self.offline_log = OfflineLog()
        self.num_unknown_labels = 0
        self.learner = CostLearner(given_cost(self.hygen_config, vllm_config))
        self.trace = new_trace(self.hygen_config, vllm_config, self.clock())
        self._class_rule = self.hygen_config.class_rule(self.policy.value)
        if self.hygen_config.targets:
            limits = self.state.limits()
            self.slo_control = SloControl(config, limits, self.clock, self.wall_clock)
        self.gate: Gate = LatencyGate.from_config(self.hygen_config)
        """Says what offline may do in a step; another one may be set between two steps."""
        if self.slo_control is not None:
            self.gate = self.slo_control.controller
        rate_per_s = self.hygen_config.offline_rate_per_s
        self._rate = None if rate_per_s is None else OfflineRate(rate_per_s, self.clock())
        self._builder = StepBuilder(
            self.state,
            config,
            self.lanes,
            self.offline_ids,
            self.kv_reserve,
            StepPlanner(self.state, config, self.kv_reserve, self.slo_control),
            self._rate,
        )
        self.load_report = LoadReport(
            self.state,
            self.lanes,
            self.offline_ids,
            cost=lambda: self.learner.cost,
            num_started=lambda: self.offline_log.num_started,
            control=self.slo_control,
            clock=self.clock,
        )
        """What this engine has to do, for those who send requests to several."""
        self._has_seen_online = False
        self.step_limit_s: float | None = None
        """Seconds that the last step could take, None without offline requests in the engine."""
        self.step_price = 0.0
        """Price of a second in the last step; see step.terms.StepTerms."""
        self._had_no_plan = False
        """Whether the plan of the last step failed."""
        self._feedback = StepFeedback(vllm_config.parallel_config.pipeline_parallel_size)
        self._num_traced = 0
        self.has_policy = True
        source = None if self.slo_control is None else self.slo_control.alone_source
        logger.info(start_line(self.hygen_config, vllm_version, self.policy.value, source))
        for remark in remarks(self.hygen_config, vllm_config.additional_config):
            logger.warning("HyGen: %s", remark)

    def _prefix_of(self, request: Request) -> Sequence[Any]:
        return self.prefix_of(request)

    @property
    def clock(self) -> Clock:
        """Monotonic seconds. Given to the constructor: times that are kept are by this clock."""
        return self._clock

    @property
    def wall_clock(self) -> Clock:
        """The clock of `Request.arrival_time`."""
        return self._wall_clock

    def shutdown(self) -> None:
        if isinstance(self.trace, TraceWriter):
            self.trace.close()
        super().shutdown()

    def is_offline(self, request: Request) -> bool:
        """Whether a request of this engine belongs to the offline class."""
        return request.request_id in self.offline_ids

    # --- class ---------------------------------------------------------------------------------

    def add_request(self, request: Request) -> None:
        if self.has_policy and request.request_id not in self.requests:
            try:
                self._came(request)
            except Exception:
                self.faults.note("intake of a request")
                self.offline_ids.discard(request.request_id)
        super().add_request(request)

    def _came(self, request: Request) -> None:
        """Note a new request."""
        is_offline = self._classify(request)
        if is_offline:
            self.offline_ids.add(request.request_id)
        self._kv_offloading.added(request, is_offline, bool(self.offline_ids))
        self.leftovers.added(partial(self.prefix_of, request), is_offline)
        if not is_offline:
            self._has_seen_online = True
            if self.slo_control is not None:
                self.slo_control.added(request)

    def _classify(self, request: Request) -> bool:
        """Return whether a new request is offline. Streaming-input sessions are interactive."""
        labels = extra_args(request)
        request_class = self._class_rule.classify(labels, request.priority)
        if request_class is None:
            self.num_unknown_labels += 1
            if self.num_unknown_labels == 1:
                label = labels["slo_class"] if labels else None
                logger.warning(
                    "Request %.100s has an unknown slo_class %.100s; treated as online. Valid: "
                    "online, offline. Further ones are only counted.",
                    request.request_id,
                    repr(label),
                )
        return request_class is RequestClass.OFFLINE and not request.resumable

    def _free_request(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        if self.has_policy:
            try:
                self._left(request)
            except Exception:
                self.faults.note("farewell to a request")
        return super()._free_request(request, *args, **kwargs)

    def _left(self, request: Request) -> None:
        """Note that a request finished or was aborted."""
        if self.is_offline(request):
            self.offline_ids.discard(request.request_id)
            self._builder.too_long.pop(request.request_id, None)
            self.waiting.offline.finished(request, request.num_tokens)
            self.kv_holding_waiting.offline.finished(request, 0.0)
            self.kv_reserve.left(request, self.clock())
            self.leftovers.ends(request, self.waiting.offline.num_shared)
        if self.slo_control is not None:
            self.slo_control.controller.online.left(request.request_id)

    # --- step ----------------------------------------------------------------------------------

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        if not self.has_policy:
            return super().schedule(throttle_prefills)
        started_s = self.clock()
        self.step_limit_s, self.step_price = None, 0.0
        if self.offline_ids:
            try:
                self._step, throttle_prefills = self._builder.open(
                    self.gate,
                    self.learner,
                    expects_online=self.expects_online,
                    is_throttled=throttle_prefills,
                    step_s=self._feedback.step_s,
                    now_s=started_s,
                )
                self._had_no_plan = False
            except Exception:
                self.faults.note("plan of a step")
                if self._had_no_plan and self.lanes.num_online():
                    self._hand_back_offline(started_s)
                self._had_no_plan = True
                for queue in (self.waiting, self.kv_holding_waiting):
                    queue.start_step(True, started_s)
                self._leave_out_offline()
        try:
            output = super().schedule(throttle_prefills)
        finally:
            step, self._step = self._step, None
            self.waiting.offline_is_open = self.kv_holding_waiting.offline_is_open = True
        try:
            self._step_was_made(step, output, started_s)
        except Exception:
            self.faults.note("record of a step")
        return output

    def _hand_back_offline(self, now_s: float) -> None:
        """Preempt all running offline requests: without a plan they would never make room."""
        for request in filter(self.is_offline, [*self.running]):
            self.state.preempt(request, now_s)

    def _leave_out_offline(self) -> None:
        """Serve no offline request in this step; all of them as vLLM does if no other is here."""
        has_online = self.lanes.num_online() or not all(map(self.is_offline, self.running))
        self.waiting.offline_is_open = self.kv_holding_waiting.offline_is_open = not has_online
        num_online = sum(not self.is_offline(request) for request in self.running)
        granted = () if self._step is None else self._step.granted
        self._step = OnlineOnlyStep(self.offline_ids, num_online, granted) if has_online else None

    def _step_was_made(
        self, step: OpenStep | OnlineOnlyStep | None, output: SchedulerOutput, started_s: float
    ) -> None:
        plan = None if step is None else self._close(step)
        if self.connector is not None and self._inflight_prefills:
            # vLLM keeps those whose load failed; elsewhere in the lane they would keep others out.
            without_kv = filter(self._waits_without_kv, self._inflight_prefills)
            self._inflight_prefills -= set(filter(self.is_offline, without_kv))
        size = StepSize(len(output.num_scheduled_tokens), output.total_num_scheduled_tokens)
        self._feedback.scheduled(output, started_s, self._record(output, plan), size)
        if self.slo_control is not None:
            self.slo_control.scheduled(output, started_s)

    def _record(self, output: SchedulerOutput, plan: StepPlan | None) -> StepRecord | None:
        """Return what is to be known of a step when it is done."""
        is_measured = self.trace is not None or (
            self.gate.mode != "off"
            and (self.learner.is_new or self.current_step % MEASURE_EVERY == 0)
        )
        has_tokens = output.total_num_scheduled_tokens > 0
        composition = self.state.composition(output) if is_measured and has_tokens else None
        if self.slo_control is not None:
            return self.slo_control.record(plan, composition, self.learner.cost)
        return None if composition is None else StepRecord(composition)

    @staticmethod
    def _waits_without_kv(request: Request) -> bool:
        is_ready = request.status in (RequestStatus.WAITING, RequestStatus.PREEMPTED)
        return is_ready and not request.num_computed_tokens

    @property
    def expects_online(self) -> bool:
        """Whether an online request may come at any moment."""
        return self._has_seen_online or self.gate.mode == "fixed"

    def _close(self, step: OpenStep | OnlineOnlyStep) -> StepPlan | None:
        """Take in what became of a step that was built with offline requests in the engine."""
        self._builder.offline_is_stuck = step.offline_is_stuck
        if step.plan is not None:
            self.step_limit_s, self.step_price = step.plan.limit_s, step.plan.price
        for granted in step.granted:
            self._note_start(granted)
        self.kv_reserve.step_ended(step.refused)
        self.offline_log.count(step.refused, step.num_preempted)
        return step.plan

    def _note_start(self, granted: Granted) -> None:
        """Note that an offline request started or is loaded, unless vLLM had no room for it."""
        if granted.request in self.waiting.offline:
            self.waiting.offline.no_room(granted.request)
            return
        if self._rate is not None:
            self._rate.started(granted.is_first_start)
        self.kv_reserve.started(granted.request, self.clock())
        self.leftovers.started(granted.request, granted.computed)
        self.offline_log.num_started += 1

    def get_request_counts(self) -> tuple[int, int]:
        """Return (running, waiting); while a step is built, online requests only.

        `schedule()` derives caps for online requests from these counts (:651), and whether prefills
        were held up from waiting minus deferred ones (:1400). Neither may depend on how many
        offline requests there are; those deferred in this step are counted on both sides.
        """
        if self._step is None:
            return super().get_request_counts()
        num_waiting = self.lanes.num_online()
        if self.deferred_waiting:
            num_waiting += sum(map(self.is_offline, self.deferred_waiting))
        return self._step.num_online_running, num_waiting

    # --- grant ---------------------------------------------------------------------------------

    def limit_num_new_tokens(
        self, request: Request, num_computed_tokens: int, num_new_tokens: int
    ) -> int:
        """Return how many tokens a request may get; charge the plan for them.

        vLLM calls this itself where patches/ is applied; elsewhere through the method below.
        """
        if self._step is None:
            return num_new_tokens
        return self._limit(request, num_computed_tokens, num_new_tokens)

    def _limit(self, request: Request, computed: int, wanted: int) -> int:
        assert self._step is not None
        try:
            return self._step.limit(request, computed, wanted)
        except Exception:
            self.faults.note("grant of tokens")
            self._leave_out_offline()
            return wanted if self._step is None else self._step.limit(request, computed, wanted)

    def _inflight_prefill_reserved_blocks(self) -> int:
        """Blocks that the request which vLLM is about to load from a connector must leave (:1249).

        An online one waits for no offline prefill, which can be preempted for it. An offline one
        that may not start has to leave more than there are.
        """
        if self._step is None:
            return super()._inflight_prefill_reserved_blocks()
        offered = self.waiting.offered
        if offered is None:
            online = filterfalse(self.is_offline, self._inflight_prefills)
            return sum(map(self._request_remaining_blocks, online))
        if not self._may_load(offered):
            return self.kv_cache_manager.block_pool.num_gpu_blocks
        return super()._inflight_prefill_reserved_blocks()

    def _may_load(self, request: Request) -> bool:
        assert self._step is not None
        try:
            return self._step.may_load(request)
        except Exception:
            self.faults.note("grant of a load")
            return False

    if not hasattr(Scheduler, "limit_num_new_tokens"):

        def _reserve_prefill_lookahead(
            self, request: Request, num_computed_tokens: int, num_new_tokens: int
        ) -> int:
            if self._step is not None:
                num_new_tokens = self._limit(request, num_computed_tokens, num_new_tokens)
            if not self.num_prefill_lookahead:
                return num_new_tokens
            return super()._reserve_prefill_lookahead(request, num_computed_tokens, num_new_tokens)

    # --- feedback ------------------------------------------------------------------------------

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        if not self.has_policy:
            return super().update_from_output(scheduler_output, model_runner_output)
        now_s = self.clock()
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        try:
            self._step_was_done(scheduler_output, outputs, now_s)
        except Exception:
            self.faults.note("lesson of a step")
        return outputs

    def _step_was_done(
        self, scheduler_output: SchedulerOutput, outputs: dict[int, EngineCoreOutputs], now_s: float
    ) -> None:
        sample = self._feedback.completed(scheduler_output, now_s, self.has_unfinished_requests())
        if self.offline_ids and self.log_stats:
            self._log_offline(now_s)
        if sample is not None and sample.record.composition is not None:
            self._learn(sample.record.composition, sample, now_s)
        if self.slo_control is not None:
            self.slo_control.completed(outputs, sample, self.learner.cost, now_s)

    def _learn(self, composition: StepComposition, sample: StepSample, now_s: float) -> None:
        if self.trace is not None:
            self._num_traced += 1
            predicted_s = self.learner.predict(composition)
            values = composition, predicted_s, sample.seconds, sample.is_steady
            self.trace.record(TracedStep(self._num_traced, now_s, *values))
        if sample.is_steady:
            self.learner.observe(composition, sample.seconds)

    def _log_offline(self, now_s: float) -> None:
        num_waiting = self.lanes.num_offline()
        line = self.offline_log.line(now_s, len(self.offline_ids) - num_waiting, num_waiting)
        if line is not None:
            if self.slo_control is not None:
                line += f"; {self.slo_control.controller.status()}"
            logger.info(line)


class HyGenAsyncScheduler(HyGenScheduler, AsyncScheduler):
    """HyGenScheduler for engines that schedule the next step before the last one is done."""


def _asynchronous(cls: type[HyGenScheduler]) -> type[HyGenScheduler]:
    """Return the asynchronous variant of the scheduler class or of a user's subclass of it."""
    if cls is HyGenScheduler:
        return HyGenAsyncScheduler
    return type(cls.__name__, (cls, HyGenAsyncScheduler), {})
