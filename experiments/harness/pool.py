# SPDX-License-Identifier: Apache-2.0
"""Does runs, several at a time, each once: what the same code did before is read again."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from harness.experiment import Case, Done
from harness.store import path_of, read, write
from harness.tasks import TASKS
from tqdm import tqdm

from hygen_vllm.lab.simulator.many_runs import in_processes

DAY_S = 86400.0


class Pool:
    """Runs cases of any number of experiments; equal ones once.

    Args:
        jobs: at a time; None for as many as there are cores.
    """

    def __init__(self, jobs: int | None = None) -> None:
        self._jobs = jobs

    def run(self, cases: Sequence[Case]) -> list[Done]:
        """Return what came of cases, in their order.

        Raises: RuntimeError with the case that failed; those that ended are kept.
        """
        wanted = {_path(case): case for case in cases}
        missing = [(path, case) for path, case in wanted.items() if not path.exists()]
        missing.sort(key=lambda item: -_seconds(item[1]))  # no long one is the last
        bar = tqdm(
            total=len(wanted), initial=len(wanted) - len(missing), unit="run", file=sys.stderr
        )
        with bar:
            for _ in in_processes(_do, missing, self._jobs):
                bar.update()
        return [_read(case) for case in cases]


def _seconds(case: Case) -> float:
    """Return how long a run is, as far as its flags say."""
    flags = case.flags.get("simulation", case.flags)
    return float(flags.get("seconds") or DAY_S * flags.get("days", 0.0))


def _do(item: tuple[Path, Case]) -> None:
    path, case = item
    started_s = time.perf_counter()
    figures, kept = TASKS[case.task](case.flags)
    result = {
        "figures": figures,
        "kept": {name: kept[name] for name in case.keeps},
        "wall_s": time.perf_counter() - started_s,
    }
    write(path, result)


def _read(case: Case) -> Done:
    result = read(_path(case))
    return Done(case, result["figures"], result["kept"], result["wall_s"])


def _path(case: Case) -> Path:
    return path_of(case.task, dict(case.flags), case.keeps)
