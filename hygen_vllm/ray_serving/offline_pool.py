# SPDX-License-Identifier: Apache-2.0
"""OfflinePool: the Serve deployment in which offline requests wait until a replica wants them.

One replica of its own, which computes nothing. Whoever has offline work (the ingress, a batch job)
calls `run` and waits; replicas of the model call `take` a few times a second and `finish`.

Where Serve scales the replicas, each offline request counts as a call of theirs that waits for one
with room: so backlog wakes a deployment that has none, adds some, and keeps those that work on it.
"""

import asyncio
import itertools
import json
import logging
import math
import time
import uuid
from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from hygen_vllm.fleet.work_pool import MOST_DEATHS, MOST_FAILURES, Work, WorkPool
from hygen_vllm.json_types import Json, JsonView
from hygen_vllm.lane.admission_order import OrderRules
from hygen_vllm.lane.offline_queue import LaneKey, QueueRules
from hygen_vllm.openai_request import GIVEN_UP, INVALID, OpenAiRequest, error_of, problem_of

logger = logging.getLogger("ray.serve")

NAME = "OfflinePool"
EXPIRE_EVERY_S = 1.0
JOB_SILENT_S = 15.0
"""What a job that is not heard of for so long waits for is put aside until it is."""
JOB_GONE_S = 300.0
"""A job that is not heard of for so long has ended."""
JOB_ENDED = 499
"""Code of the error that answers for a job that has ended."""
MOST_WAITING = 100_000
"""Requests that Serve lets in; they wait here."""
COUNTED_METHOD = "stands_for_offline_work"
"""A call of this method of a replica only counts; HyGenRouter sends it to none."""
MOST_COUNTED = 5_000
"""Offline requests that count at most, where Serve's settings do not say that fewer are enough."""


@dataclass
class _Row:
    """A request that somebody waits for.

    Args: job: that waits for it, None for a client whose call is open.
    """

    work: Work[OpenAiRequest]
    job: str | None
    result: asyncio.Future[Json]
    is_aside: bool = False
    """It is not in the pool, since its job was silent."""


