# SPDX-License-Identifier: Apache-2.0
"""Entry point of `vllm.general_plugins`: wrong settings stop an engine before a model is loaded.

vLLM builds the scheduler after the model, which on a large one is minutes too late to learn of a
misspelt key. vLLM calls `register` in each of its processes; it does nothing but look at engines
whose scheduler class comes from this package.
"""

import functools
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hygen_vllm.config import HyGenConfig
    from hygen_vllm.labels import ClassRule

OURS = "hygen_vllm."


def register() -> None:
    """Let EngineArgs check HyGen's settings first. May be called any number of times."""
    arg_utils = sys.modules.get("vllm.engine.arg_utils")
    if arg_utils is None:  # no engine is configured in this process
        return
    create = arg_utils.EngineArgs.create_engine_config
    if hasattr(create, "checks_hygen"):
        return

    @functools.wraps(create)
    def create_engine_config(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not uses_hygen(self.scheduler_cls):
            return create(self, *args, **kwargs)
        with _one_line_errors():
            config = checked_settings(self.additional_config)
            check_files(config)
            vllm_config = create(self, *args, **kwargs)
            if config.profile is not None:
                from hygen_vllm.engine.identity import given_cost

                given_cost(config, vllm_config)
        refuse_offline_beams(config.class_rule(vllm_config.scheduler_config.policy))
        read_labels_of_pooling()
        return vllm_config

    create_engine_config.checks_hygen = True  # type: ignore[attr-defined]
    arg_utils.EngineArgs.create_engine_config = create_engine_config


def uses_hygen(scheduler_cls: str | type | None) -> bool:
    """Whether a scheduler class, or the name of one, comes from this package or is derived."""
    if isinstance(scheduler_cls, str):
        if scheduler_cls.startswith(OURS):
            return True
        scheduler_cls = None if scheduler_cls.startswith("vllm.") else _class_of(scheduler_cls)
    bases = getattr(scheduler_cls, "__mro__", ())
    return any(base.__module__.startswith(OURS) for base in bases)


@functools.cache
def _class_of(name: str) -> type | None:
    """Return a user's class, which vLLM imports in the engine; None if that fails, as vLLM says."""
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception:  # a module of a user may do anything
        return None
    return found if isinstance(found, type) else None


def checked_settings(additional_config: Any) -> "HyGenConfig":
    """Return an engine's settings. Raises ConfigError or RuntimeError if they cannot be used."""
    import vllm

    from hygen_vllm.config import HyGenConfig
    from hygen_vllm.engine.release import check_release

    check_release(vllm.__version__)
    return HyGenConfig.load(additional_config)


def refuse_offline_beams(rule: "ClassRule") -> None:
    """Let this process refuse beam search for offline requests.

    vLLM makes a request of each beam and token, without the labels of the one that was sent: they
    would be served as users' requests. Does nothing where no OpenAI endpoint is.
    """
    for name, kind in ENDPOINTS:
        protocol = sys.modules.get(f"vllm.entrypoints.openai.{name}.protocol")
        if protocol is not None:
            _refuse_beams_of(getattr(protocol, kind), rule)
            _tell_beams_the_header(f"vllm.entrypoints.openai.{name}.serving", f"create_{name}")


ENDPOINTS = (("completion", "CompletionRequest"), ("chat_completion", "ChatCompletionRequest"))


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
            priority = _priority_of_header(raw_request)
            if request.use_beam_search and priority is not None:
                request.priority = priority
            return await whole(self, request, raw_request)

        create.tells_header = True  # type: ignore[attr-defined]
        setattr(serving, method, create)


def _priority_of_header(raw_request: Any) -> int | None:
    """Return the number in the header; None if there is none that an engine can be told."""
    header = "" if raw_request is None else raw_request.headers.get(PRIORITY_HEADER, "")
    with suppress(ValueError):
        return priority if abs(priority := int(header)) < 1 << 63 else None
    return None


def _refuse_beams_of(kind: Any, rule: "ClassRule") -> None:
    from vllm.exceptions import VLLMValidationError

    from hygen_vllm.labels import RequestClass

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

    from hygen_vllm.labels import LABEL_KEY, TENANT_KEY

    whole = PoolingBaseServing._init_ctx
    if hasattr(whole, "reads_labels"):
        return

    @functools.wraps(whole)
    async def init_ctx(self: Any, io_processor: Any, request: Any, raw_request: Any = None) -> Any:
        context = await whole(self, io_processor, request, raw_request)
        priority = _priority_of_header(raw_request)
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


PRIORITY_HEADER = "X-Vllm-Priority"


def check_files(config: "HyGenConfig") -> None:
    """Raise ConfigError for a reference that cannot be used, or a trace that cannot be written."""
    from hygen_vllm.price.trace import check_trace_path
    from hygen_vllm.slo import Slo
    from hygen_vllm.targets.reference import find_reference

    reference = find_reference(config) if config.targets else None
    if reference is not None:
        for text in config.targets:
            reference.resolved(Slo.parse(text))
    if config.trace is not None:
        check_trace_path(config.trace)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """End the process with one line for a wrong setting if it is the `vllm` command."""
    from hygen_vllm.config import ConfigError
    from hygen_vllm.engine.release import UnsupportedReleaseError

    try:
        yield
    except (ConfigError, UnsupportedReleaseError) as error:
        if Path(sys.argv[0]).name == "vllm":
            sys.exit(f"hygen-vllm: {error}")
        raise
