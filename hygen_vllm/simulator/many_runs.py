# SPDX-License-Identifier: Apache-2.0
"""Many runs of `hygen simulate`, each in its own process, as many at a time as there are cores.

simulate_all([{"profile": "a100-llama3-8b", "policy": policy, ...} for policy in policies])
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tqdm import tqdm

Flags = Mapping[str, Any]
"""Flags of the command by name, `kv_blocks` for --kv-blocks; a list for one that is repeated."""


def simulate(flags: Flags) -> dict[str, Any]:
    """Return the result of a run. Raises RuntimeError with what the command said if it failed."""
    command = [sys.executable, "-m", "hygen_vllm.cli", "simulate", "--json", "-"]
    for name, value in flags.items():
        for each in value if isinstance(value, list) else [value]:
            command += [f"--{name.replace('_', '-')}", str(each)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def simulate_all(cases: Sequence[Flags]) -> list[dict[str, Any]]:
    """Return the results of runs, in the order of these."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(tqdm(pool.map(simulate, cases), total=len(cases), unit="run", file=sys.stderr))
