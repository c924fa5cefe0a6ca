# SPDX-License-Identifier: Apache-2.0
"""Runs offline requests through Ray Data's processor against a live application.

The processor calls the application's OfflinePool, which labels them offline and hands them to the
replicas as these have room; what the job has under way waits there. A failure of Ray costs what was
under way: the job waits, longer each time that nothing was gained, and runs what is left.
"""

import json
import logging
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial

import ray
from ray import serve
from ray.data import DataContext, Dataset
from ray.data.llm import ServeDeploymentProcessorConfig, build_processor

from hygen_vllm.batch.batch_file import error_code
from hygen_vllm.json_types import Json
from hygen_vllm.openai_request import GIVEN_UP, OpenAiRequest
from hygen_vllm.ray_serving.offline_pool import JOB_ENDED, NAME

logger = logging.getLogger(__name__)

TASKS = 2
"""Processes that prepare requests, and as many that take their results, whatever their number."""
ROWS_PER_CALL = 8
"""Results come back in groups of so many, when the last one is done."""
WINDOW = 50_000
"""Rows that the job holds in Ray's memory at a time."""
SERVER_ERROR = 500
MOST_TRIES = 3
"""Of a request that fails for no fault of its own."""
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
CONNECT_LIMIT_S = STATUS_LIMIT_S = 5.0
BEAT_EVERY_S = 2.0
"""How often a process that waits for results says so."""
MOST_FUTILE = 8
"""Passes in a row without a result, after which the job is given up."""

CALL = ("method", "request_kwargs")
"""Columns by which Ray's processor calls a deployment."""

Wanted = tuple[str, OpenAiRequest]
"""custom_id and request."""
Result = tuple[str, Json]


@dataclass
class _Progress:
    """What is left of a job.

    Args: tries: how often a request has failed for no fault of its own.
    """

    left: dict[str, OpenAiRequest]
    tries: dict[str, int] = field(default_factory=dict)

    def is_final(self, custom_id: str, result: Json) -> bool:
        """Whether a result counts; note that it came."""
        if custom_id not in self.left:
            return False
        error = result.get("error") or {}
        code = error_code(error)
        if code == JOB_ENDED:  # it has not
            return False
        if code >= SERVER_ERROR and error.get("type") != GIVEN_UP:
            self.tries[custom_id] = self.tries.get(custom_id, 0) + 1
            if self.tries[custom_id] < MOST_TRIES:
                return False
        del self.left[custom_id]
        return True


def run_rows(
    rows: Sequence[Wanted],
    app_name: str,
    concurrency: int,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Result]:
    """Yield one result of each request, as they come.

    Args: concurrency: requests that are under way at a time, in replicas or waiting for one.
    Raises: RuntimeError if there is no such application, or it fails again and again.
    """
    check_application(app_name)
    for start in range(0, len(rows), WINDOW):
        yield from _run_window(dict(rows[start : start + WINDOW]), app_name, concurrency, sleep)


def connect(address: str) -> None:
    """Connect this process to a Ray cluster. Raises RuntimeError, one line, if there is none."""
    if ray.is_initialized():
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdigit():  # Ray itself tries for a minute, then ends this process
            socket.create_connection((host, int(port)), CONNECT_LIMIT_S).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except OSError as error:
        raise RuntimeError(f"no Ray cluster at {address!r}: {error}") from None
    DataContext.get_current().enable_progress_bars = False  # the command has one
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it warns of workers that are small
    logging.getLogger("httpx").setLevel(logging.WARNING)


def check_application(app_name: str) -> None:
    """Raise RuntimeError, one line, if there is no such application with an OfflinePool."""
    application = serve.status().applications.get(app_name)
    if application is None or NAME not in application.deployments:
        raise RuntimeError(f"no application {app_name!r} of hygen_vllm.ray_serving is running")


def pool_status(app_name: str) -> Json | None:
    """Return what OfflinePool.status does; None if it does not answer, as while it restarts."""
    try:
        handle = serve.get_deployment_handle(NAME, app_name)
        status: Json = handle.status.remote().result(timeout_s=STATUS_LIMIT_S)
    except (ray.exceptions.RayError, serve.exceptions.RayServeException, TimeoutError):
        return None
    return status


