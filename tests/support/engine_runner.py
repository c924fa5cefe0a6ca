# SPDX-License-Identifier: Apache-2.0
"""Serves prompts on one real engine in a process of its own, as `LLM(...)` users do.

`python -m tests.support.engine_runner JOB RESULT` reads a Job and writes a Result, both JSON.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.support.recording_scheduler import RECORD_ENV

TOGETHER, STAGGERED, ABORTED = "together", "staggered", "aborted"
EMPTY_LIMIT_S = 30.0
LOADED_BYTES = "vllm:kv_offload_load_bytes"


@dataclass(frozen=True)
class Prompt:
    """A request; without a class it is labelled by its priority alone."""

    text: str
    max_tokens: int
    slo_class: str | None = None
    priority: int = 0

    @property
    def is_offline(self) -> bool:
        return self.slo_class == "offline" or (self.slo_class is None and self.priority > 0)


@dataclass(frozen=True)
class Run:
    """One pass over the prompts.

    Args:
        how: TOGETHER: `LLM.generate` with all of them. STAGGERED: the online ones come once
            offline ones run. ABORTED: the same, and every third request is aborted.
        scheduler: arguments of `LLM` that say which scheduler an engine in this process gets for
            the run; None: it keeps the one it has.
        record: the file that a RecordingScheduler writes.
    """

    how: str
    scheduler: dict[str, Any] | None = None
    record: str = os.devnull


@dataclass(frozen=True)
class Job:
    """What one engine does.

    Args:
        engine: arguments of `LLM`.
        prompts: requests, the same in every run.
        runs: by name.
        force_async: asynchronous scheduling, which vLLM's CPU platform switches off.
    """

    engine: dict[str, Any]
    prompts: list[Prompt]
    runs: dict[str, Run]
    force_async: bool = False

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Job":
        values = json.loads(path.read_text(encoding="utf-8"))
        values["prompts"] = [Prompt(**each) for each in values["prompts"]]
        values["runs"] = {name: Run(**each) for name, each in values["runs"].items()}
        return cls(**values)


@dataclass(frozen=True)
class Output:
    """Tokens of one request; no finish reason if it was aborted."""

    tokens: list[int]
    finish_reason: str | None


@dataclass(frozen=True)
class Served:
    """Outputs of all prompts in a run, and vLLM's own counts.

    Args: loaded_bytes: KV that came back from an offload tier.
    """

    outputs: list[Output]
    num_preemptions: int
    loaded_bytes: int

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Served":
        outputs = [Output(**each) for each in values["outputs"]]
        return cls(**{**values, "outputs": outputs})


class Runner:
    """An engine and what came out of it."""

    def __init__(self, job: Job) -> None:
        from vllm import LLM

        if job.force_async:
            _force_async_scheduling()
        self._job = job
        self._llm = LLM(**job.engine, disable_log_stats=False)

    def run(self) -> dict[str, Served]:
        """Do the job's runs in turn, each with an empty prefix cache; return what came out."""
        return {name: self._serve(run) for name, run in self._job.runs.items()}

    def _serve(self, run: Run) -> Served:
        if run.scheduler is not None:
            self._use_scheduler(run)
        before = self._counts()
        if run.how == TOGETHER:
            outputs = self._generate()
        else:
            outputs = Feeder(self._llm, self._job, run.how == ABORTED).feed()
        self._empty_cache()
        counts = [now - then for now, then in zip(self._counts(), before, strict=True)]
        return Served(outputs, *counts)

    def _use_scheduler(self, run: Run) -> None:
        from hygen_vllm.lab.tune.engine_server import renew_scheduler

        os.environ[RECORD_ENV] = run.record
        core = self._llm.llm_engine.engine_core.engine_core
        config = core.vllm_config
        config.additional_config = run.scheduler.get("additional_config", {})
        config.scheduler_config.scheduler_cls = run.scheduler.get("scheduler_cls")
        config.scheduler_config.max_num_batched_tokens = run.scheduler["max_num_batched_tokens"]
        renew_scheduler(core)

    def _counts(self) -> tuple[int, int]:
        """Return the preemptions and the loaded bytes so far."""
        metrics = {metric.name: metric for metric in self._llm.get_metrics()}
        loaded = metrics.get(LOADED_BYTES)
        return int(metrics["vllm:num_preemptions"].value), int(loaded.value if loaded else 0)

    def _generate(self) -> list[Output]:
        prompts = self._job.prompts
        outputs = self._llm.generate(
            [prompt.text for prompt in prompts],
            [_sampling_params(prompt) for prompt in prompts],
            priority=[prompt.priority for prompt in prompts],
            use_tqdm=False,
        )
        return [_output(each) for each in outputs]

    def _empty_cache(self) -> None:
        """Drop the prefix cache, which vLLM does only once no request holds a KV block."""
        deadline_s = time.monotonic() + EMPTY_LIMIT_S
        while not self._llm.reset_prefix_cache():
            assert time.monotonic() < deadline_s, "finished requests still hold KV blocks"
            time.sleep(0.1)


