# SPDX-License-Identifier: Apache-2.0
"""HyGenServer: a replica. Ray's LLMServer that says its load, pulls offline work, dies in time.

An engine that is dead makes its replica end itself at once, so that Serve replaces it; otherwise
Serve would route requests to it until some health checks failed.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.llm.deployment import LLMServer
from ray.serve.llm.openai_api_models import ChatCompletionRequest, CompletionRequest
from vllm.exceptions import VLLMClientError

from hygen_vllm.fleet.engine_load import UTILITY, EngineLoad
from hygen_vllm.json_types import Json
from hygen_vllm.openai_request import INVALID, OpenAiRequest, error_of
from hygen_vllm.ray_serving import offline_pool, router

logger = logging.getLogger("ray.serve")

PULL_EVERY_S = 0.25
WATCH_EVERY_S = 0.1
LAST_WORDS_S = 1.0
"""Time for the errors of a dead engine to reach the clients."""
RETRY_AFTER_S = 1.0
REPORT_LIMIT_S = 1.0
"""An engine answers between two steps; a replica whose engine computes for longer still lives."""
REQUESTS = {"chat": ChatCompletionRequest, "completions": CompletionRequest}


class HyGenServer(LLMServer):
    """See the module docstring."""

    async def start(self) -> None:
        await super().start()
        context = serve.get_replica_context()
        self._worker = context.replica_id.unique_id
        self._pool = serve.get_deployment_handle(offline_pool.NAME, context.app_name)
        self._doing: dict[str, asyncio.Task[None]] = {}
        self._stopped: set[str] = set()
        """Work whose result nobody wants: vLLM makes an answer of our cancellation."""
        self._reporting: asyncio.Task[Json] | None = None
        self._last_report: Json | None = None
        self._background = [
            asyncio.create_task(self._pull_for_ever()),
            asyncio.create_task(self._end_with_engine()),
        ]

    async def report(self) -> Json:
        """Return what the engine says, see LoadReport.answer."""
        core = self.engine._engine_client.engine_core
        answer: Json = await core.call_utility_async(UTILITY)
        return answer

    async def stands_for_offline_work(self) -> None:
        """Nothing: see offline_pool.COUNTED_METHOD. Another router than ours may call it."""

    async def record_routing_stats(self) -> Json:
        """Serve's hook: what the request router knows of this replica."""
        stats = dict(await super().record_routing_stats())
        load = (await self.report())["load"]
        return {**stats, router.STATS: {**load, "at_s": time.monotonic()}}

    async def _end_with_engine(self) -> None:
        client = self.engine._engine_client
        while not client.errored:
            await asyncio.sleep(WATCH_EVERY_S)
        logger.error("the engine of replica %s is dead: the replica ends", self._worker)
        await asyncio.sleep(LAST_WORDS_S)
        os._exit(1)

    async def _pull_for_ever(self) -> None:
        while True:
            try:
                await self._pull()
            except (TimeoutError, RayError) as error:
                logger.warning("the offline pool does not answer: %s", error)
            except Exception:
                logger.exception("pulling offline work failed")
            await asyncio.sleep(PULL_EVERY_S)

    async def _pull(self) -> None:
        report, is_new = await self._report_in_time()
        wanted = 0
        if is_new:
            load = EngineLoad.from_dict(report["load"])
            unseen = max(0, len(self._doing) - load.num_offline)
            wanted = max(0, load.offline_wanted - unseen)
        taken = await self._pool.take.remote(self._worker, list(self._doing), wanted, report)
        for work_id, request in taken["work"]:
            self._doing[work_id] = asyncio.create_task(self._do(work_id, request))
        for work_id in taken["stop"]:
            if work_id in self._doing:  # it may have been done meanwhile
                self._stopped.add(work_id)
                self._doing[work_id].cancel()

    async def _report_in_time(self) -> tuple[Json, bool]:
        """Return what the engine says, and whether that is new: it may be computing for long."""
        if self._reporting is None:
            self._reporting = asyncio.create_task(self.report())
        limit_s = None if self._last_report is None else REPORT_LIMIT_S
        done, _ = await asyncio.wait({self._reporting}, timeout=limit_s)
        if not done:
            assert self._last_report is not None
            return self._last_report, False
        reporting, self._reporting = self._reporting, None
        self._last_report = reporting.result()
        return self._last_report, True

    async def _do(self, work_id: str, request: OpenAiRequest) -> None:
        try:
            result, tokens = await self._answer(request)
            if work_id not in self._stopped:
                await self._pool.finish.remote(self._worker, work_id, result, tokens)
        except asyncio.CancelledError:
            logger.info("offline request %s is not wanted any more", work_id)
        except Exception:
            logger.exception("offline request %s failed here", work_id)
            await asyncio.sleep(RETRY_AFTER_S)
            if self.engine._engine_client.errored:
                return  # it stays lent to this replica, which is lost: it may have ended the engine
            await self._pool.give_back.remote(self._worker, work_id)
        finally:
            self._doing.pop(work_id, None)
            self._stopped.discard(work_id)

    async def __del__(self) -> None:
        """Serve's hook: give back what this replica has before it ends as it should."""
        for task in (*getattr(self, "_background", ()), *getattr(self, "_doing", {}).values()):
            task.cancel()
        if hasattr(self, "_pool"):
            await self._pool.leave.remote(self._worker)

    async def _answer(self, request: OpenAiRequest) -> tuple[Json, int]:
        """Return the result of an offline request and its tokens."""
        method = request.method
        try:
            parsed = REQUESTS[method](**request.as_offline().body)
        except (ValueError, VLLMClientError) as error:
            return error_of(str(error), 400, INVALID), 0
        answers: AsyncIterator[Any] = await getattr(self, method)(parsed)
        async for answer in answers:
            if hasattr(answer, "error"):
                return {"error": answer.error.model_dump()}, 0
            return {"response": answer.model_dump()}, answer.usage.total_tokens
        raise RuntimeError("the engine answered nothing")