def _run_window(
    rows: dict[str, OpenAiRequest],
    app_name: str,
    concurrency: int,
    sleep: Callable[[float], None],
) -> Iterator[Result]:
    progress = _Progress(rows)
    num_futile = 0
    while progress.left:
        num_left = len(progress.left)
        trouble = "no request comes through"
        try:
            for custom_id, result in _run_once(list(progress.left.items()), app_name, concurrency):
                if progress.is_final(custom_id, result):
                    yield custom_id, result
        except ray.exceptions.RayError as error:
            trouble = str(error)
        if not progress.left:
            return
        num_futile = 0 if len(progress.left) < num_left else num_futile + 1
        if num_futile >= MOST_FUTILE:
            raise RuntimeError(f"application {app_name!r} fails again and again: {trouble}")
        logger.warning("%d requests are left: %s", len(progress.left), trouble)
        sleep(min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**num_futile))


def _run_once(rows: Sequence[Wanted], app_name: str, concurrency: int) -> Iterator[Result]:
    items = [
        {"custom_id": custom_id, "url": request.url, "body": json.dumps(request.body)}
        for custom_id, request in rows
    ]
    dataset = ray.data.from_items(
        items, override_num_blocks=max(1, math.ceil(len(items) / ROWS_PER_CALL))
    )
    for row in add_results(dataset, app_name, concurrency).iter_rows():
        failure = row.get("__inference_error__")
        if failure:
            logger.warning("a request failed on its way: %s", failure)
            continue
        yield row["custom_id"], json.loads(row["result"])


def add_results(dataset: Dataset, app_name: str = "default", concurrency: int = 256) -> Dataset:
    """Return a dataset of requests with one more column, `result`. Lazy, as all of Ray Data.

    Columns `url`, an endpoint, and `body`, an object or JSON, are as in OpenAI's batch files;
    others stay. `result` is JSON: `response`, the body of the response, or `error`. A request that
    was lost on its way has `__inference_error__` instead, a text.

    Args: concurrency: requests that are under way at a time, in replicas or waiting for one.
    """
    config = ServeDeploymentProcessorConfig(
        deployment_name=NAME,
        app_name=app_name,
        batch_size=ROWS_PER_CALL,
        concurrency=1,
        should_continue_on_error=True,
    )
    light = {"num_cpus": 0.01, "concurrency": TASKS}
    processor = build_processor(
        config,
        builder_kwargs={},
        preprocess=partial(_as_call, job=_job_of_this_process(app_name)),
        postprocess=_as_result,
        preprocess_map_kwargs=light,
        postprocess_map_kwargs=light,
    )
    (stage,) = (processor.get_stage_by_name(name) for name in processor.list_stage_names())
    stage.map_batches_kwargs.update(
        num_cpus=0.01, max_concurrency=max(1, concurrency // ROWS_PER_CALL)
    )
    return processor(dataset)


@cache
def _job_of_this_process(app_name: str) -> str:
    """Return the name under which the pool of an application hears of this process from now on.

    However this process ends, the pool drops what it left soon after.
    """
    job = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}"

    def beat() -> None:
        while True:
            with suppress(Exception):  # the pool may be restarting, or Ray not be there any more
                handle = serve.get_deployment_handle(NAME, app_name)
                handle.beat.remote(job).result(timeout_s=STATUS_LIMIT_S)
            time.sleep(BEAT_EVERY_S)

    threading.Thread(target=beat, name="hygen-job", daemon=True).start()
    return job


def _as_call(row: Json, job: str) -> Json:
    body = row["body"]
    text = body if isinstance(body, str) else json.dumps(_without_nulls(body))
    call = {"url": row["url"], "body": text, "job": job}
    return {**row, "method": "run", "request_kwargs": call}


def _as_result(row: Json) -> Json:
    return {name: value for name, value in row.items() if name not in CALL}


def _without_nulls(value: object) -> object:
    """Return a value without what a table put where other rows have something."""
    if isinstance(value, dict):
        return {name: _without_nulls(each) for name, each in value.items() if each is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(each) for each in value]
    return value.tolist() if hasattr(value, "tolist") else value
