# SPDX-License-Identifier: Apache-2.0
"""AppConfig: what of an application on Ray Serve can be set. Imports neither Ray nor vLLM."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from hygen_vllm.config import CONFIG_KEY, ConfigError, HyGenConfig, Positive, Settings
from hygen_vllm.json_types import Json, JsonView
from hygen_vllm.labels import ClassRule

SCHEDULER = "hygen_vllm.HyGenScheduler"
OURS = ("scheduler_cls", "model", "served_model_name", "tensor_parallel_size")
"""Engine arguments that are set from fields of AppConfig."""


def _section(values: object) -> object:
    return {} if values is None else values  # everything in it commented out


def _as_texts(values: object) -> object:
    """Turn numbers into the text that environment variables are."""
    if not isinstance(values, Mapping):
        return _section(values)
    return {
        name: str(value)
        if isinstance(value, int | float) and not isinstance(value, bool)
        else value
        for name, value in values.items()
    }


Section = Annotated[Json, BeforeValidator(_section)]
Environment = Annotated[dict[str, str], BeforeValidator(_as_texts)]


class AppConfig(Settings):
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

    model: str = Field(min_length=1)
    model_id: str | None = None
    num_replicas: Annotated[int, Field(ge=1)] | Literal["auto"] | None = 1
    hygen: Json | str | None = None
    engine: Section = Field(default_factory=dict)
    tensor_parallel_size: int = Field(default=1, ge=1)
    accelerator_type: str | None = None
    on_cpu: bool = False
    placement_group_config: Json | None = None
    deployment: Section = Field(default_factory=dict)
    ingress: Section = Field(default_factory=dict)
    env: Environment = Field(default_factory=dict)
    lease_s: Positive = 10.0
    check_resources: bool = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_replicas is None and "autoscaling_config" not in self.deployment:
            raise ValueError("num_replicas null needs autoscaling_config in deployment")
        if self.on_cpu and self.accelerator_type is not None:
            raise ValueError(
                f"accelerator_type {self.accelerator_type} has no effect with on_cpu; remove one"
            )
        for name in OURS:
            if name in self.engine:
                raise ValueError(f"engine: {name} is set by this application; remove it")
        additional = self.engine.get("additional_config", {})
        if not isinstance(additional, Mapping):
            raise ValueError(  # noqa: TRY004 - pydantic passes these on
                f"engine: additional_config must be key: value pairs, got {additional!r:.80}"
            )
        self.scheduler_config  # noqa: B018 - raises what is wrong with it
        return self

    @classmethod
    def from_mapping(cls, values: JsonView) -> "AppConfig":
        """Return the configuration in the `args` of a Serve config file."""
        if not isinstance(values, Mapping):
            raise ConfigError(f"args must hold key: value pairs, got {values!r:.80}")
        return cls(**{str(key): value for key, value in values.items()})

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
        settings = self.scheduler_config.model_dump(exclude_defaults=True)
        additional = {**self.engine.get("additional_config", {}), CONFIG_KEY: settings}
        return {
            **self.engine,
            "scheduler_cls": SCHEDULER,
            "tensor_parallel_size": self.tensor_parallel_size,
            "additional_config": additional,
        }
