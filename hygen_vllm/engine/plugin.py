# SPDX-License-Identifier: Apache-2.0
"""Entry point of `vllm.general_plugins`: wrong settings stop an engine before a model is loaded.

vLLM builds the scheduler after the model, which on a large one is minutes too late to learn of a
misspelt key. vLLM calls `register` in each of its processes; where another scheduler is used it
changes nothing.
"""

import functools
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hygen_vllm.engine.endpoints import read_labels_of_pooling, refuse_offline_beams

if TYPE_CHECKING:
    from hygen_vllm.config import HyGenConfig

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


def check_files(config: "HyGenConfig") -> None:
    """Raise ConfigError for a reference that cannot be used, or a trace that cannot be written."""
    from hygen_vllm.cost.trace import check_trace_path
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
