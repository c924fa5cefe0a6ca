# SPDX-License-Identifier: Apache-2.0
"""HyGenConfig: everything a user can set, validated before the engine starts.

Read once, from the first of: `--additional-config '{"hygen": {...}}'`, the same key naming a YAML
or JSON file, the environment variable HYGEN_CONFIG naming such a file, nothing (all defaults).
Prefer a file for values that change: vLLM hashes the text of --additional-config into the key of
its torch.compile cache, so another number there means compiling again.
"""

import dataclasses
import difflib
import json
import os
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from hygen_vllm.json_types import Json, JsonView
from hygen_vllm.labels import ClassRule, RequestClass
from hygen_vllm.slo import Slo

CONFIG_KEY = "hygen"
CONFIG_ENV = "HYGEN_CONFIG"
MODES = ("slo", "fixed", "off")
ORDERS = ("prefix", "fcfs")
DEFAULT_SLOS = ["tbt_mean=+20%", "ttft_mean=+20%"]

GONE = {
    "headroom_quantile": "online requests find their KV blocks by preempting offline ones",
    "interference_tolerance": "slos says how much offline work may lengthen what users wait for",
    "utility_ratio": "offline_max_wait_s bounds how long one waits for others to share a prefix",
}
"""Settings of earlier versions, and what there is instead."""

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


@dataclass(frozen=True)
class HyGenConfig:
    """Settings of the scheduler. All have defaults that can be left alone."""

    mode: str | None = None
    """What bounds the seconds of a step: `slo`, `fixed` or `off`. Default: `fixed` if
    latency_budget_s is set and slos is not, else `slo`. `off` is online first without a gate:
    offline work fills whatever tokens, slots and KV blocks the online class leaves."""

    slos: list[str] | None = None
    """Mode `slo`: latency targets of the online class, such as `tbt_p99=45ms`, `ttft_mean=+10%`.
    Metrics ttft and tbt, statistics mean, p50, p90, p95 and p99; a percentage is relative to the
    same online requests served alone. All are kept at once; a metric without a target is not
    looked after. Default: tbt_mean=+20% and ttft_mean=+20%."""

    slo_reference: str | None = None
    """Mode `slo`: JSON file with what online has when it is served alone, for relative targets:
    made by `hygen tune` or `hygen simulate --policy online-only`. Default: online-alone.json in the
    profile's folder, if it is there; else estimated while serving, which follows the load."""

    slo_window_s: float = 900.0
    """Mode `slo`: the time over which the targets are kept, whenever it begins. A fifteenth of it
    is the most that can be saved up in a quiet time."""

    latency_budget_s: float | None = None
    """Mode `fixed`: seconds one step may take, with or without online work in it (HyGen, section
    4). Offline work gets what online leaves of it; online itself is never gated."""

    idle_step_s: float = 0.1
    """Mode `slo`: seconds a step may take while no online request is in it, or where those in it
    only wait for their first token. The next online arrival waits for at most one such step (two
    with asynchronous scheduling). Twice the smallest step that this engine can make is allowed,
    too, unless a target for TTFT says less. Not kept before the first online request: an engine for
    batch work alone takes full steps."""

    default_class: str = "online"
    """Class of a request without a label: `online` or `offline`."""

    offline_priority_above: int | None = None
    """Requests with a priority above this are offline. Default: 0 under vLLM's fcfs policy, where
    priority has no other meaning; under vLLM's priority policy, none."""

    offline_order: str = "prefix"
    """Order of the waiting offline requests: `prefix` admits those that share a prefix together, so
    that it is computed once (prefix sharing maximisation; needs vLLM's prefix caching), `fcfs` is
    first come, first served. Under vLLM's priority policy, among requests of equal priority."""

    offline_max_wait_s: float | None = 3600.0
    """An offline request that has waited longer is the next to be admitted, whatever its prefix;
    of several the oldest, with some that share its prefix. Among its tenant's, and under vLLM's
    priority policy among those of equal priority. null: no bound."""

    tenant_weights: dict[str, float] | None = None
    """Shares of the offline tokens by tenant (the label `tenant` in vllm_xargs), where several have
    work; 1 for a tenant that is not named. Requests without the label belong to one tenant, ""."""

    offload_online: bool = False
    """With vLLM's KV offloading (--kv-offloading-size): whether KV of online requests is offloaded
    while the engine has offline work, too. By default the room there is for offline requests, which
    find their KV there when they were preempted."""

    offline_rate_per_s: float | None = None
    """Offline requests that may start in a second, for comparison with rate-capped serving (HyGen*
    in the paper) and for sparing what comes behind the engine. Default: no cap. Requests that were
    preempted start again without counting."""

    min_chunk_tokens: int = 16
    """Smallest offline prefill chunk worth a place in a step; what fits less waits."""

    profile: str | None = None
    """Folder made by `hygen profile`, or name of a profile that ships: what a step costs on this
    engine. Refused at start if it is for another model, dtype, parallelism or device. Default:
    none; the scheduler starts carefully and learns from its own steps, as it does from a profile
    on."""

    trace: str | None = None
    """CSV file in which every step is recorded (`price.trace`), for `hygen fit` and
    `hygen evaluate`. A file that exists is kept; NAME.1.csv is the next. Default: none;
    recording takes some 4 us a step, and every step is looked at instead of one in four."""

    trace_max_steps: int = 200_000
    """Steps after which recording ends; 200,000 take about 20 MB."""

    def __post_init__(self) -> None:
        check_types(self)
        _check_choice("mode", self.mode, (None, *MODES))
        _check_choice("default_class", self.default_class, [c.value for c in RequestClass])
        _check_choice("offline_order", self.offline_order, ORDERS)
        _check_slos(self.slos)
        _check_weights(self.tenant_weights)
        _check_above("slo_window_s", self.slo_window_s, 0.001, "the default is 900")
        _check_above("latency_budget_s", self.latency_budget_s, 0, "set null for latency targets")
        _check_above("idle_step_s", self.idle_step_s, 0, "the default is 0.1")
        _check_above("offline_rate_per_s", self.offline_rate_per_s, 0, "set null for no cap")
        _check_above("offline_max_wait_s", self.offline_max_wait_s, 0, "set null for no bound")
        _check_above("min_chunk_tokens", self.min_chunk_tokens, 0, "the default is 16")
        _check_above(
            "trace_max_steps", self.trace_max_steps, 0, "leave out trace to record nothing"
        )
        if self.mode == "fixed" and self.latency_budget_s is None:
            raise ConfigError(
                'mode "fixed" needs latency_budget_s (seconds one step may take); '
                "set it or leave out the mode"
            )
        if self.slos and self.gate_mode != "slo":
            raise ConfigError(
                f'slos = {self.slos} has no effect in mode "{self.mode}"; remove it or the mode'
            )
        if self.slo_reference is not None and self.gate_mode != "slo":
            raise ConfigError(f'slo_reference has no effect in mode "{self.gate_mode}"; remove it')
        if self.gate_mode != "fixed" and self.latency_budget_s is not None:
            raise ConfigError(
                f"latency_budget_s = {self.latency_budget_s} has no effect in mode "
                f'"{self.gate_mode}"; remove it or set mode "fixed"'
            )

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
            check_keys(values, cls)
            return cls(**values)
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
            raise ConfigError(f"{path} must hold key: value pairs, got {_kind(values)}")
        return cls.from_mapping(with_mode_off(values), path)

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
                f"got {_kind(section)}"
            )
        if environ.get(CONFIG_ENV):
            return cls.from_file(environ[CONFIG_ENV])
        return cls()


