# SPDX-License-Identifier: Apache-2.0
"""HyGenIngress: Ray's OpenAI endpoint with two classes. Online requests go to a replica at once,
offline ones wait in the pool until a replica wants them; those that stream go like online ones,
and are offline there.

A replica that dies takes its requests with it. One of which nothing was sent yet is tried once
more; a stream that broke off ends with an error event.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

from ray.exceptions import RayActorError, RayError
from ray.serve.handle import DeploymentHandle
from ray.serve.llm.ingress import OpenAiIngress
from ray.serve.llm.openai_api_models import (
    ChatCompletionResponse,
    CompletionResponse,
    ErrorResponse,
)

from hygen_vllm.json_types import Json
from hygen_vllm.labels import ClassRule, RequestClass, priority_in
from hygen_vllm.openai_request import INVALID, URLS, XARGS, error_of

logger = logging.getLogger("ray.serve")

RESPONSES = {"chat": ChatCompletionResponse, "completions": CompletionResponse}
URL_OF = {method: url for url, method in URLS.items()}
BAD_REQUEST = 400
RETRY_AFTER_S = 2.0
"""A replica whose engine is dead has ended itself by then."""


class HyGenIngress(OpenAiIngress):
    """See the module docstring.

    Args:
        offline_pool: handle of the OfflinePool.
        class_rule: how it tells the classes.
    """

    def __init__(
        self,
        *args: Any,
        offline_pool: DeploymentHandle,
        class_rule: ClassRule,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._pool = offline_pool.options(stream=True)
        self._class_rule = class_rule

    async def _get_response(
        self, *, body: Any, call_method: str, raw_request: Any = None
    ) -> AsyncIterator[Any]:
        is_stream = bool(getattr(body, "stream", False))
        if call_method in RESPONSES and not is_stream and self._is_offline(body, raw_request):
            yield await self._through_pool(body, call_method)
            return
        arguments = {"body": body, "call_method": call_method, "raw_request": raw_request}
        async for answer in self._with_one_retry(arguments, is_stream):
            yield answer

    def _is_offline(self, body: Any, raw_request: Any) -> bool:
        priority = priority_in(getattr(raw_request, "headers", {}))
        if priority is None:
            priority = getattr(body, "priority", 0) or 0
        labels = getattr(body, XARGS, None)
        return self._class_rule.classify(labels, priority) is RequestClass.OFFLINE

    async def _through_pool(self, body: Any, call_method: str) -> object:
        try:
            text = body.model_dump_json(exclude_unset=True)
        except ValueError as error:  # nested deeper than pydantic goes
            message = f"an offline request must be plain JSON: {error}"
            return ErrorResponse(**error_of(message, BAD_REQUEST, INVALID))
        request = {"url": URL_OF[call_method], "body": text}
        async for answer in self._pool.run.remote(request):
            result = json.loads(answer["result"])
            if "error" in result:
                return ErrorResponse(**result)
            return RESPONSES[call_method](**result["response"])
        raise RuntimeError("the offline pool answered nothing")

    async def _with_one_retry(self, arguments: Json, is_stream: bool) -> AsyncIterator[Any]:
        has_answered = False
        try:
            async for answer in super()._get_response(**arguments):
                if not has_answered and _is_engine_dead(answer):
                    break
                has_answered = True
                yield answer
            else:
                return
        except RayError as error:
            if not _is_replica_dead(error):
                raise
            logger.warning("a replica died with a request: %s", error)
            if has_answered and is_stream:
                yield [_error_event("the replica that served this stream ended"), DONE]
                return
        await asyncio.sleep(RETRY_AFTER_S)
        async for answer in super()._get_response(**arguments):
            yield answer


DONE = "data: [DONE]\n\n"


def _error_event(message: str) -> str:
    return f"data: {json.dumps(error_of(message, 500))}\n\n"


def _is_replica_dead(error: BaseException) -> bool:
    return isinstance(error, RayActorError) or _names_dead_engine(str(error))


def _is_engine_dead(answer: object) -> bool:
    first = answer[0] if isinstance(answer, list) and answer else answer
    if hasattr(first, "error"):
        return _names_dead_engine(first.error.message)
    return isinstance(first, str) and '"error"' in first and _names_dead_engine(first)


def _names_dead_engine(text: str) -> bool:
    return "EngineCore" in text or "EngineDeadError" in text
