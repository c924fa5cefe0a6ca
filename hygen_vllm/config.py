# SPDX-License-Identifier: Apache-2.0
"""HyGenConfig: everything a user can set, validated before the engine starts.

Read once, from the first of: `--additional-config '{"hygen": {...}}'`, the same key naming a YAML
or JSON file, the environment variable HYGEN_CONFIG naming such a file, nothing (all defaults).
Prefer a file for values that change: vLLM hashes the text of --additional-config into the key of
its torch.compile cache, so another number there means compiling again.
"""

import difflib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from hygen_vllm.json_types import Json, JsonView
from hygen_vllm.labels import ClassRule, RequestClass
from hygen_vllm.slo import Slo

CONFIG_KEY = "hygen"
CONFIG_ENV = "HYGEN_CONFIG"
DEFAULT_SLOS = ["tbt_mean=+20%", "ttft_mean=+20%"]

_LONGEST_LINE = 600


class ConfigError(ValueError):
    """A setting that cannot be used; one line with field, value, limit and remedy.

    Whatever a value holds, the line is printable and not too long: the middle of one that would be
    is left out.
    """

    def __init__(self, message: str) -> None:
        text = "".join(letter if letter.isprintable() else " " for letter in message)
        if len(text) > _LONGEST_LINE:
            text = f"{text[: _LONGEST_LINE // 2]} ... {text[-_LONGEST_LINE // 3 :]}"
        super().__init__(text)


