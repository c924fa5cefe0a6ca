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
from itertools import chain, filterfalse
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
from hygen_vllm.engine.arrivals import Arrival, expected_arrivals, ready_with_kv
from hygen_vllm.engine.hook import Granted, OnlineOnlyStep, OpenStep
from hygen_vllm.engine.identity import given_cost, new_trace
from hygen_vllm.engine.kv_reserve import KvReserve
from hygen_vllm.engine.leftovers import Leftovers
from hygen_vllm.engine.load_report import LoadReport, answer_through_engine_core
from hygen_vllm.engine.make_room import Room, RoomMaker
from hygen_vllm.engine.offload_tier import KvOffloading
from hygen_vllm.engine.planner import StepPlanner, chunk_caps, num_ready_of
from hygen_vllm.engine.release import check_release
from hygen_vllm.engine.slo_control import SloControl
from hygen_vllm.engine.state import EngineState, extra_args, lora_id
from hygen_vllm.engine.waiting_queue import QueueParts, TwoLaneQueue
from hygen_vllm.labels import RequestClass
from hygen_vllm.lane.offline_queue import Start
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
ORDERING_SHARE = 0.011
"""Share of the time of steps that putting a backlog in order may take by itself. With what it does
to caches and to the collector steps are 2 % longer at most (experiments/05-offline-lane)."""
UNKNOWN_STEP_S = 0.01
"""Taken for the seconds of a step before one has completed."""
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
        self.waiting, self.kv_holding_waiting = QueueParts(
            config,
            self.policy,
            self.state,
            self.is_offline,
            self._prefix_of,
            self.kv_reserve.remaining_tokens,
            self.clock,
            self.faults,
        ).queues()
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
        self._planner = StepPlanner(self.state, config, self.kv_reserve, self.slo_control)
        self.load_report = LoadReport(
            self.state,
            self.waiting,
            self.kv_holding_waiting,
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
        rate_per_s = self.hygen_config.offline_rate_per_s
        self._rate = None if rate_per_s is None else OfflineRate(rate_per_s, self.clock())
        self._offline_is_stuck = False
        self.too_long: dict[str, float] = {}
        """Since when no step has had the seconds that a running offline request needs."""
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
            self.too_long.pop(request.request_id, None)
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
                throttle_prefills = self._begin_step(throttle_prefills, started_s)
                self._had_no_plan = False
            except Exception:
                self.faults.note("plan of a step")
                if self._had_no_plan and self.num_waiting_online():
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
        has_online = self.num_waiting_online() or not all(map(self.is_offline, self.running))
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

    def _begin_step(self, throttle_prefills: bool, now_s: float) -> bool:
        """Plan the step, make room for the online class; return whether vLLM defers prefills."""
        state = self.state
        num_online = self._put_online_first()
        can_admit = state.can_admit_waiting()
        defers_prefills = throttle_prefills and self._defers_prefills(num_online)
        num_waiting = self.num_waiting_online(), self.num_waiting_offline()
        cap, offline_cap = chunk_caps(state, num_online, *num_waiting)
        with_kv = ready_with_kv(state, self.kv_holding_waiting.online)
        arrivals: list[Arrival] = []
        if with_kv or (can_admit and self.waiting.online):
            waiting = chain(with_kv, self.waiting.online if can_admit else ())
            arrivals = [*expected_arrivals(state, waiting, num_online, cap, defers_prefills)]
        num_ready = len(with_kv) + num_ready_of(state, self.waiting.online)
        num_behind = max(0, num_ready - len(arrivals))
        room = RoomMaker(
            state,
            self.kv_holding_waiting.offline,
            arrivals,
            num_online=num_online,
            most_tokens_each=cap,
            remaining_tokens=self.kv_reserve.remaining_tokens,
            now_s=now_s,
        ).make_room(self._offline_is_stuck)
        self.kv_reserve.start_step(num_online, self.waiting.online, now_s)
        if self.deferred_waiting:
            self.deferred_waiting -= set(filter(self.is_offline, self.deferred_waiting))
        if len(self.kv_holding_waiting.offline):
            self._offer_kv_holding(room.blocks_left, len(arrivals), now_s)
        is_open = can_admit and not room.num_preempted
        room_for = partial(self._room_for, room, num_online)
        self.waiting.start_step(is_open, now_s, *self._ordering(num_online), room_for)
        plan = self._planner.plan(
            self.gate,
            self.learner,
            expects_online=self.expects_online,
            num_online=num_online,
            arrivals=arrivals,
            num_behind=num_behind,
            next_offline=self.waiting.offline.next_candidate(),
            blocks_left=room.blocks_left,
        )
        self._step = OpenStep(
            state,
            self.waiting,
            plan,
            room,
            arrivals,
            offline_ids=self.offline_ids,
            too_long=self.too_long,
            blocks_to_start=self.kv_reserve.blocks_to_start,
            now_s=now_s,
            num_online=num_online,
            min_chunk_tokens=self.hygen_config.min_chunk_tokens,
            max_chunk_tokens=offline_cap,
            starts_left=self._rate.num_ready(now_s) if self._rate else None,
            is_throttled=throttle_prefills,
        )
        return defers_prefills

    def _offer_kv_holding(self, blocks_left: int, num_arrivals: int, now_s: float) -> None:
        """Offer offline requests that wait with KV blocks, unless that could hold up online ones.

        vLLM admits nobody behind one of them that cannot go on. One whose load failed has none and
        waits like any other.
        """
        queue = self.kv_holding_waiting
        for request in [*queue.offline]:
            if not request.num_computed_tokens and self.state.has_loaded(request):
                self.state.wait_without_kv(request)
        queue.start_step(True, now_s)
        head = queue.peek_offline()
        rest = 0 if head is None else head.num_tokens - head.num_computed_tokens
        chunk = max(1, min(self.hygen_config.min_chunk_tokens, rest))
        needed = self.state.most_blocks_to_grow(chunk)
        has_others = bool(self.running or num_arrivals)
        slots_left = self.state.slots - len(self.running) - num_arrivals
        queue.offline_is_open = slots_left > 0 and (blocks_left >= needed or not has_others)
        queue.gives_one = has_others  # room was looked for one of them

    @staticmethod
    def _waits_without_kv(request: Request) -> bool:
        is_ready = request.status in (RequestStatus.WAITING, RequestStatus.PREEMPTED)
        return is_ready and not request.num_computed_tokens

    def _room_for(self, room: Room, num_online: int, request: Request) -> Start:
        """Return whether an offline request could start now, or where no other one ran."""
        if room.encoder_is_reserved and request.has_encoder_inputs:
            return Start.NOT
        adapter = lora_id(request)
        is_later = False
        if adapter and adapter not in room.adapters:
            max_loras = self.state.max_loras or 0
            if len(room.online_adapters) >= max_loras:
                return Start.NOT
            is_later = len(room.adapters) >= max_loras
        blocks = self.kv_reserve.blocks_to_start(request)
        if blocks > room.blocks_left:
            is_later = True
            freed = sum(map(self.state.num_unshared, self.running[num_online:]))
            if self.kv_reserve.blocks_to_start_alone(request) > room.blocks_left + freed:
                return Start.NOT
        return Start.LATER if is_later else Start.NOW

    def _ordering(self, num_online: int) -> tuple[float, int]:
        """Return the seconds for putting a backlog in order, and how many have to be in order.

        Where no online request is here nobody waits for it: then every free slot gets a request.
        """
        order_s = ORDERING_SHARE * (self._feedback.step_s or UNKNOWN_STEP_S)
        if num_online or self.num_waiting_online():
            return order_s, 1
        return order_s, max(1, self.max_num_running_reqs - len(self.running))

    def _defers_prefills(self, num_online: int) -> bool:
        """Whether a throttled step defers prefills (:636): online ones for online decodes only."""
        has_online = num_online or self.num_waiting_online()
        return self.state.defers_prefills(num_online if has_online else len(self.running))

    @property
    def expects_online(self) -> bool:
        """Whether an online request may come at any moment."""
        return self._has_seen_online or self.gate.mode == "fixed"

    def num_waiting_online(self) -> int:
        """Online requests in both of vLLM's waiting queues."""
        return len(self.waiting.online) + len(self.kv_holding_waiting.online)

    def num_waiting_offline(self) -> int:
        """Offline requests in both of vLLM's waiting queues."""
        return len(self.waiting.offline) + len(self.kv_holding_waiting.offline)

    def _close(self, step: OpenStep | OnlineOnlyStep) -> StepPlan | None:
        """Take in what became of a step that was built with offline requests in the engine."""
        self._offline_is_stuck = step.offline_is_stuck
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

    def _put_online_first(self) -> int:
        """Order `running`: online, offline decodes, offline prefills. Return the number online.

        vLLM scans this list in order and, under fcfs, preempts its last member.
        """
        if len(self.offline_ids) == self.num_waiting_offline():
            return len(self.running)
        offline_ids = self.offline_ids
        online: list[Request] = []
        decodes: list[Request] = []
        prefills: list[Request] = []
        for request in self.running:
            if request.request_id not in offline_ids:
                online.append(request)
            elif request.is_prefill_chunk:
                prefills.append(request)
            else:
                decodes.append(request)
        self.running = online + decodes + prefills
        return len(online)

    def get_request_counts(self) -> tuple[int, int]:
        """Return (running, waiting); while a step is built, online requests only.

        `schedule()` derives caps for online requests from these counts (:651), and whether prefills
        were held up from waiting minus deferred ones (:1400). Neither may depend on how many
        offline requests there are; those deferred in this step are counted on both sides.
        """
        if self._step is None:
            return super().get_request_counts()
        num_waiting = self.num_waiting_online()
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
        num_waiting = self.num_waiting_offline()
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
