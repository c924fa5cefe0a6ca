# SPDX-License-Identifier: Apache-2.0
"""AppConfig: what of an application on Ray Serve can be set. Imports neither Ray nor vLLM."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from hygen_vllm.config import CONFIG_KEY, ConfigError, HyGenConfig, check_keys, check_types
from hygen_vllm.json_types import Json, JsonView
from hygen_vllm.labels import ClassRule

SCHEDULER = "hygen_vllm.HyGenScheduler"
OURS = ("scheduler_cls", "model", "served_model_name", "tensor_parallel_size")
"""Engine arguments that are set from fields of AppConfig."""

AUTO = "auto"
SECTIONS = ("engine", "deployment", "ingress", "env")
"""Fields that hold key: value pairs."""


@dataclass(frozen=True)
class AppConfig:
    """Replicas of one model; raises ConfigError, one line, for what cannot be used.

    Args:
        model: name on a model hub, or a folder.
        model_id: the name by which clients ask for it; the last part of `model` if not given.
        num_replicas: engines, or "auto" for Serve's autoscaling with its defaults; `deployment` may
            have `autoscaling_config` instead (then None).
        hygen: settings of HyGenConfig for all replicas, or a YAML or JSON file with them, read
            here; not given: as HyGenConfig.load finds them here.
        engine: other arguments of vLLM's AsyncEngineArgs.
        tensor_parallel_size: GPUs of a replica.
        accelerator_type: Ray's name of the GPU, "H100" say; None for any.
        on_cpu: replicas use no GPU.
        placement_group_config: passed to ray.serve.llm.LLMConfig; None for its default.
        deployment: other options of the replicas' Serve deployment.
        ingress: other options of the endpoint's Serve deployment, of which there is one replica.
        env: environment variables of the replicas; numbers become text.
        lease_s: offline work of a replica that was not heard of for so long goes to another.
        check_resources: refuse at once what the cluster has not got; False where it grows.
    """

    model: str
    model_id: str | None = None
    num_replicas: int | str | None = 1
    hygen: Json | str | None = None
    engine: Json = field(default_factory=dict)
    tensor_parallel_size: int = 1
    accelerator_type: str | None = None
    on_cpu: bool = False
    placement_group_config: Json | None = None
    deployment: Json = field(default_factory=dict)
    ingress: Json = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    lease_s: float = 10.0
    check_resources: bool = True

    def __post_init__(self) -> None:
        for name in SECTIONS:
            if getattr(self, name) is None:  # everything in it commented out
                object.__setattr__(self, name, {})
        check_types(self)
        object.__setattr__(self, "env", {name: _text(name, self.env[name]) for name in self.env})
        if not self.model:
            raise ConfigError("model must be a name on a model hub or a folder, got nothing")
        self._check_replicas()
        if self.on_cpu and self.accelerator_type is not None:
            raise ConfigError(
                f"accelerator_type {self.accelerator_type} has no effect with on_cpu; remove one"
            )
        self._check_engine()
        if not 0 < self.lease_s < math.inf:
            raise ConfigError(f"lease_s must be > 0 and finite, got {self.lease_s}")
        self.scheduler_config  # noqa: B018 - raises what is wrong with it

    def _check_replicas(self) -> None:
        given = self.num_replicas
        if isinstance(given, str) and given != AUTO:
            raise ConfigError(
                f'num_replicas must be a whole number, "{AUTO}" or null, got {given!r:.80}'
            )
        if isinstance(given, int) and given < 1:
            raise ConfigError(f"num_replicas must be >= 1, got {given}")
        if given is None and "autoscaling_config" not in self.deployment:
            raise ConfigError("num_replicas null needs autoscaling_config in deployment")
        if self.tensor_parallel_size < 1:
            raise ConfigError(f"tensor_parallel_size must be >= 1, got {self.tensor_parallel_size}")

    def _check_engine(self) -> None:
        for name in OURS:
            if name in self.engine:
                raise ConfigError(f"engine: {name} is set by this application; remove it")
        additional = self.engine.get("additional_config", {})
        if not isinstance(additional, Mapping):
            raise ConfigError(
                f"engine: additional_config must be key: value pairs, got {additional!r:.80}"
            )

    @classmethod
    def from_mapping(cls, values: JsonView) -> "AppConfig":
        """Return the configuration in the `args` of a Serve config file."""
        if not isinstance(values, Mapping):
            raise ConfigError(f"args must hold key: value pairs, got {values!r:.80}")
        check_keys(values, cls)
        if "model" not in values:
            raise ConfigError("model is missing: a name on a model hub or a folder")
        return cls(**values)

    @property
    def name(self) -> str:
        """The name by which clients ask for the model."""
        return self.model_id or Path(self.model).name

    @cached_property
    def scheduler_config(self) -> HyGenConfig:
        """The settings of every replica's scheduler; a file with them is read once."""
        return HyGenConfig.load(None if self.hygen is None else {CONFIG_KEY: self.hygen})

    @property
    def class_rule(self) -> ClassRule:
        """How the endpoint tells the classes, as every replica's scheduler does."""
        return self.scheduler_config.class_rule(self.engine.get("scheduling_policy", "fcfs"))

    @property
    def engine_kwargs(self) -> Json:
        """Arguments of vLLM's AsyncEngineArgs; the settings are in them, not in a file there."""
        config = self.scheduler_config
        defaults = HyGenConfig()
        settings = {
            each.name: getattr(config, each.name)
            for each in dataclasses.fields(config)
            if getattr(config, each.name) != getattr(defaults, each.name)
        }
        additional = {**self.engine.get("additional_config", {}), CONFIG_KEY: settings}
        return {
            **self.engine,
            "scheduler_cls": SCHEDULER,
            "tensor_parallel_size": self.tensor_parallel_size,
            "additional_config": additional,
        }


def _text(name: object, value: object) -> str:
    """Return the value of an environment variable. Raises ConfigError."""
    if not isinstance(name, str) or not isinstance(value, str | int | float):
        raise ConfigError(f"env: {name} must be a string, got {value!r:.80}")
    if isinstance(value, bool):
        raise ConfigError(f"env: {name} must be a string, got {value!r}; quote what is meant")
    return str(value)
