# SPDX-License-Identifier: Apache-2.0
"""Measures the steps of an engine: costs, targets and the trace learn from what they took."""

from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.engine import EngineCoreOutputs

from hygen_vllm.cost.learner import CostLearner
from hygen_vllm.cost.trace import TracedStep, TraceWriter
from hygen_vllm.engine.slo_control import SloControl
from hygen_vllm.engine.state import EngineState
from hygen_vllm.step.feedback import MeasuredStep, StepFeedback
from hygen_vllm.step.plan import StepPlan

MEASURE_EVERY = 4
"""Once the device is known, what is in a step is noted for one step in so many."""


@dataclass
class StepMeter:
    """The steps of one engine.

    Args:
        trace: where every step is recorded, None for nowhere; anything with record(TracedStep).
        num_stages: of the pipeline, each with a part of the layers.
    """

    state: EngineState
    slo_control: SloControl | None
    trace: Any
    num_stages: InitVar[int]
    _num_traced: int = 0

    def __post_init__(self, num_stages: int) -> None:
        self._feedback = StepFeedback(num_stages)

    @property
    def step_s(self) -> float:
        """Seconds of the last step that completed, 0 if none has."""
        return self._feedback.step_s

    def close(self) -> None:
        """End the trace."""
        if isinstance(self.trace, TraceWriter):
            self.trace.close()

    def scheduled(
        self,
        output: SchedulerOutput,
        plan: StepPlan | None,
        learner: CostLearner,
        *,
        is_priced: bool,
        started_s: float,
    ) -> None:
        """Note a step that vLLM made.

        Args:
            plan: None where no offline request was in the engine.
            is_priced: what a step takes decides something.
            started_s: when vLLM began to make it.
        """
        step = MeasuredStep(len(output.num_scheduled_tokens), output.total_num_scheduled_tokens)
        is_wanted = self.trace is not None or (
            is_priced and (learner.is_new or self.state.step_number % MEASURE_EVERY == 0)
        )
        if is_wanted and step.num_tokens:
            step.composition = self.state.composition(output)
        if self.slo_control is not None:
            self.slo_control.foresee(step, plan, learner.cost, started_s)
        self._feedback.scheduled(output, started_s, step)

    def completed(
        self,
        output: SchedulerOutput,
        outputs: Mapping[int, EngineCoreOutputs],
        learner: CostLearner,
        *,
        is_busy: bool,
        now_s: float,
    ) -> None:
        """Learn from a step that is done.

        Args:
            outputs: of its requests.
            is_busy: requests remain in the engine.
        """
        step = self._feedback.completed(output, now_s, is_busy)
        if step is not None and step.composition is not None:
            self._learn(step, learner, now_s)
        if self.slo_control is not None:
            self.slo_control.completed(outputs, step, learner.cost, now_s)

    def _learn(self, step: MeasuredStep, learner: CostLearner, now_s: float) -> None:
        assert step.composition is not None
        if self.trace is not None:
            self._num_traced += 1
            predicted_s = learner.predict(step.composition)
            values = step.composition, predicted_s, step.seconds, step.is_steady
            self.trace.record(TracedStep(self._num_traced, now_s, *values))
        if step.is_steady:
            learner.observe(step.composition, step.seconds)
