# SPDX-License-Identifier: Apache-2.0
"""Makes a real vLLM engine run exactly the steps of a batch shape, and times them.

The engine core is driven in this process, with HyGenScheduler as its scheduler. A request that is
to have C computed tokens gets the KV blocks for them without computing anything: time depends on
how many tokens there are, not on which. vLLM knows such requests, they are those whose KV cache
came from elsewhere (0.32.0, v1/core/sched/scheduler.py:915, :1082).
"""

import itertools
from dataclasses import dataclass
from typing import Any

from vllm.engine.arg_utils import EngineArgs
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.core import EngineCore
from vllm.v1.executor import Executor
from vllm.v1.request import Request, RequestStatus

from hygen_vllm.cost.trace import TracedStep
from hygen_vllm.engine.identity import engine_info
from hygen_vllm.lab.profile.batch_shapes import NUM_STEPS, BatchShape

ENGINE_SETTINGS: dict[str, Any] = {
    "scheduler_cls": "hygen_vllm.HyGenScheduler",
    "worker_extension_cls": "hygen_vllm.lab.profile.kv_fill.FillKVCache",
    "enable_prefix_caching": False,
    "disable_log_stats": True,
}
"""What the profiler needs. Prefix caching changes no step time; a hit is a shorter chunk."""


class StepRecorder:
    """Stands in for a trace file: keeps the steps of the visit under way."""

    def __init__(self) -> None:
        self.steps: list[TracedStep] = []

    def record(self, step: TracedStep) -> None:
        self.steps.append(step)


@dataclass(frozen=True)
class _Asked:
    """A request in the making; `computed` tokens count as done."""

    request: Request
    computed: int


class ShapeRunner:
    """An engine that runs batch shapes. Close it to end its workers.

    Args: engine_args: as the engine is served with; the profiler's own settings replace some.
    Raises: ValueError for an engine whose steps cannot be planned.
    """

    def __init__(self, engine_args: EngineArgs) -> None:
        if engine_args.speculative_config is not None:
            raise ValueError(
                "speculative decoding decides itself how many tokens a step has; profile without "
                "--speculative-config, the scheduler learns the difference while serving"
            )
        for name, value in ENGINE_SETTINGS.items():
            setattr(engine_args, name, value)
        settings = {"hygen": {"mode": "off"}}
        engine_args.additional_config = {**(engine_args.additional_config or {}), **settings}
        config = engine_args.create_engine_config()
        self._core = EngineCore(config, Executor.get_class(config), log_stats=False)
        self._scheduler: Any = self._core.scheduler
        self._recorder = StepRecorder()
        self._scheduler.hygen.meter.trace = self._recorder
        self._numbers = itertools.count()
        self._depth = self._core.batch_queue_size
        """Steps in flight; so many at the start of a visit are not kept, as requests join then, and
        one less at its end, for a step may take as long as the launch of the one behind it."""
        self.engine = engine_info(config)
        self._core.collective_rpc("fill_kv_cache")

    def run(self, shape: BatchShape) -> list[TracedStep]:
        """Run a shape for some steps in a row and return those of NUM_STEPS that were measured.

        Raises: RuntimeError if the engine did not run what was asked.
        """
        num_steps = NUM_STEPS + 2 * self._depth - 1
        decodes = [self._ask(1, context, num_steps + self._depth) for context in shape.contexts]
        rounds = [[self._ask(new, c, 1) for new, c in shape.chunks] for _ in range(num_steps)]
        self._recorder.steps.clear()
        for asked in decodes:
            self._start(asked)
        for chunks in rounds:
            for asked in chunks:
                self._start(asked)
            self._core.step_fn()
        self._drain([asked.request.request_id for asked in decodes])
        return self._measured(shape)

    def close(self) -> None:
        """End the engine and its workers."""
        self._core.shutdown()

    def _ask(self, new_tokens: int, computed: int, max_tokens: int) -> _Asked:
        length = computed + new_tokens
        request = Request(
            request_id=f"profile-{next(self._numbers)}",
            prompt_token_ids=[(17 * i) % 1000 + 10 for i in range(length)],
            sampling_params=SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True),
            pooling_params=None,
        )
        return _Asked(request, computed)

    def _start(self, asked: _Asked) -> None:
        request = asked.request
        if asked.computed:
            blocks = self._scheduler.kv_cache_manager.allocate_slots(
                request, asked.computed, delay_cache_blocks=True
            )
            if blocks is None:
                raise RuntimeError(f"no KV blocks for {asked.computed} tokens")
            request.num_computed_tokens = asked.computed
        self._scheduler.add_request(request)

    def _drain(self, request_ids: list[str]) -> None:
        """End all requests and complete the steps in flight."""
        self._scheduler.finish_requests(request_ids, RequestStatus.FINISHED_ABORTED)
        while self._scheduler.has_requests() or self._core.batch_queue:
            self._core.step_fn()

    def _measured(self, shape: BatchShape) -> list[TracedStep]:
        """Return the steps after the warm-up that hold exactly the shape."""
        decodes, chunks = len(shape.contexts), len(shape.chunks)
        steps = [
            step
            for step in self._recorder.steps
            if step.composition.decode_tokens == decodes
            and step.composition.num_prefills == chunks
            and step.composition.total_tokens == shape.total_tokens
        ][self._depth : self._depth + NUM_STEPS]
        if len(steps) < NUM_STEPS:
            seen = [step.composition for step in self._recorder.steps]
            raise RuntimeError(f"the engine did not run {shape}, but {seen[:3]}")
        return steps
