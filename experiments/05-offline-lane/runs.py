# SPDX-License-Identifier: Apache-2.0
"""What experiments of this folder share: prefix hits without end, tables of what was measured."""

import csv
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
A100_LLAMA2 = "profiles/a100/llama2-7b/*.json"


def simulated(script: str, *profiles: str) -> list[str]:
    """Return what a simulation by a script of this folder measures, see harness/provenance.py."""
    here = f"experiments/{HERE.name}"
    return ["simulates", f"{here}/{Path(script).name}", f"{here}/runs.py", *profiles]


def infinite_hits(prompts: Iterable[Sequence[int]], block_size: int) -> float:
    """Return the share of prompt tokens that a cache which forgets nothing would have."""
    seen: set[int] = set()
    num_tokens = num_cached = 0
    for tokens in prompts:
        num_tokens += len(tokens)
        prefix = 0
        for start in range(0, len(tokens) - block_size, block_size):
            prefix = hash((prefix, *tokens[start : start + block_size]))
            num_cached += block_size * (prefix in seen)
            seen.add(prefix)
    return num_cached / num_tokens


def write_rows(path: Path | None, rows: Sequence[Mapping[str, Any]]) -> None:
    """Show a table as CSV, and write it if there is a path."""
    with path.open("w", encoding="utf-8", newline="") if path else nullcontext() as file:
        for stream in filter(None, (sys.stdout, file)):
            writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read what `write_rows` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