class Settings(BaseModel):
    """Fields that people set, checked when they are made; raises ConfigError."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    gone: ClassVar[Mapping[str, str]] = {}
    """Settings of earlier versions, and what there is instead."""

    def __init__(self, /, **values: object) -> None:
        for key in values:
            if key not in type(self).model_fields:
                raise ConfigError(self._unknown(key))
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(self._first_line(error.errors(), values)) from None

    @classmethod
    def _first_line(cls, errors: Sequence[ErrorDetails], values: JsonView) -> str:
        """Say what is wrong with the first value that is."""
        error = errors[0]
        name = str(error["loc"][0]) if error["loc"] else ""
        if error["type"] == "missing":
            return f"{name} is missing"
        if error["type"] == "value_error":
            return f"{name}: {_text_of(error)}" if name else _text_of(error)
        return cls._misfit(name, errors, values[name])

    @classmethod
    def _misfit(cls, name: str, errors: Sequence[ErrorDetails], value: object) -> str:
        """Say what the value of a field must be, or what is in it must."""
        first, given = errors[0], errors[0]["input"]
        place, wanted = name, _text_of(first)
        if len(first["loc"]) > 1 and given is value:  # it fits none of several types
            kinds = [_text_of(each) for each in errors if each["loc"][0] == name]
            wanted = " or ".join(kinds).replace(" or be ", " or ")
        for part in first["loc"][1:]:
            if isinstance(value, Mapping | list) and _has(value, part):
                place, value = f"{place}[{part!r}]", value[part]  # type: ignore[index]
        line = f"{place} must {wanted}, got {given!r:.80}"
        choices = re.findall("'(.*?)'", first.get("ctx", {}).get("expected", ""))
        close = _closest(given, choices) if isinstance(given, str) else None
        if close:
            return f'{line}; did you mean "{close}"?'
        line = f"{line} ({type(given).__name__})"
        field = cls.model_fields[name]
        if field.is_required():
            return line
        default = field.get_default(call_default_factory=True, validated_data={})
        return f"{line}; the default is {json.dumps(default)}"

    @classmethod
    def _unknown(cls, key: str) -> str:
        if key in cls.gone:
            return f"{key} is no setting any more: {cls.gone[key]}; remove it"
        close = _closest(key, cls.model_fields)
        hint = f'did you mean "{close}"? ' if close else ""
        return f"unknown key {key!r}; {hint}valid keys: {', '.join(cls.model_fields)}"


def _mode(mode: object) -> object:
    return "off" if mode is False else mode  # an unquoted off is false to YAML 1.1


def _slo_text(text: str) -> str:
    Slo.parse(text)
    return text


def _one_target_each(slos: list[str]) -> list[str]:
    names = [text.partition("=")[0] for text in slos]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two targets for {name}")
    return slos


Positive = Annotated[float, Field(gt=0)]
SloText = Annotated[str, AfterValidator(_slo_text)]


class HyGenConfig(Settings):
    """Settings of the scheduler. All have defaults that can be left alone."""

    gone: ClassVar[Mapping[str, str]] = {
        "headroom_quantile": "online requests find their KV blocks by preempting offline ones",
        "interference_tolerance": "slos says how much longer users may wait",
        "offline_rate_per_s": "slos bounds what offline work costs the online class",
        "utility_ratio": "offline_max_wait_s bounds the wait for others that share a prefix",
    }

    mode: Annotated[Literal["slo", "fixed", "off"] | None, BeforeValidator(_mode)] = None
    """What bounds the seconds of a step: `slo`, `fixed` or `off`. Default: `fixed` if
    latency_budget_s is set and slos is not, else `slo`. `off` is online first without a gate:
    offline work fills whatever tokens, slots and KV blocks the online class leaves."""

    slos: Annotated[list[SloText], AfterValidator(_one_target_each)] | None = None
    """Mode `slo`: latency targets of the online class, such as `tbt_p99=45ms`, `ttft_mean=+10%`.
    Metrics ttft and tbt, statistics mean, p50, p90, p95 and p99; a percentage is relative to the
    same online requests served alone. All are kept at once; a metric without a target is not
    looked after. Default: tbt_mean=+20% and ttft_mean=+20%."""

    slo_reference: str | None = None
    """Mode `slo`: JSON file with what online has when it is served alone, for relative targets:
    made by `hygen tune` or `hygen simulate --policy online-only`. Default: online-alone.json in the
    profile's folder, if it is there; else estimated while serving, which follows the load."""

    slo_window_s: float = Field(default=900.0, gt=0.001)
    """Mode `slo`: the time over which the targets are kept, whenever it begins. A fifteenth of it
    is the most that can be saved up in a quiet time."""

    latency_budget_s: Positive | None = None
    """Mode `fixed`: seconds one step may take, with or without online work in it (HyGen, section
    4). Offline work gets what online leaves of it; online itself is never gated."""

    idle_step_s: Positive = 0.1
    """Mode `slo`: seconds a step may take while no online request is in it, or where those in it
    only wait for their first token. The next online arrival waits for at most one such step (two
    with asynchronous scheduling). Twice the smallest step that this engine can make is allowed,
    too, unless a target for TTFT says less. Not kept before the first online request: an engine for
    batch work alone takes full steps."""

    default_class: Literal["online", "offline"] = "online"
    """Class of a request without a label: `online` or `offline`."""

    offline_priority_above: int | None = None
    """Requests with a priority above this are offline. Default: 0 under vLLM's fcfs policy, where
    priority has no other meaning; under vLLM's priority policy, none."""

    offline_order: Literal["prefix", "fcfs"] = "prefix"
    """Order of the waiting offline requests: `prefix` admits those that share a prefix together, so
    that it is computed once (prefix sharing maximisation; needs vLLM's prefix caching), `fcfs` is
    first come, first served. Under vLLM's priority policy, among requests of equal priority."""

    offline_max_wait_s: Positive | None = 3600.0
    """An offline request that has waited longer is the next to be admitted, whatever its prefix;
    of several the oldest, with some that share its prefix. Among its tenant's, and under vLLM's
    priority policy among those of equal priority. null: no bound."""

    tenant_weights: dict[str, Positive] | None = None
    """Shares of the offline tokens by tenant (the label `tenant` in vllm_xargs), where several have
    work; 1 for a tenant that is not named. Requests without the label belong to one tenant, ""."""

    offload_online: bool = False
    """With vLLM's KV offloading (--kv-offloading-size): whether KV of online requests is offloaded
    while the engine has offline work, too. By default the room there is for offline requests, which
    find their KV there when they were preempted."""

    min_chunk_tokens: int = Field(default=16, gt=0)
    """Smallest offline prefill chunk worth a place in a step; what fits less waits."""

    profile: str | None = None
    """Folder made by `hygen profile`, or name of a profile that ships: what a step costs on this
    engine. Refused at start if it is for another model, dtype, parallelism or device. Default:
    none; the scheduler starts carefully and learns from its own steps, as it does from a profile
    on."""

    trace: str | None = None
    """CSV file in which every step is recorded (`cost.trace`), for `hygen fit` and
    `hygen evaluate`. A file that exists is kept; NAME.1.csv is the next. Default: none;
    recording takes some 4 us a step, and every step is looked at instead of one in four."""

    trace_max_steps: int = Field(default=200_000, gt=0)
    """Steps after which recording ends; 200,000 take about 20 MB."""

    @model_validator(mode="after")
    def _check_mode(self) -> Self:
        mode = self.gate_mode
        if mode == "fixed" and self.latency_budget_s is None:
            raise ValueError(
                'mode "fixed" needs latency_budget_s (seconds one step may take); '
                "set it or leave out the mode"
            )
        of_a_mode = {
            "slos": (self.slos or None, "slo"),
            "slo_reference": (self.slo_reference, "slo"),
            "latency_budget_s": (self.latency_budget_s, "fixed"),
        }
        for name, (value, its_mode) in of_a_mode.items():
            if value is not None and mode != its_mode:
                raise ValueError(
                    f'{name} = {value} has no effect in mode "{mode}"; '
                    f'remove it or set mode "{its_mode}"'
                )
        return self

    @property
    def gate_mode(self) -> str:
        """The mode in force once defaults are applied."""
        if self.mode is not None:
            return self.mode
        return "slo" if self.slos or self.latency_budget_s is None else "fixed"

    @property
    def targets(self) -> list[str]:
        """The latency targets in force, none but in mode `slo`."""
        return (self.slos or DEFAULT_SLOS) if self.gate_mode == "slo" else []

    def class_rule(self, scheduling_policy: str) -> ClassRule:
        """Return how labels become a class under a policy of vLLM's, `fcfs` or `priority`."""
        above = self.offline_priority_above
        if above is None and scheduling_policy == "fcfs":
            above = 0
        return ClassRule(above, RequestClass(self.default_class))

    @classmethod
    def from_mapping(cls, values: JsonView, source: str) -> "HyGenConfig":
        """Return the configuration in `values`; errors name `source`."""
        try:
            return cls(**{str(key): value for key, value in values.items()})
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None

    @classmethod
    def from_file(cls, path: str) -> "HyGenConfig":
        """Return the configuration in a YAML or JSON file."""
        values = _parse(_read(path), path)
        if isinstance(values, Mapping) and set(values) == {CONFIG_KEY}:
            values = values[CONFIG_KEY]
        if values is None:  # empty, or everything commented out
            values = {}
        if not isinstance(values, Mapping):
            raise ConfigError(f"{path} must hold key: value pairs, got {type(values).__name__}")
        return cls.from_mapping(values, path)

    @classmethod
    def load(
        cls, additional_config: object = None, environ: Mapping[str, str] = os.environ
    ) -> "HyGenConfig":
        """Return an engine's configuration, from vLLM's additional_config or the environment."""
        section = additional_config.get(CONFIG_KEY) if isinstance(additional_config, dict) else None
        if isinstance(section, str):
            return cls.from_file(section)
        if isinstance(section, Mapping):
            return cls.from_mapping(section, f'additional_config["{CONFIG_KEY}"]')
        if section is not None:
            raise ConfigError(
                f'additional_config["{CONFIG_KEY}"] must be an object or the path of a file, '
                f"got {type(section).__name__}"
            )
        if environ.get(CONFIG_ENV):
            return cls.from_file(environ[CONFIG_ENV])
        return cls()


