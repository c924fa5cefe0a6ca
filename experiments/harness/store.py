# SPDX-License-Identifier: Apache-2.0
"""What the same code came to before, by what was asked of it."""

import hashlib
import json
import os
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness.provenance import DECIDES, ROOT

from hygen_vllm.lab.workloads import data_dir

CACHE = ROOT / ".cache" / "experiments"


def path_of(*what: Any) -> Path:
    """Return the file for what this code comes to, with this data, for anything that is JSON."""
    text = json.dumps([what, str(data_dir()), _code()], sort_keys=True)
    return CACHE / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"


def read(path: Path) -> Any:
    """Return what was written."""
    return json.loads(path.read_text(encoding="utf-8"))


def write(path: Path, value: Any) -> None:
    """Write JSON, all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(value), encoding="utf-8")
    part.rename(path)


@cache
def _code() -> str:
    """Return what tells this code from any other: another one may come to other results."""
    files = sorted((ROOT / "hygen_vllm").rglob("*.py"))
    files += sorted((ROOT / "profiles").glob("*/*/*.json"))
    files += sorted((ROOT / "profiles").glob("*/*/trace.csv.gz"))
    files += [ROOT / name for name in DECIDES]
    digest = hashlib.sha256(version("vllm").encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()
