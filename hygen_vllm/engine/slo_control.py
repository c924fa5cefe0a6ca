# SPDX-License-Identifier: Apache-2.0
"""Mode `slo` in vLLM's scheduler: tells the budget controller what happens to online requests."""

import math
from collections.abc import Callable, Mapping, Sequence

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.request import Request

from hygen_vllm.config import HyGenConfig
from hygen_vllm.operate.log import engine_logger
from hygen_vllm.price.composition import StepComposition
from hygen_vllm.price.cost import StepCost
from hygen_vllm.slo import Slo
from hygen_vllm.step.feedback import StepRecord, StepSample
from hygen_vllm.step.plan import StepPlan
from hygen_vllm.step.terms import StepForecast
from hygen_vllm.targets.controller import BudgetController, CompletedStep
from hygen_vllm.targets.online_alone import EngineLimits
from hygen_vllm.targets.reference import find_reference

logger = engine_logger()

LONGEST_INTAKE_S = 60.0
"""A request that waited longer for the engine to look at it has a wrong time of arrival."""


class SloControl:
    """Between one engine and its BudgetController.

    Requests of streaming-input sessions are not measured: the time between their turns is the
    user's. Pooling requests have no tokens.

    Args: wall_clock: the clock of `Request.arrival_time`.
    """

    def __init__(
        self,
        config: HyGenConfig,
        limits: EngineLimits,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._clock, self._wall_clock = clock, wall_clock
        reference = find_reference(config)
        slos = [Slo.parse(text) for text in config.targets]
        if reference is not None:
            slos = [reference.resolved(slo) for slo in slos]
        self.controller = BudgetController(
            slos, limits, config.slo_window_s, config.idle_step_s, logger.warning
        )
        self._last_intake_s = clock()
        self.alone_source = None if reference is None else reference.source
        """Where online alone is known from; None: it is estimated."""

    def added(self, request: Request) -> None:
        """Note a new online request."""
        if request.resumable or request.pooling_params is not None:
            return
        now_s = self._clock()
        waited_s = self._wall_clock() - request.arrival_time
        if not 0 <= waited_s <= min(LONGEST_INTAKE_S, now_s - self._last_intake_s):
            waited_s = 0.0
        self.controller.arrived(request.request_id, now_s - waited_s, request.num_tokens)

    def scheduled(self, output: SchedulerOutput, now_s: float) -> None:
        """Note a step that was made."""
        self._last_intake_s = now_s
        for new in output.scheduled_new_reqs:
            self.controller.online.started(new.req_id, new.num_computed_tokens)

    @staticmethod
    def record(
        plan: StepPlan | None, composition: StepComposition | None, cost: StepCost | None
    ) -> StepRecord:
        """Return what is to be known of a step when it is done.

        Args: plan: None where no offline request was in the engine.
        """
        forecast, has_prefill = None, False
        if plan is not None and plan.is_closed and plan.cost is not None:
            forecast = StepForecast(plan.alone_s, plan.seconds)
            has_prefill = plan.online.num_prefills > 0
        elif plan is None and composition is not None and cost is not None:
            seconds = cost.seconds(composition)
            forecast = StepForecast(seconds, seconds)
            has_prefill = composition.num_prefills > 0
        return StepRecord(composition, forecast, has_prefill)

    def completed(
        self,
        outputs: Mapping[int, EngineCoreOutputs],
        sample: StepSample | None,
        cost: StepCost | None,
        now_s: float,
    ) -> None:
        """Note a step that is done."""
        tokens = (
            (output.request_id, len(output.new_token_ids))
            for of_client in outputs.values()
            for output in of_client.outputs
        )
        seconds = 0.0 if sample is None else sample.seconds
        record = StepRecord() if sample is None else sample.record
        is_steady = sample is not None and sample.is_steady
        step = CompletedStep(tokens, seconds, record.forecast, record.has_prefill, is_steady)
        self.controller.completed(step, cost, now_s)

    def shorten_online(
        self, plan: StepPlan, online: Sequence[Request], arriving_tokens: int
    ) -> None:
        """Leave online prefill what keeps the tokens of online decodes within their target.

        Args:
            online: running online requests.
            arriving_tokens: prefill tokens that waiting ones would get.
        """
        cap_s = self.controller.online_cap_s
        if plan.cost is None or cap_s == math.inf:
            return
        step, computed, running_tokens = StepComposition(), 0, 0
        for request in online:
            if request.is_prefill_chunk:
                computed = max(computed, request.num_computed_tokens)
                running_tokens += request.num_tokens - request.num_computed_tokens
            else:
                step.add_decode(1, request.num_computed_tokens)
        if not step.decode_tokens:
            return
        spare_s = cap_s - plan.cost.seconds(step)
        tokens = plan.cost.largest_chunk(
            step.decode_tokens, computed, plan.max_tokens, spare_s, is_first=True
        )
        wanted = min(plan.max_tokens, running_tokens + arriving_tokens)
        if 2 * tokens >= wanted:  # else first tokens would pay too much for the others
            plan.online_prefill_left = tokens
            plan.arrival_prefill_left = max(0, tokens - running_tokens)