def _read(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        if isinstance(error, UnicodeDecodeError):
            reason = "not UTF-8 text"
        raise ConfigError(f"cannot read HyGen configuration file {path}: {reason}") from None


def _parse(text: str, path: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=partial(_without_doubles, path))
    except ConfigError:
        raise
    except ValueError:
        pass  # then it is YAML
    try:
        _check_yaml_keys(yaml.compose(text), path)
        return yaml.safe_load(text)
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"{path} is not valid YAML or JSON: {problem}") from None


def _without_doubles(path: str, pairs: list[tuple[str, object]]) -> Json:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"{path} has the key {twice} twice; remove one")
    return values


def _check_yaml_keys(node: object, path: str) -> None:
    """Raise ConfigError if a key is there twice, of which YAML takes the last."""
    if isinstance(node, yaml.MappingNode):
        _without_doubles(path, [(str(key.value), None) for key, _ in node.value])
        for _, value in node.value:
            _check_yaml_keys(value, path)


def _has(values: Mapping[str, object] | list[object], place: int | str) -> bool:
    if isinstance(values, list):
        return isinstance(place, int) and place < len(values)
    return place in values


def _text_of(error: ErrorDetails) -> str:
    """Return what a value must be, or what one of our own checks said."""
    text = error["msg"].removeprefix("Value error, ")
    return re.sub(r"^\w+ should ", "", text)


def _closest(word: str, words: Iterable[str]) -> str | None:
    """Return the word that was meant, None if none is like it."""
    return next(iter(difflib.get_close_matches(word, list(words), n=1)), None)
