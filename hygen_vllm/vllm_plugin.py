# SPDX-License-Identifier: Apache-2.0
"""Entry point of `vllm.general_plugins`: wrong settings stop an engine before a model is loaded.

vLLM builds the scheduler after the model, which on a large one is minutes too late to learn of a
misspelt key. vLLM calls `register` in each of its processes; it does nothing but look at engines
whose scheduler class comes from this package.
"""

import functools
import sys
from pathlib import Path
from typing import Any


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
        if uses_hygen(self.scheduler_cls):
            check_settings(self.additional_config)
        return create(self, *args, **kwargs)

    create_engine_config.checks_hygen = True  # type: ignore[attr-defined]
    arg_utils.EngineArgs.create_engine_config = create_engine_config


def uses_hygen(scheduler_cls: str | type | None) -> bool:
    """Whether a scheduler class, or the name of one, comes from this package."""
    if isinstance(scheduler_cls, str):
        return scheduler_cls.startswith(f"{__package__}.")
    bases = getattr(scheduler_cls, "__mro__", ())
    return any(base.__module__.startswith(f"{__package__}.") for base in bases)


def check_settings(additional_config: Any) -> None:
    """Raise ConfigError or RuntimeError for what would stop the scheduler from being built.

    Under the `vllm` command the process ends with the one line instead.
    """
    import vllm

    from hygen_vllm.config import ConfigError, HyGenConfig
    from hygen_vllm.latency.profile_file import load_cost
    from hygen_vllm.vllm_release import UnsupportedReleaseError, check_release

    try:
        check_release(vllm.__version__)
        config = HyGenConfig.load(additional_config)
        if config.profile:
            load_cost(config.profile)
    except (ConfigError, UnsupportedReleaseError) as error:
        if Path(sys.argv[0]).name == "vllm":
            sys.exit(f"hygen-vllm: {error}")
        raise
