# SPDX-License-Identifier: Apache-2.0
"""What vLLM's endpoints do not know of labels: beam search, and pooling requests."""

import functools
import importlib
import sys
from typing import Any

from hygen_vllm.labels import LABEL_KEY, TENANT_KEY, ClassRule, RequestClass, priority_in

ENDPOINTS = (("completion", "CompletionRequest"), ("chat_completion", "ChatCompletionRequest"))


def refuse_offline_beams(rule: ClassRule) -> None:
    """Let this process refuse beam search for offline requests.

    vLLM makes a request of each beam and token, without the labels of the one that was sent: they
    would be served as users' requests. Does nothing where no OpenAI endpoint is.
    """
    for name, kind in ENDPOINTS:
        protocol = sys.modules.get(f"vllm.entrypoints.openai.{name}.protocol")
        if protocol is not None:
            _refuse_beams_of(getattr(protocol, kind), rule)
            _tell_beams_the_header(f"vllm.entrypoints.openai.{name}.serving", f"create_{name}")


def _tell_beams_the_header(module: str, method: str) -> None:
    """Let a request for beam search have the priority of its header, as others have it."""
    try:
        names = vars(importlib.import_module(module))
    except ImportError:  # this process serves no endpoint, and may lack what one needs
        return
    for serving in names.values():
        whole = vars(serving).get(method) if isinstance(serving, type) else None
        if whole is None or hasattr(whole, "tells_header"):
            continue

        @functools.wraps(whole)
        async def create(
            self: Any, request: Any, raw_request: Any = None, *, whole: Any = whole
        ) -> Any:
            priority = priority_in(getattr(raw_request, "headers", {}))
            if request.use_beam_search and priority is not None:
                request.priority = priority
            return await whole(self, request, raw_request)

        create.tells_header = True  # type: ignore[attr-defined]
        setattr(serving, method, create)


def _refuse_beams_of(kind: Any, rule: ClassRule) -> None:
    from vllm.exceptions import VLLMValidationError

    whole = getattr(kind.to_beam_search_params, "__wrapped__", kind.to_beam_search_params)

    @functools.wraps(whole)
    def to_beam_search_params(self: Any, *args: Any, **kwargs: Any) -> Any:
        if rule.classify(self.vllm_xargs, self.priority) is RequestClass.OFFLINE:
            raise VLLMValidationError(
                "beam search cannot be offline: leave out use_beam_search or the label",
                parameter="use_beam_search",
            )
        return whole(self, *args, **kwargs)

    kind.to_beam_search_params = to_beam_search_params


def read_labels_of_pooling() -> None:
    """Let this process read the labels of pooling requests: embeddings, scores, classes.

    vLLM reads the header X-Vllm-Priority and `vllm_xargs` of generating requests only. Does nothing
    where no OpenAI endpoint is.
    """
    if not any(f"vllm.entrypoints.openai.{name}.protocol" in sys.modules for name, _ in ENDPOINTS):
        return
    from vllm.entrypoints.pooling.base.serving import PoolingBaseServing

    whole = PoolingBaseServing._init_ctx
    if hasattr(whole, "reads_labels"):
        return

    @functools.wraps(whole)
    async def init_ctx(self: Any, io_processor: Any, request: Any, raw_request: Any = None) -> Any:
        context = await whole(self, io_processor, request, raw_request)
        priority = priority_in(getattr(raw_request, "headers", {}))
        if priority is not None:
            context.priorities = priority
        given = (request.model_extra or {}).get("vllm_xargs")
        if isinstance(given, dict):
            labels = {name: given[name] for name in (LABEL_KEY, TENANT_KEY) if name in given}
            params = context.pooling_params
            params.extra_kwargs = {**(params.extra_kwargs or {}), **labels}
        return context

    init_ctx.reads_labels = True  # type: ignore[attr-defined]
    PoolingBaseServing._init_ctx = init_ctx