def check_keys(values: typing.Iterable[object], kind: type) -> None:
    """Raise ConfigError for a key that is no field of a dataclass."""
    known = [field.name for field in dataclasses.fields(kind)]
    for key in values:
        if key in GONE and kind is HyGenConfig:
            raise ConfigError(f"{key} is no setting any more: {GONE[str(key)]}; remove it")
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f'did you mean "{close[0]}"? ' if close else ""
            raise ConfigError(f"unknown key {key!r}; {hint}valid keys: {', '.join(known)}")


def check_types(settings: Any) -> None:
    """Raise ConfigError for a field of a dataclass whose value is not of the type it says."""
    types_of_fields = typing.get_type_hints(type(settings))
    for each in dataclasses.fields(settings):
        _check_type(each, getattr(settings, each.name), types_of_fields[each.name])


def with_mode_off(values: JsonView) -> Json:
    """Return settings that YAML 1.1 has read: to it an unquoted off is false."""
    return {**values, "mode": "off"} if values.get("mode") is False else {**values}


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


def _check_type(field: "dataclasses.Field[Any]", value: object, kind: object) -> None:
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    allowed = tuple(typing.get_origin(each) or each for each in kinds)
    accepted = (*allowed, int) if float in allowed else allowed
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in allowed):
        names = " or ".join("null" if k is type(None) else _TYPE_NAMES[k] for k in allowed)
        remedy = ""
        if field.default is not dataclasses.MISSING:
            remedy = f"; leave it out for the default, {json.dumps(field.default)}"
        raise ConfigError(f"{field.name} must be {names}, got {value!r} ({_kind(value)}){remedy}")


def _check_slos(slos: list[str] | None) -> None:
    found: set[tuple[str, str]] = set()
    for text in slos or ():
        if not isinstance(text, str):
            raise ConfigError(f"slos: each must be a text such as tbt_p99=45ms, got {text!r}")
        try:
            slo = Slo.parse(text)
        except ValueError as error:
            raise ConfigError(f"slos: {error}") from None
        if (slo.metric, slo.statistic) in found:
            raise ConfigError(f"slos has two targets for {slo.metric}_{slo.statistic}")
        found.add((slo.metric, slo.statistic))


def _check_weights(weights: dict[str, float] | None) -> None:
    for tenant, weight in (weights or {}).items():
        if not isinstance(tenant, str):
            raise ConfigError(f"tenant_weights: names are strings, got {tenant!r}; quote it")
        is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not (is_number and 0 < weight <= sys.float_info.max):
            raise ConfigError(f"tenant_weights: {tenant} must be a number > 0, got {weight!r}")


def _check_choice(field: str, value: object, choices: typing.Iterable[str | None]) -> None:
    choices = list(choices)
    if value not in choices:
        names = [choice for choice in choices if choice is not None]
        close = difflib.get_close_matches(str(value), names, n=1)
        hint = f'; did you mean "{close[0]}"?' if close else ""
        raise ConfigError(f"{field} must be one of {', '.join(names)}, got {value!r}{hint}")


def _check_above(field: str, value: float | None, limit: float, remedy: str) -> None:
    if value is not None and not limit < value <= sys.float_info.max:
        raise ConfigError(f"{field} must be > {limit} and finite, got {value}; {remedy}")


_TYPE_NAMES = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    list: "a list of strings",
    dict: "key: value pairs",
    bool: "true or false",
}


def _kind(value: object) -> str:
    return type(value).__name__
