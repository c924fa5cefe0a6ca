# SPDX-License-Identifier: Apache-2.0
"""Keeps the terminal for progress bars and results while vLLM's processes print into a log."""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO


@dataclass(frozen=True)
class Terminal:
    """Where a person looks: results go to stdout, progress and diagnostics to stderr."""

    stdout: TextIO
    stderr: TextIO


@contextlib.contextmanager
def engine_log(path: Path) -> Iterator[Terminal]:
    """Send whatever this process and its children print to a file; yield the real terminal."""
    with contextlib.ExitStack() as stack:
        sys.stdout.flush()
        sys.stderr.flush()
        terminal = Terminal(*(stack.enter_context(_duplicate(fd)) for fd in (1, 2)))
        log = stack.enter_context(path.open("w", encoding="utf-8"))
        stack.callback(_point_at, terminal.stdout.fileno(), terminal.stderr.fileno())
        _point_at(log.fileno(), log.fileno())
        yield terminal


def _duplicate(fd: int) -> TextIO:
    return os.fdopen(os.dup(fd), "w", encoding="utf-8")


def _point_at(stdout_fd: int, stderr_fd: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(stdout_fd, 1)
    os.dup2(stderr_fd, 2)
