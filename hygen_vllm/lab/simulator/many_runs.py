# SPDX-License-Identifier: Apache-2.0
"""Many runs of `hygen simulate`, as many at a time as there are cores.

simulate_all([{"profile": "a100-llama3-8b", "policy": policy, ...} for policy in policies])
"""

import io
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr
from multiprocessing import forkserver, get_context, parent_process
from typing import Any, TypeVar

from tqdm import tqdm

from hygen_vllm.command_line import OneLineParser

T = TypeVar("T")
R = TypeVar("R")
Flags = Mapping[str, Any]
"""Flags of the command by name, `kv_blocks` for --kv-blocks; a list for one that is repeated, True
for one without a value, None for one that is left out."""
QUIET = {"TQDM_DISABLE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "OMP_NUM_THREADS": "1"}
"""What processes that simulate find in their environment, so that they say nothing."""


def arguments_of(flags: Flags) -> list[str]:
    """Return the arguments of the command."""
    found = ["simulate", "--json", "-"]
    for name, value in flags.items():
        for each in value if isinstance(value, list) else [value]:
            if each is not None and each is not False:
                found += [f"--{name.replace('_', '-')}", *([] if each is True else [str(each)])]
    return found


def simulate(flags: Flags) -> dict[str, Any]:
    """Return the result of a run, of which nothing is said on stderr.

    Raises: RuntimeError with the command and what is wrong.
    """
    logging.getLogger("vllm").setLevel(logging.ERROR)
    from hygen_vllm.lab.simulator.arguments import add_simulate, options_of
    from hygen_vllm.lab.simulator.command import simulated_result

    parser = OneLineParser(prog="hygen")
    add_simulate(parser.add_subparsers())
    arguments, said = arguments_of(flags), io.StringIO()
    try:
        with redirect_stderr(said):
            return simulated_result(options_of(parser.parse_args(arguments)))
    except (SystemExit, ValueError, OSError, RuntimeError) as error:
        reason = said.getvalue().strip() or error
        raise RuntimeError(f"hygen {' '.join(arguments)}: {reason}") from error


def import_for_processes(module: str) -> None:
    """Begin to import a module for what in_processes will begin, while this process does else.

    Each would import it anew, and vLLM takes ten seconds.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    forkserver.set_forkserver_preload([module])
    forkserver.ensure_running()


def in_processes(
    function: Callable[[T], R], items: Sequence[T], jobs: int | None = None
) -> Iterator[tuple[int, R]]:
    """Yield (number, what a function returns) of items, as they end.

    Args:
        function: of a module, so that another process finds it.
        jobs: at a time; None for as many as there are cores.
    """
    import_for_processes(function.__module__)
    context = get_context("forkserver")
    with ProcessPoolExecutor(jobs or os.cpu_count(), context, _end_with_parent) as pool:
        running = {pool.submit(function, item): number for number, item in enumerate(items)}
        try:
            for done in as_completed(running):
                yield running[done], done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _end_with_parent() -> None:
    """End this process with the one that wants it, which may be killed before it can say so."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def simulate_all(cases: Sequence[Flags], jobs: int | None = None) -> list[dict[str, Any]]:
    """Return the results of runs, in the order of these, and show a bar meanwhile."""
    ended = in_processes(simulate, cases, jobs)
    results = dict(tqdm(ended, total=len(cases), unit="run", file=sys.stderr))
    return [results[number] for number in range(len(cases))]
