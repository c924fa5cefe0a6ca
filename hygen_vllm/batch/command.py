# SPDX-License-Identifier: Apache-2.0
"""`hygen batch run`: a file of requests through an application, and what came of it."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from hygen_vllm.batch.batch_file import BatchRow, bad_row, read_rows, result_row
from hygen_vllm.batch.online_watch import OnlineWatch
from hygen_vllm.batch.results_file import ResultsFile
from hygen_vllm.json_types import Json
from hygen_vllm.openai_request import OpenAiRequest

INTERRUPTED = 130
"""Exit status."""


@dataclass
class _Tally:
    """What a run of the command has done."""

    num_done: int = 0
    num_tokens: int = 0

    def count(self, result: Json) -> None:
        self.num_done += 1
        usage = result.get("response", {}).get("usage") or {}
        self.num_tokens += usage.get("total_tokens") or 0


def run_file(arguments: argparse.Namespace) -> None:
    """Run the command. Raises OSError, ValueError for bad input, RuntimeError if Ray is not there.

    The file is read whole before anything is sent: bad rows get their error at once.
    """
    with arguments.input.open("rb") as lines:
        rows = list(read_rows(lines))
    output = ResultsFile(arguments.out, resume=arguments.resume)
    try:
        wanted = _write_bad_rows(rows, output)
        left = [(name, request) for name, request in wanted if name not in output.done]
        skipped = len(wanted) - len(left)
        if skipped:
            sys.stderr.write(f"{skipped} of {len(wanted)} results are there already\n")
        with _ends_at_once(output, arguments.out):
            _send(left, output, arguments)
    finally:
        output.close()


@contextmanager
def _ends_at_once(output: ResultsFile, path: Path) -> Iterator[None]:
    """Let Ctrl-C end this process at once: Ray would wait for what is under way.

    The pool hears of it no more and drops that; each result that came is on disk.
    """

    def end(*_: object) -> None:
        sys.stderr.write(
            f"\ninterrupted: {len(output.done)} results are in {path}; --resume goes on with it\n"
        )
        sys.stderr.flush()
        os._exit(INTERRUPTED)

    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _write_bad_rows(rows: list[BatchRow], output: ResultsFile) -> list[tuple[str, OpenAiRequest]]:
    """Write errors for the rows that are no requests; return the others."""
    wanted = []
    without_name = None in output.done
    for row in rows:
        if row.custom_id is not None and row.request is not None:
            wanted.append((row.custom_id, row.request))
        elif row.custom_id is not None or not without_name:
            output.write(bad_row(row))
    return wanted


def _send(
    left: list[tuple[str, OpenAiRequest]], output: ResultsFile, arguments: argparse.Namespace
) -> None:
    tally = _Tally()
    meanwhile: list[str] = []
    started_s = time.monotonic()
    if left:
        from hygen_vllm.batch.job import check_application, connect, pool_status, run_rows

        connect(arguments.address)
        check_application(arguments.app)
        watch = OnlineWatch(lambda: pool_status(arguments.app))
        watch.look()
        with tqdm(total=len(left), unit="request", file=sys.stderr) as bar:
            for custom_id, result in run_rows(left, arguments.app, arguments.concurrency):
                watch.look_if_due()
                bar.set_postfix_str(watch.place, refresh=False)
                if output.write(result_row(custom_id, result)):
                    tally.count(result)
                    bar.update()
        watch.look()
        meanwhile = watch.report()
    seconds = time.monotonic() - started_s
    sys.stdout.write(
        f"{tally.num_done} results in {seconds:.1f} s, {tally.num_tokens / max(seconds, 1e-9):.0f} "
        f"tokens/s; {len(output.done)} in {arguments.out}, {output.num_failed} of them errors\n"
    )
    sys.stdout.writelines(f"{line}\n" for line in meanwhile)
