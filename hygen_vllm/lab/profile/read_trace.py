# SPDX-License-Identifier: Apache-2.0
"""Reads step traces, which cost/trace.py writes."""

import gzip
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hygen_vllm.cost.composition import FEATURES
from hygen_vllm.cost.engine_info import EngineInfo
from hygen_vllm.cost.trace import FORMAT, VERSION
from hygen_vllm.files import one_line_errors

if TYPE_CHECKING:
    import pandas as pd

REQUIRED = (*FEATURES, "seconds")


def read_trace(path: str | Path) -> "tuple[EngineInfo, pd.DataFrame]":
    """Return the engine and the steps of a trace, without those that were not measured right.

    A last line that was cut off is left out, as are steps whose time is not finite and > 0, or not
    their own.

    Raises: ConfigError, one line, if the file is no trace or is damaged.
    """
    with one_line_errors(f"trace {path}", f"{path}", f"{FORMAT} {VERSION}"):
        engine, table = _parse(_text(Path(path).expanduser()))
    usable = is_measured(table["seconds"].to_numpy())
    if "is_steady" in table:
        usable &= table["is_steady"].to_numpy() != 0
    return engine, table[usable].reset_index(drop=True)


def is_measured(seconds: Any) -> Any:
    """Return which of the times can be used, bool (num_steps,): those finite and > 0."""
    seconds = np.asarray(seconds, dtype=np.float64)
    return np.isfinite(seconds) & (seconds > 0)


def features_of(table: "pd.DataFrame") -> Any:
    """Return the matrix X of a trace, float64 (num_steps, len(FEATURES))."""
    return table[list(FEATURES)].to_numpy(dtype=np.float64)


def _text(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")


def _parse(text: str) -> "tuple[EngineInfo, pd.DataFrame]":
    import pandas as pd

    first, _, rest = text.partition("\n")
    if not first.startswith("# {"):
        raise ValueError("its first line is not a header")
    head = json.loads(first[2:])
    if (head["format"], head["version"]) != (FORMAT, VERSION):
        raise ValueError(f"format is {head['format']} {head['version']}")
    lines = rest[: rest.rfind("\n") + 1].splitlines()
    for number, line in enumerate(lines, start=2):
        if line.count(",") != lines[0].count(","):
            raise ValueError(f"line {number} has another number of cells than line 2")
    table = pd.read_csv(io.StringIO("\n".join(lines)), index_col=False)
    missing = [name for name in REQUIRED if name not in table]
    if missing:
        raise ValueError(f"no column {', '.join(missing)}")
    table = table.astype(dict.fromkeys(REQUIRED, float))
    sums = features_of(table)
    if not (np.isfinite(sums).all() and (sums >= 0).all()):
        raise ValueError("a sum is negative or no number")
    return EngineInfo.from_mapping(head["engine"]), table
