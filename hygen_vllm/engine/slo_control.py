# SPDX-License-Identifier: Apache-2.0
"""Mode `slo` in vLLM's scheduler: tells the TargetController what happens to online requests."""

import math
from collections.abc import Callable, Mapping, Sequence

from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.request import Request

from hygen_vllm.config import HyGenConfig
from hygen_vllm.cost.composition import StepComposition
from hygen_vllm.cost.step_cost import StepCost
from hygen_vllm.engine.requests import Follower
from hygen_vllm.operate.log import engine_logger
from hygen_vllm.slo import Slo
from hygen_vllm.step.feedback import MeasuredStep
from hygen_vllm.step.online_share import OnlineShare
from hygen_vllm.step.plan import StepPlan
from hygen_vllm.step.terms import StepForecast
from hygen_vllm.targets.controller import TargetController
from hygen_vllm.targets.online_alone import EngineLimits
from hygen_vllm.targets.reference import find_reference

logger = engine_logger()

LONGEST_INTAKE_S = 60.0
"""A request that waited longer for the engine to look at it has a wrong time of arrival."""


class SloControl(Follower):
    """Between one engine and its TargetController.

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
        self.controller = TargetController(
            slos, limits, config.slo_window_s, config.idle_step_s, logger.warning
        )
        self._last_intake_s = clock()
        self.alone_source = None if reference is None else reference.source
        """Where online alone is known from; None: it is estimated."""

    def came(self, request: Request, is_offline: bool) -> None:
        if is_offline or request.resumable or request.pooling_params is not None:
            return
        now_s = self._clock()
        waited_s = self._wall_clock() - request.arrival_time
        if not 0 <= waited_s <= min(LONGEST_INTAKE_S, now_s - self._last_intake_s):
            waited_s = 0.0
        self.controller.came(request.request_id, now_s - waited_s, request.num_tokens)

    def started(self, request: Request, is_offline: bool, computed_tokens: int) -> None:
        if not is_offline and not request.num_preemptions:
            self.controller.online.started(request.request_id, computed_tokens)

    def left(self, request: Request, is_offline: bool) -> None:
        if not is_offline:
            self.controller.online.left(request.request_id)

    def foresee(
        self, step: MeasuredStep, plan: StepPlan | None, cost: StepCost | None, now_s: float
    ) -> None:
        """Attach to a step that was made what is expected of it.

        Args: plan: None where no offline request was in the engine.
        """
        self._last_intake_s = now_s
        if plan is not None and plan.budget is not None and plan.budget.cost is not None:
            step.forecast = StepForecast(plan.budget.alone_s, plan.budget.seconds)
            step.has_online_prefill = plan.share.step.has_prefill
        elif plan is None and step.composition is not None and cost is not None:
            seconds = cost.seconds(step.composition)
            step.forecast = StepForecast(seconds, seconds)
            step.has_online_prefill = step.composition.has_prefill

    def completed(
        self,
        outputs: Mapping[int, EngineCoreOutputs],
        step: MeasuredStep | None,
        cost: StepCost | None,
        now_s: float,
    ) -> None:
        """Note a step that is done, None for one that nobody knows."""
        new_tokens = (
            (output.request_id, len(output.new_token_ids))
            for of_client in outputs.values()
            for output in of_client.outputs
        )
        self.controller.completed(step or MeasuredStep(), new_tokens, cost, now_s)

    def shorten_online(
        self, share: OnlineShare, online: Sequence[Request], arriving_tokens: int
    ) -> None:
        """Leave online prefill what keeps the tokens of online decodes within their target.

        Args:
            online: running online requests.
            arriving_tokens: prefill tokens that waiting ones would get.
        """
        cap_s = self.controller.online_cap_s
        if share.cost is None or cap_s == math.inf:
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
        spare_s = cap_s - share.cost.seconds(step)
        tokens = share.cost.largest_chunk(step, computed, share.max_tokens, spare_s)
        wanted = min(share.max_tokens, running_tokens + arriving_tokens)
        if 2 * tokens >= wanted:  # else first tokens would pay too much for the others
            share.prefill_left = tokens
            share.arrival_prefill_left = max(0, tokens - running_tokens)
