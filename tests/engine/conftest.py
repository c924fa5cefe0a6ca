# SPDX-License-Identifier: Apache-2.0
"""Real engines for the tests in this folder, each in processes that end with it."""

import functools
import json
import random
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from hygen_vllm.lab.small_model import prepare_small_model
from hygen_vllm.lab.workloads.prompts import load_questions
from tests.support.engine_runner import (
    ABORTED,
    STAGGERED,
    TOGETHER,
    Job,
    Prompt,
    Run,
    Served,
)
from tests.support.kv_transfer import offloading
from tests.support.processes import ENGINE_ENVIRONMENT, log_tail, run_process
from tests.support.recording_scheduler import RECORD_ENV, RECORDING_SCHEDULER, read_records

ENGINE_LIMIT_S = 900.0
LABELS = (
    {"slo_class": "offline"},
    {"slo_class": "online"},
    {"priority": 1},
    {},
)

# 19 usable KV blocks of 32 tokens hold less than half of the requests at once.
ENGINE_SETTINGS: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 512,
    "max_num_seqs": 8,
    "block_size": 32,
    "num_gpu_blocks_override": 20,
}
STEP_TOKENS, LONGER_STEP_TOKENS = 64, 256
"""Steps of 64 tokens cut most prompts into chunks."""
HYGEN = "hygen_vllm.HyGenScheduler"


def scheduler(scheduler_cls: str | None, step_tokens: int = STEP_TOKENS, **hygen: Any) -> Any:
    """Return the arguments of `LLM` that choose a scheduler; `hygen` are its settings."""
    return {
        "scheduler_cls": scheduler_cls,
        "max_num_batched_tokens": step_tokens,
        "additional_config": {"hygen": hygen} if scheduler_cls else {},
    }


# Without a gate (mode `off`) offline work fills the KV blocks before online requests come, so that
# preemptions do not depend on the speed of the machine.
EXCHANGED = {
    "stock": Run(TOGETHER, scheduler(None)),
    "stock, longer steps": Run(TOGETHER, scheduler(None, LONGER_STEP_TOKENS)),
    "hygen, together": Run(TOGETHER, scheduler(HYGEN, mode="off")),
    "hygen": Run(STAGGERED, scheduler(HYGEN, mode="off")),
    "no time to spare": Run(STAGGERED, scheduler(RECORDING_SCHEDULER, latency_budget_s=1e-6)),
    "targets": Run(STAGGERED, scheduler(HYGEN, slos=["tbt_p99=+20%", "ttft_mean=+20%"])),
}
"""Runs of one engine, which gets a new scheduler for each."""
ENGINES: dict[str, Job] = {
    "exchanged": Job({"max_num_batched_tokens": LONGER_STEP_TOKENS}, [], EXCHANGED),
    "asynchronous": Job(
        scheduler(RECORDING_SCHEDULER, mode="off"),
        [],
        {"asynchronous": Run(STAGGERED), "asynchronous, aborts": Run(ABORTED)},
        force_async=True,
    ),
    "offloading": Job(
        {
            **scheduler(HYGEN, mode="off"),
            "kv_transfer_config": offloading(
                1 << 28,
                spec_name="SynchronousSpec",
                spec_module_path="tests.support.cpu_offloading",
            ),
        },
        [],
        {"offloading": Run(STAGGERED)},
    ),
}
"""Engines that serve the same prompts; the asynchronous one in its own process, as vLLM has it."""
ENGINE_OF = {run: name for name, job in ENGINES.items() for run in job.runs}


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
    questions = load_questions(None, seed=0)
    rng = random.Random(0)
    prompts = []
    for i in range(12):
        several = rng.choices(questions, k=1 + i % 3)
        text = "".join(f"Question: {each.question}\n" for each in several)
        labels = LABELS[(i + i // 4) % 4]
        prompts.append(Prompt(f"{text}Question:", max_tokens=12 + 4 * (i % 4), **labels))
    return prompts


@pytest.fixture(scope="session")
def engine_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which an engine `NAME` leaves `NAME.log` and what it recorded."""
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="session")
def serve(model: Path, prompts: list[Prompt], engine_folder: Path) -> Callable[[str], Served]:
    """Return a function that returns a run by its name; all engines start when one is needed."""

    @functools.cache
    def starting() -> dict[str, Future[dict[str, Served]]]:
        futures = {}
        for name in ENGINES:
            futures[name] = Future[dict[str, Served]]()
            arguments = futures[name], name, model, prompts, engine_folder
            Thread(target=_serve_into, args=arguments, daemon=True).start()
        return futures

    return lambda name: starting()[ENGINE_OF[name]].result()[name]


def _serve_into(future: Future[dict[str, Served]], name: str, *arguments: Any) -> None:
    try:
        future.set_result(_serve(name, *arguments))
    except BaseException as error:  # noqa: BLE001 - the test gets it
        future.set_exception(error)


@pytest.fixture(scope="session")
def records(engine_folder: Path) -> Callable[[str, str], list[dict[str, Any]]]:
    """Return a function of a run's name and an event: what its scheduler recorded."""
    return lambda name, event: read_records(_record(engine_folder, name), event)


def _record(folder: Path, name: str) -> Path:
    return folder / f"{name}.jsonl"


def _serve(name: str, model: Path, prompts: list[Prompt], folder: Path) -> dict[str, Served]:
    job = ENGINES[name]
    runs = {each: replace(run, record=str(_record(folder, each))) for each, run in job.runs.items()}
    engine = {**ENGINE_SETTINGS, **job.engine, "model": str(model)}
    paths = [folder / f"{name}.json", folder / f"{name}-result.json"]
    replace(job, engine=engine, prompts=prompts, runs=runs).save(paths[0])
    log = folder / f"{name}.log"
    status = run_process(
        [sys.executable, "-m", "tests.support.engine_runner", *map(str, paths)],
        log,
        {
            **ENGINE_ENVIRONMENT,
            RECORD_ENV: str(_record(folder, name)),
            "VLLM_ENABLE_V1_MULTIPROCESSING": str(int(name == "asynchronous")),
        },
        ENGINE_LIMIT_S,
    )
    assert status == 0, f"{name}:\n{log_tail(log)}"
    results = json.loads(paths[1].read_text(encoding="utf-8"))
    return {each: Served.from_dict(values) for each, values in results.items()}