class Feeder:
    """Adds the offline prompts, the online ones once three of those have tokens; runs to the end.

    With aborts, every third request goes: some when the online ones come, others after 5 tokens.
    """

    def __init__(self, llm: Any, job: Job, with_aborts: bool) -> None:
        self._engine = llm.llm_engine
        self._prompts = dict(enumerate(job.prompts))
        self._to_abort = [i for i in self._prompts if i % 3 == 1] if with_aborts else []
        self._outputs = {str(i): Output([], None) for i in self._prompts}

    def feed(self) -> list[Output]:
        self._add(lambda prompt: prompt.is_offline)
        while self._engine.has_unfinished_requests() and self._num_with_tokens(2) < 3:
            self._step()
        self._add(lambda prompt: not prompt.is_offline)
        self._abort(self._to_abort[::2])
        late = self._to_abort[1::2]
        while self._engine.has_unfinished_requests():
            self._step()
            self._abort([i for i in late if len(self._outputs[str(i)].tokens) >= 5])
        return list(self._outputs.values())

    def _num_with_tokens(self, least: int) -> int:
        return sum(len(output.tokens) >= least for output in self._outputs.values())

    def _add(self, is_due: Callable[[Prompt], bool]) -> None:
        for i, prompt in self._prompts.items():
            if is_due(prompt):
                params = _sampling_params(prompt)
                self._engine.add_request(str(i), prompt.text, params, priority=prompt.priority)

    def _abort(self, numbers: list[int]) -> None:
        self._engine.abort_request([str(i) for i in numbers])

    def _step(self) -> None:
        for output in self._engine.step():
            self._outputs[output.request_id] = _output(output)


def _sampling_params(prompt: Prompt) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        temperature=0.0,
        max_tokens=prompt.max_tokens,
        extra_args={"slo_class": prompt.slo_class} if prompt.slo_class else None,
    )


def _output(request_output: Any) -> Output:
    completion = request_output.outputs[0]
    return Output(list(completion.token_ids), completion.finish_reason)


def _force_async_scheduling() -> None:
    """Set async_scheduling after the CPU platform has unset it; the engine process gets it too."""
    from vllm.platforms.cpu import CpuPlatform

    original = CpuPlatform.check_and_update_config.__func__

    def check_and_update_config(cls: type, config: Any) -> None:
        original(cls, config)
        config.scheduler_config.async_scheduling = True

    CpuPlatform.check_and_update_config = classmethod(check_and_update_config)


def main() -> None:
    job_path, result_path = map(Path, sys.argv[1:])
    result = Runner(Job.load(job_path)).run()
    served = {name: asdict(each) for name, each in result.items()}
    result_path.write_text(json.dumps(served), encoding="utf-8")
    # An orderly shutdown may take vLLM ten seconds; the caller ends our whole process group.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
