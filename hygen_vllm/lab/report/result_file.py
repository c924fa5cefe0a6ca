# SPDX-License-Identifier: Apache-2.0
"""Reads result files and checks their form, so that whoever shows them need not.

The form is the one of `simulator/figures.py`. `details` may be missing: then there are figures but
nothing to draw.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hygen_vllm.config import ConfigError
from hygen_vllm.files import one_line_errors

FORMAT, VERSION = "hygen-result", 1
KINDS = ("simulated", "measured")
LARGEST = 1e15
"""Of all numbers in a result."""
EACH = "*"
"""In a form: every member, whatever its name."""

_NUMBER_OR_NULL = (float, type(None))
_STATS = dict.fromkeys(("mean", "p50", "p90", "p99"), _NUMBER_OR_NULL)
_SLO = {
    "slo": str,
    "limit_s": _NUMBER_OR_NULL,
    "measured_s": _NUMBER_OR_NULL,
    "met": (bool, type(None)),
}
_FIGURES = {
    "policy": str,
    "profile": str,
    "seed": int,
    "virtual_s": float,
    "online": {"finished": int, "tokens_per_s": float, "ttft_s": _STATS, "tbt_s": _STATS},
    "offline": {
        "finished": int,
        "tokens_per_s": float,
        "prefix_hit_rate": float,
        "preemptions": int,
    },
    "total_tokens_per_s": float,
    "slo": [_SLO],
}
_ENGINE = {
    **dict.fromkeys(("model", "dtype", "device"), str),
    **dict.fromkeys(("tensor_parallel", "pipeline_parallel", "block_size", "num_kv_blocks"), int),
    **dict.fromkeys(("max_num_batched_tokens", "max_num_seqs", "max_model_len"), int),
    "is_async": bool,
}
_RATES = ("online_arrivals_per_s", "online_tokens_per_s", "offline_tokens_per_s")
_SHARES = ("online_kv_share", "offline_kv_share")
_DETAILS = {
    "kind": str,
    "policy": str,
    "settings": {},
    "engine": _ENGINE,
    "workload": {"online": str, "offline": str},
    "shortened": int,
    "options": {},
    "arrived": {"online": int, "offline": int},
    "unserved": int,
    "predictor_mape": _NUMBER_OR_NULL,
    "quantiles": {name: [float] for name in ("levels", "ttft_s", "tbt_s")},
    "series": {
        "bin_s": float,
        **{name: [float] for name in ("time_s", *_RATES)},
        **{name: [_NUMBER_OR_NULL] for name in ("step_s", "limit_s")},
        "samples": {
            **{name: [float] for name in ("time_s", *_SHARES)},
            "refusals": {EACH: [int]},
        },
    },
}

_NUM_SAMPLES = dict.fromkeys(("ttft_s", "tbt_s"), int)
"""May be missing."""


@dataclass(frozen=True)
class Result:
    """A checked result.

    Args:
        figures: the members of the file, but `details`.
        details: None where the file has none.
    """

    path: Path
    figures: Mapping[str, Any]
    details: Mapping[str, Any] | None

    @property
    def path_text(self) -> str:
        """The path as it can be shown."""
        return str(_printable(str(self.path)))

    @property
    def policy(self) -> str:
        return str(self.figures["policy"])

    @property
    def kind(self) -> str | None:
        return None if self.details is None else str(self.details["kind"])


def read_result(path: Path) -> Result:
    """Return the result in a file. Raises ConfigError, one line that names the file."""
    kind = f"{FORMAT} {VERSION}"
    with one_line_errors(f"result {path}", str(path), kind):
        document = _printable(json.loads(path.read_text(encoding="utf-8")))
        if not isinstance(document, dict):
            raise TypeError("it is not a JSON object")
        _check(document, _FIGURES, "")
        details = document.pop("details", None)
        if details is not None:
            _check_details(details)
        return Result(path, document, details)


def read_results(paths: list[Path]) -> list[Result]:
    """Return the results in their order. Raises ConfigError, also if a file is named twice."""
    for number, path in enumerate(paths):
        if path in paths[:number]:
            raise ConfigError(f"result {path} is named twice")
    return [read_result(path) for path in paths]


def _check_details(details: Any) -> None:
    _check(details, {"format": str, "version": int}, "details")
    if (details["format"], details["version"]) != (FORMAT, VERSION):
        raise ValueError(
            f"details say {details['format']} {details['version']}; make it again with: "
            "hygen simulate"
        )
    _check(details, _DETAILS, "details")
    if "num_samples" in details:
        _check(details["num_samples"], _NUM_SAMPLES, "details.num_samples")
    if details["kind"] not in KINDS:
        raise ValueError(f"details.kind must be {' or '.join(KINDS)}, got {details['kind']!r}")
    series, quantiles = details["series"], details["quantiles"]
    samples = series["samples"]
    _check_lengths(series, "time_s", "details.series")
    _check_lengths({**samples, **samples["refusals"]}, "time_s", "details.series.samples")
    known = {name: values for name, values in quantiles.items() if values}
    _check_lengths(known, "levels", "details.quantiles")


def _check_lengths(lists: Mapping[str, Any], first: str, where: str) -> None:
    """Raise ValueError unless all lists are as long as the first."""
    length = len(lists.get(first, ()))
    for name, values in lists.items():
        if isinstance(values, list) and len(values) != length:
            raise ValueError(f"{where}.{name} has {len(values)} members, {first} has {length}")


def _check(value: Any, form: Any, where: str) -> None:
    """Raise ValueError or TypeError unless a value has a form; it may have more members."""
    if isinstance(form, dict):
        if not isinstance(value, dict):
            raise TypeError(f"{where} must be an object")
        for name in value if EACH in form else form:
            inner = f"{where}.{name}".lstrip(".")
            if name not in value:
                raise ValueError(f"no {inner}")
            _check(value[name], form.get(name, form.get(EACH)), inner)
    elif isinstance(form, list):
        if not isinstance(value, list):
            raise TypeError(f"{where} must be a list")
        for number, member in enumerate(value):
            _check(member, form[0], f"{where}[{number}]")
    elif not _is_one_of(value, form if isinstance(form, tuple) else (form,)):
        raise ValueError(f"{where} must not be {str(value)[:40]!r}")


def _is_one_of(value: Any, kinds: tuple[type, ...]) -> bool:
    """Return whether a value has one of the kinds; an int is a float too, a bool is neither."""
    if type(value) in (int, float):
        return (float in kinds or type(value) in kinds) and abs(value) <= LARGEST
    return type(value) in kinds


def _printable(value: Any) -> Any:
    """Return a JSON value with a space for each character in it that cannot be shown."""
    if isinstance(value, str):
        return "".join(letter if letter.isprintable() else " " for letter in value)
    if isinstance(value, list):
        return [_printable(member) for member in value]
    if isinstance(value, dict):
        return {_printable(name): _printable(member) for name, member in value.items()}
    return value
