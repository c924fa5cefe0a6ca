# SPDX-License-Identifier: Apache-2.0
"""OfflinePool: the Serve deployment in which offline requests wait until a replica wants them.

One replica of its own, which computes nothing. Whoever has offline work (the ingress, a batch job)
calls `run` and waits; replicas of the model call `take` a few times a second and `finish`.
"""

import asyncio
import itertools
import json
import logging
import time
from collections.abc import AsyncIterator, Hashable, Mapping, Sequence
from typing import Any

from hygen_vllm.fleet.work_pool import Work, WorkPool
from hygen_vllm.offline_lane.admission_order import OrderRules
from hygen_vllm.offline_lane.offline_queue import Labels, QueueRules
from hygen_vllm.openai_request import INVALID, OpenAiRequest, error_of, problem_of

logger = logging.getLogger("ray.serve")

NAME = "OfflinePool"
MOST_LENT = 3
"""Replicas that may die with a request before it is given up."""
EXPIRE_EVERY_S = 1.0
MOST_WAITING = 100_000
"""Requests that Serve lets in; they wait here."""


class OfflinePool:
    """See the module docstring.

    Args:
        lease_s: see WorkPool.
        order, weights: see QueueRules.
    """

    def __init__(self, lease_s: float, order: OrderRules, weights: Mapping[str, float]) -> None:
        rules = QueueRules(order, weights)
        self._pool: WorkPool[OpenAiRequest] = WorkPool(lease_s, MOST_LENT, rules)
        self._results: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reports: dict[Hashable, Mapping[str, Any]] = {}
        self._ids = itertools.count()
        self._expiry: asyncio.Task[None] | None = None

    async def run(self, request: dict[str, Any]) -> AsyncIterator[dict[str, str]]:
        """Yield one `result`, JSON: `response`, the body of an OpenAI response, or `error`.

        Args: request: `url`, one of openai_request.URLS, and `body`, JSON.
        """
        if self._expiry is None:
            self._expiry = asyncio.create_task(self._expire())
        body = json.loads(request["body"])
        problem = problem_of(request["url"], body)
        if problem:
            yield {"result": json.dumps(error_of(problem, 400, INVALID))}
            return
        offline = OpenAiRequest(request["url"], body)
        work_id = next(self._ids)
        labels = Labels(
            tenant=offline.tenant, hashes=offline.prefix_hashes(), tokens=offline.tokens
        )
        result = self._results[work_id] = asyncio.get_running_loop().create_future()
        self._pool.add(Work(work_id, offline, labels), time.monotonic())
        try:
            yield {"result": json.dumps(await result)}
        finally:  # also where nobody waits for it any more
            self._pool.done(work_id, 0.0)
            self._results.pop(work_id, None)

    async def take(
        self, worker: str, doing: Sequence[int], most: int, report: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return work for a replica, and what of its work it may stop.

        Args:
            doing: work that it has; nobody wants the results of what is `stop`ped.
            most: how much more it wants.
            report: what its engine says, see LoadReport.answer.
        """
        self._reports[worker] = report
        for lost in self._pool.reconcile(worker, set(doing)):
            self._give_up(lost.request_id)
        taken = self._pool.take(worker, most, time.monotonic())
        lent = self._pool.lent(worker)
        return {
            "work": [(work.request_id, work.content) for work in taken],
            "stop": [work_id for work_id in doing if work_id not in lent],
        }

    async def finish(self, work_id: int, result: dict[str, Any], tokens: int) -> None:
        """Pass a result on to whoever waits for it; the first one counts."""
        if self._pool.done(work_id, tokens):
            self._answer(work_id, result)

    async def give_back(self, worker: str, work_id: int) -> None:
        """Let another replica do what this one could not."""
        if not self._pool.give_back(worker, work_id):
            self._give_up(work_id)

    async def status(self) -> dict[str, Any]:
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
            for work in self._pool.expire(time.monotonic()):
                self._give_up(work.request_id)
            for gone in self._reports.keys() - self._pool.workers.keys():
                del self._reports[gone]

    def _give_up(self, work_id: Any) -> None:
        message = f"{MOST_LENT} replicas ended while they worked on this request"
        logger.error("offline request %s: %s", work_id, message)
        self._answer(work_id, error_of(message, 500))

    def _answer(self, work_id: Any, result: dict[str, Any]) -> None:
        waiting = self._results.get(work_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(result)
