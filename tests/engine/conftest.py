# SPDX-License-Identifier: Apache-2.0
"""Real engines for the tests in this folder: one at a time, each in processes that end with it."""

import functools
import json
import random
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hygen_vllm.small_model import prepare_small_model
from hygen_vllm.workloads import data_dir
from hygen_vllm.workloads.prompts import load_questions
from tests.support.engine_runner import ABORTED, STAGGERED, TOGETHER, Job, Output, Prompt
from tests.support.kv_transfer import offloading
from tests.support.processes import ENGINE_ENVIRONMENT, log_tail, run_process
from tests.support.recording_scheduler import RECORD_ENV, RECORDING_SCHEDULER

ENGINE_LIMIT_S = 400.0
LABELS = (
    {"slo_class": "offline"},
    {"slo_class": "online"},
    {"priority": 1},
    {},
)

# Steps of 64 tokens cut most prompts into chunks; 19 usable KV blocks of 32 tokens hold less than
# half of the requests at once.
ENGINE_SETTINGS: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 512,
    "max_num_seqs": 8,
    "max_num_batched_tokens": 64,
    "block_size": 32,
    "num_gpu_blocks_override": 20,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "stock": {"runs": [TOGETHER]},
    "stock, longer steps": {"runs": [TOGETHER], "engine": {"max_num_batched_tokens": 256}},
    "hygen": {
        "runs": [TOGETHER, STAGGERED],
        "engine": {
            "scheduler_cls": "hygen_vllm.HyGenScheduler",
            "additional_config": {"hygen": {"mode": "off"}},
        },
    },
    "hygen, no time to spare": {
        "runs": [STAGGERED],
        "engine": {
            "scheduler_cls": RECORDING_SCHEDULER,
            "additional_config": {"hygen": {"latency_budget_s": 1e-6}},
        },
    },
    "hygen, targets": {
        "runs": [STAGGERED],
        "engine": {
            "scheduler_cls": "hygen_vllm.HyGenScheduler",
            "additional_config": {"hygen": {"slos": ["tbt_p99=+20%", "ttft_mean=+20%"]}},
        },
    },
    "hygen, asynchronous": {
        "runs": [STAGGERED, ABORTED],
        "force_async": True,
        "engine": {
            "scheduler_cls": RECORDING_SCHEDULER,
            "additional_config": {"hygen": {"mode": "off"}},
        },
    },
    "hygen, offloading": {
        "runs": [STAGGERED],
        "engine": {
            "scheduler_cls": "hygen_vllm.HyGenScheduler",
            "additional_config": {"hygen": {"mode": "off"}},
            "kv_transfer_config": offloading(
                1 << 28,
                spec_name="SynchronousSpec",
                spec_module_path="tests.support.cpu_offloading",
            ),
        },
    },
}
"""Engines that serve the same prompts. Without a gate (mode `off`) offline work fills the KV blocks
before online requests come, so that preemptions do not depend on the speed of the machine."""


@dataclass(frozen=True)
class Served:
    """What an engine made of the prompts."""

    prompts: list[Prompt]
    outputs: dict[str, list[Output]]
    num_preemptions: int
    loaded_bytes: int
    record: Path


@pytest.fixture(scope="session", autouse=True)
def _end_children_when_terminated() -> Iterator[None]:
    """Let fixtures end their processes when pytest itself is told to go."""
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.exit("terminated", returncode=143))
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def model() -> Path:
    return prepare_small_model()


@pytest.fixture(scope="session")
def prompts() -> list[Prompt]:
    """Twelve real prompts of about 30 to 250 tokens: one to three questions; the model goes on."""
    questions = load_questions(data_dir(), seed=0)
    rng = random.Random(0)
    prompts = []
    for i in range(12):
        several = rng.choices(questions, k=1 + i % 3)
        text = "".join(f"Question: {each.question}\n" for each in several)
        labels = LABELS[(i + i // 4) % 4]
        prompts.append(Prompt(f"{text}Question:", max_tokens=12 + 4 * (i % 4), **labels))
    return prompts


@pytest.fixture(scope="session")
def serve(
    model: Path, prompts: list[Prompt], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Served]:
    """Return a function that serves the prompts on one of VARIANTS, once in a session."""

    @functools.cache
    def serve_once(name: str) -> Served:
        folder = tmp_path_factory.mktemp("engine")
        return _serve(name, model, prompts, folder)

    return serve_once


def _serve(name: str, model: Path, prompts: list[Prompt], folder: Path) -> Served:
    variant = VARIANTS[name]
    engine = {**ENGINE_SETTINGS, **variant.get("engine", {}), "model": str(model)}
    job = Job(engine, prompts, variant["runs"], variant.get("force_async", False))
    paths = [folder / "job.json", folder / "result.json"]
    job.save(paths[0])
    log, record = folder / "log", folder / "record.jsonl"
    status = run_process(
        [sys.executable, "-m", "tests.support.engine_runner", *map(str, paths)],
        log,
        {**ENGINE_ENVIRONMENT, RECORD_ENV: str(record)},
        ENGINE_LIMIT_S,
    )
    assert status == 0, f"{name}:\n{log_tail(log)}"
    result = json.loads(paths[1].read_text(encoding="utf-8"))
    outputs = {run: [Output(**each) for each in found] for run, found in result["outputs"].items()}
    return Served(prompts, outputs, result["num_preemptions"], result["loaded_bytes"], record)
