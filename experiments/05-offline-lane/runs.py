# SPDX-License-Identifier: Apache-2.0
"""Runs of `hygen simulate` for the experiments of this folder, and tables of what came of them."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tqdm import tqdm

HERE = Path(__file__).parent
RESULT = "result.json"

Flags = Mapping[str, Any]
"""Flags of the command by name, `kv_blocks` for --kv-blocks; a list for one that is repeated."""


def simulate(flags: Flags) -> dict[str, Any]:
    """Return the result of a run."""
    command = [sys.executable, "-m", "hygen_vllm.cli", "simulate", "--json", "-"]
    for name, value in flags.items():
        for each in value if isinstance(value, list) else [value]:
            command += [f"--{name.replace('_', '-')}", str(each)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def simulate_all(cases: Sequence[Flags]) -> list[dict[str, Any]]:
    """Simulate as many runs at a time as there are cores; the order stays."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(tqdm(pool.map(simulate, cases), total=len(cases), unit="run", file=sys.stderr))


def run_apart(command: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run a script that writes JSON to RESULT in a folder, in a process of its own."""
    log = folder / "log"
    with log.open("w") as file:
        done = subprocess.run([sys.executable, *command], stdout=file, stderr=file, check=False)
    if done.returncode:
        sys.exit(log.read_text()[-6000:])
    found: dict[str, Any] = json.loads((folder / RESULT).read_text())
    return found


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
