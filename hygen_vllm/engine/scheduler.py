# SPDX-License-Identifier: Apache-2.0
"""HyGenScheduler: vLLM's own scheduler with an offline class behind the online one.

Never copies `Scheduler.schedule()`. A step is: make room for what online needs by preempting
offline requests, plan what that leaves, call vLLM once, and cap each offline request through the
one hook that vLLM passes every request through. Without offline requests in the engine nothing is
planned and nothing capped: the schedule is vLLM's. Here vLLM's calls come in; what is made of them
is in `policy.Policy`, and no exception of it leaves this class.

vLLM 0.32.0, v1/core/sched/scheduler.py: the hook is called at :751 and :1213 after all other caps;
0 skips a running request and ends the admission of waiting ones (0.33: skips those too).
"""

import time
from itertools import filterfalse
from typing import Any

from vllm import __version__ as vllm_version
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request

from hygen_vllm.config import HyGenConfig
from hygen_vllm.engine.hook import OnlineOnlyStep, OpenStep
from hygen_vllm.engine.load_report import answer_through_engine_core
from hygen_vllm.engine.offload_tier import KvOffloading
from hygen_vllm.engine.policy import Clock, Clocks, Policy
from hygen_vllm.engine.release import check_release
from hygen_vllm.engine.waiting_queue import TwoLaneQueue
from hygen_vllm.operate.faults import PolicyFaults
from hygen_vllm.operate.log import engine_logger

check_release(vllm_version)
answer_through_engine_core()


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
    policy_class: type[Policy] = Policy
    hygen: Policy
    _step: OpenStep | OnlineOnlyStep | None = None
    """What the hook asks while vLLM builds a step with offline requests in the engine."""

    def __new__(cls, vllm_config: Any = None, *_: Any, **__: Any) -> Any:
        is_async = vllm_config is not None and vllm_config.scheduler_config.async_scheduling
        if is_async and not issubclass(cls, AsyncScheduler):
            return super().__new__(asynchronous(cls))
        return super().__new__(cls)

    def __init__(
        self,
        vllm_config: Any,
        *args: Any,
        clock: Clock = time.monotonic,
        wall_clock: Clock = time.time,
        **kwargs: Any,
    ) -> None:
        self.faults = PolicyFaults(engine_logger().exception)
        config = HyGenConfig.load(vllm_config.additional_config)
        kv_offloading = KvOffloading(vllm_config, config.offload_online)
        super().__init__(vllm_config, *args, **kwargs)
        clocks = Clocks(clock, wall_clock)
        self.hygen = self.policy_class(self, config, kv_offloading, self.faults, clocks)
        queues = self.hygen.queues
        self.waiting: TwoLaneQueue = queues.waiting
        self.kv_holding_waiting: TwoLaneQueue = queues.holding
        self.has_policy = True

    def is_offline(self, request: Request) -> bool:
        """Whether a request of this engine belongs to the offline class."""
        return self.hygen.requests.is_offline(request)

    def shutdown(self) -> None:
        if self.has_policy:
            self.hygen.meter.close()
        super().shutdown()

    # --- requests ------------------------------------------------------------------------------

    def add_request(self, request: Request) -> None:
        if self.has_policy and request.request_id not in self.requests:
            self.hygen.requests.came(request)
        super().add_request(request)

    def _preempt_request(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        if self.has_policy:
            self.hygen.requests.preempted(request)
        return super()._preempt_request(request, *args, **kwargs)

    def _free_request(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        if self.has_policy:
            self.hygen.requests.left(request)
        return super()._free_request(request, *args, **kwargs)

    # --- step ----------------------------------------------------------------------------------

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        if not self.has_policy:
            return super().schedule(throttle_prefills)
        started_s = self.hygen.clock()
        self._step, throttle_prefills = self.hygen.open_step(throttle_prefills, started_s)
        try:
            output = super().schedule(throttle_prefills)
        finally:
            step, self._step = self._step, None
            self.waiting.offline_is_open = self.kv_holding_waiting.offline_is_open = True
        try:
            self.hygen.step_made(step, output, self.requests, started_s)
        except Exception:
            self.faults.note("record of a step")
        return output

    def get_request_counts(self) -> tuple[int, int]:
        """Return (running, waiting); while a step is built, online requests only.

        `schedule()` derives caps for online requests from these counts (:651), and whether prefills
        were held up from waiting minus deferred ones (:1400). Neither may depend on how many
        offline requests there are; those deferred in this step are counted on both sides.
        """
        if self._step is None:
            return super().get_request_counts()
        num_waiting = len(self.waiting.online) + len(self.kv_holding_waiting.online)
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
        try:
            return self._step.limit(request, num_computed_tokens, num_new_tokens)
        except Exception:
            return self._limit_failed(request, num_computed_tokens, num_new_tokens)

    def _limit_failed(self, request: Request, computed: int, wanted: int) -> int:
        """Return how many tokens a request may get after the grant of them failed."""
        self.faults.note("grant of tokens")
        step = self._step = self.hygen.leave_out_offline(self._step)
        return wanted if step is None else step.limit(request, computed, wanted)

    if not hasattr(Scheduler, "limit_num_new_tokens"):

        def _reserve_prefill_lookahead(
            self, request: Request, num_computed_tokens: int, num_new_tokens: int
        ) -> int:
            if self._step is not None:
                try:  # not through the method above: another call costs a tenth of the hook
                    num_new_tokens = self._step.limit(request, num_computed_tokens, num_new_tokens)
                except Exception:
                    num_new_tokens = self._limit_failed(
                        request, num_computed_tokens, num_new_tokens
                    )
            if not self.num_prefill_lookahead:
                return num_new_tokens
            return super()._reserve_prefill_lookahead(request, num_computed_tokens, num_new_tokens)

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

    # --- feedback ------------------------------------------------------------------------------

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        if not self.has_policy:
            return super().update_from_output(scheduler_output, model_runner_output)
        now_s = self.hygen.clock()
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        try:
            self.hygen.step_done(
                scheduler_output,
                outputs,
                is_busy=self.has_unfinished_requests(),
                is_logged=self.log_stats,
                now_s=now_s,
            )
        except Exception:
            self.faults.note("lesson of a step")
        return outputs


class HyGenAsyncScheduler(HyGenScheduler, AsyncScheduler):
    """HyGenScheduler for engines that schedule the next step before the last one is done."""


def asynchronous(cls: type[HyGenScheduler]) -> type[HyGenScheduler]:
    """Return the asynchronous variant of the scheduler class or of a user's subclass of it."""
    if cls is HyGenScheduler:
        return HyGenAsyncScheduler
    return type(cls.__name__, (cls, HyGenAsyncScheduler), {})