class OfflinePool:
    """See the module docstring.

    Args:
        lease_s: see WorkPool.
        order, weights: see QueueRules.
        replicas: the deployment that Serve scales by its open calls.
        most_counted: requests that count for that, 0 where the number of replicas is fixed.
    """

    def __init__(
        self,
        lease_s: float,
        order: OrderRules,
        weights: Mapping[str, float],
        replicas: str,
        most_counted: int = 0,
    ) -> None:
        rules = QueueRules(order, weights)
        self._pool: WorkPool[OpenAiRequest] = WorkPool(lease_s, rules)
        self._rows: dict[Hashable, _Row] = {}
        self._reports: dict[Hashable, JsonView] = {}
        self._jobs: dict[str, float] = {}
        """When each job was heard of last."""
        self._name = uuid.uuid4().hex
        """Of this life of the pool: replicas may still work on what one before it lent."""
        self._ids = itertools.count()
        self._expiry: asyncio.Task[None] | None = None
        self._replicas = replicas
        self._most_counted = most_counted
        self._counting: list[asyncio.Task[None]] = []
        """One for each request that counts."""
        self._failed: set[tuple[str, type[Exception]]] = set()

    async def run(self, request: Json) -> AsyncIterator[dict[str, str]]:
        """Yield one `result`, JSON: `response`, the body of an OpenAI response, or `error`.

        Args: request: `url`, one of openai_request.URLS, and `body`, JSON; with `job` it is
            put aside some time after the last `beat` of that, until there is another.
        """
        if self._expiry is None:
            self._expiry = asyncio.create_task(self._expire())
        body = json.loads(request["body"])
        problem = problem_of(request["url"], body)
        if problem:
            yield {"result": json.dumps(error_of(problem, 400, INVALID))}
            return
        offline = OpenAiRequest(request["url"], body)
        key = LaneKey(tenant=offline.tenant, hashes=offline.prefix_hashes(), tokens=offline.tokens)
        job = request.get("job")
        result = asyncio.get_running_loop().create_future()
        row = _Row(Work(self._new_id(), offline, key), job, result)
        if job is not None:
            await self.beat(job)
        self._add(row)
        try:
            yield {"result": json.dumps(await result)}
        finally:  # also where nobody waits for it any more
            self._pool.cancel(row.work.request_id)
            self._rows.pop(row.work.request_id, None)

    def _new_id(self) -> str:
        return f"{self._name}-{next(self._ids)}"

    def _add(self, row: _Row) -> None:
        self._rows[row.work.request_id] = row
        self._pool.add(row.work, time.monotonic())

    async def beat(self, job: str) -> None:
        """Note that a job is there, and waits for its results."""
        was_silent = time.monotonic() - self._jobs.get(job, math.inf) > JOB_SILENT_S
        self._jobs[job] = time.monotonic()
        if not was_silent:
            return
        aside = [row for row in self._rows.values() if row.job == job and row.is_aside]
        for row in aside:
            del self._rows[row.work.request_id]
            # A replica may still be stopping what it had under the name before.
            row.work.request_id, row.is_aside = self._new_id(), False
            self._add(row)
        if aside:
            logger.warning("job %s is heard of again: %d requests go on", job, len(aside))

    async def take(self, worker: str, doing: Sequence[str], most: int, report: JsonView) -> Json:
        """Return work for a replica, and what of its work it may stop.

        Args:
            doing: work that it has; nobody wants the results of what is `stop`ped.
            most: how much more it wants.
            report: what its engine says, see LoadReport.answer.
        """
        self._reports[worker] = report
        self._pool.reconcile(worker, set(doing))
        taken = self._pool.take(worker, most, time.monotonic())
        lent = self._pool.lent(worker)
        return {
            "work": [(work.request_id, work.content) for work in taken],
            "stop": [work_id for work_id in doing if work_id not in lent],
        }

    async def finish(self, worker: str, work_id: str, result: Json, tokens: int) -> None:
        """Pass a result on to whoever waits for it, if its replica holds the work."""
        if self._pool.done(worker, work_id, tokens):
            self._answer(work_id, result)

    async def give_back(self, worker: str, work_id: str) -> None:
        """Let another replica do what this one could not."""
        if not self._pool.give_back(worker, work_id):
            self._give_up(work_id, f"{MOST_FAILURES} times a replica failed with this request")

    async def leave(self, worker: str) -> None:
        """Let others do what a replica has that ends as it should."""
        self._pool.leave(worker)

    async def status(self) -> Json:
        """Return how much is `waiting`, and of each of the `replicas` how much it is `doing` and
        what its engine says of online requests, `interference` and `targets`.
        """
        return {
            "waiting": self._pool.num_waiting,
            "replicas": {
                name: {
                    "doing": doing,
                    "interference": self._reports[name]["interference"],
                    "targets": self._reports[name]["targets"],
                }
                for name, doing in self._pool.workers.items()
            },
        }

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(EXPIRE_EVERY_S)
            for chore in (
                self._end_leases,
                self._put_silent_jobs_aside,
                self._count_for_autoscaling,
            ):
                self._try(chore)

    def _try(self, chore: Callable[[], None]) -> None:
        """One that fails is tried again next time; without the others no work would come back."""
        try:
            chore()
        except Exception as error:
            kind = chore.__name__, type(error)
            if kind not in self._failed:
                self._failed.add(kind)
                logger.exception("the pool goes on after this error, which is logged once:")

    def _end_leases(self) -> None:
        message = f"{MOST_DEATHS} replicas ended while they worked on this request"
        for work in self._pool.expire(time.monotonic()):
            self._give_up(work.request_id, message)
        for gone in self._reports.keys() - self._pool.workers.keys():
            del self._reports[gone]

    def _count_for_autoscaling(self) -> None:
        self._counting = [task for task in self._counting if not task.done()]
        wanted = min(len(self._pool), self._most_counted)
        for task in self._counting[wanted:]:
            task.cancel()
        del self._counting[wanted:]
        missing = wanted - len(self._counting)
        if missing <= 0:
            return
        app_name = serve.get_replica_context().app_name
        try:
            handle = serve.get_deployment_handle(self._replicas, app_name)
        except (KeyError, RayError, RayServeException) as error:  # it is not there yet
            logger.warning("offline requests do not count for autoscaling yet: %r", error)
            return
        count = getattr(handle, COUNTED_METHOD)
        self._counting += [asyncio.create_task(_wait_for(count.remote())) for _ in range(missing)]

    def _put_silent_jobs_aside(self) -> None:
        """Stop what silent jobs wait for, and answer where they have ended.

        A machine that is busy enough keeps a job from being heard of as long as that.
        """
        now_s = time.monotonic()
        silent = {job: at_s for job, at_s in self._jobs.items() if now_s - at_s > JOB_SILENT_S}
        if not silent:
            return
        aside = [row for row in self._rows.values() if row.job in silent and not row.is_aside]
        for row in aside:
            self._pool.cancel(row.work.request_id)
            row.is_aside = True
        if aside:
            jobs = ", ".join(sorted({str(row.job) for row in aside}))
            logger.warning("%d requests are put aside: not a word from job %s", len(aside), jobs)
        gone = {job for job, at_s in silent.items() if now_s - at_s > JOB_GONE_S}
        for work_id in [name for name, row in self._rows.items() if row.job in gone]:
            self._answer(work_id, error_of("the job of this request has ended", JOB_ENDED))
        for job in gone:
            logger.warning("job %s has ended; what it left is dropped", job)
            del self._jobs[job]

    def _give_up(self, work_id: Hashable, message: str) -> None:
        logger.error("offline request %s: %s", work_id, message)
        self._answer(work_id, error_of(message, 500, GIVEN_UP))

    def _answer(self, work_id: Hashable, result: Json) -> None:
        row = self._rows.get(work_id)
        if row is not None and not row.result.done():
            row.result.set_result(result)


async def _wait_for(call: Any) -> None:
    """Wait for a call, which is cancelled with the task."""
    try:
        await call
    except asyncio.CancelledError:
        call.cancel()
        raise
    except (RayError, RayServeException) as error:  # the deployment is being replaced, say
        logger.debug("an offline request does not count for autoscaling: %s", error)
