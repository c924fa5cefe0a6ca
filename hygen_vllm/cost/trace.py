# SPDX-License-Identifier: Apache-2.0
"""Step traces: what was in each step of an engine, and how long it took. lab/profile reads them.

A trace is a CSV file; one that ends in .gz is read, never written, as gzip. The first line is "# "
and a JSON object with `format`, `version`, `engine` (EngineInfo) and, from the profiler, `plan`;
the second names the columns:

    step            number of the step, from 1
    completed_s     when it completed, seconds since the trace began
    FEATURES        the sums of its StepComposition
    predicted_s     seconds predicted before it was measured; empty if nothing was known
    seconds         measured, from completion to completion; idle time is in no step
    is_steady       0 where that is in part a neighbour's time; see step.feedback
    batch           profiler only: steps of one number had the same composition
    visit           profiler only: steps measured in a row
"""

import errno
import itertools
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from hygen_vllm.config import ConfigError
from hygen_vllm.cost.composition import FEATURES, StepComposition
from hygen_vllm.cost.engine_info import EngineInfo
from hygen_vllm.json_types import JsonView

logger = logging.getLogger("vllm.hygen")

FORMAT = "hygen-step-trace"
VERSION = 1
"""Of the file's format."""
COLUMNS = (
    "step",
    "completed_s",
    *FEATURES,
    "predicted_s",
    "seconds",
    "is_steady",
    "batch",
    "visit",
)


@dataclass(frozen=True, slots=True)
class TracedStep:
    """A row of a trace; see the module docstring."""

    step: int
    completed_s: float
    composition: StepComposition
    predicted_s: float | None
    seconds: float
    is_steady: bool = True


class TraceWriter:
    """Appends steps to a trace file, until it holds `max_steps` or cannot be written to.

    A file that exists is never touched: NAME.csv, NAME.1.csv, NAME.2.csv, ... the first free one
    is made, so that a restart loses nothing and several engines may share a setting.

    Each step is written at once.

    Args: started_s: the time that `completed_s` counts from.
    Raises: ConfigError if no file can be made there.
    """

    def __init__(
        self,
        path: str | Path,
        engine: EngineInfo,
        max_steps: int,
        started_s: float,
    ) -> None:
        check_trace_path(path)
        with _one_line_errors(path):
            self._file = _open_new(Path(path).expanduser())
            self._file.write(header(engine))
        self.path = Path(self._file.name)
        self._steps_left = max_steps
        self._started_s = started_s

    def record(self, step: TracedStep) -> None:
        """Append a step; does nothing once the file is full."""
        if self._steps_left <= 0:
            return
        try:
            self._file.write(row(step, started_s=self._started_s))
        except OSError as error:
            logger.warning("Recording of steps ends: cannot write %s: %s", self.path, error)
            self._steps_left = 0
        self._steps_left -= 1

    def close(self) -> None:
        """Record nothing more."""
        self._steps_left = 0
        with suppress(OSError):  # record() has said so
            self._file.close()


def header(engine: EngineInfo, plan: JsonView | None = None) -> str:
    """Return the first two lines of a trace; `plan` says what a profiler wants to measure."""
    head = {"format": FORMAT, "version": VERSION, "engine": engine.as_mapping()}
    if plan is not None:
        head["plan"] = dict(plan)
    return f"# {json.dumps(head)}\n{','.join(COLUMNS)}\n"


def row(
    step: TracedStep, started_s: float = 0.0, batch: int | str = "", visit: int | str = ""
) -> str:
    """Return the line of a step."""
    predicted = "" if step.predicted_s is None else f"{step.predicted_s:.6g}"
    sums = ",".join(f"{value:.12g}" for value in step.composition.features())
    return (
        f"{step.step},{step.completed_s - started_s:.6f},{sums},"
        f"{predicted},{step.seconds:.6g},{step.is_steady:d},{batch},{visit}\n"
    )


def check_trace_path(path: str | Path) -> None:
    """Make the folder of a trace. Raises ConfigError if no file can be made there by anyone."""
    with _one_line_errors(path):
        path = Path(path).expanduser()
        if path.suffix == ".gz":
            raise ValueError("it is plain text; leave out .gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@contextmanager
def _one_line_errors(path: str | Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"cannot write trace {path}: {reason}") from None


def _open_new(path: Path) -> TextIO:
    """Open the first of NAME.csv, NAME.1.csv, ... that does not exist."""
    for number in itertools.count():
        name = path.with_name(f"{path.stem}.{number}{path.suffix}") if number else path
        with suppress(FileExistsError):
            return name.open("x", encoding="utf-8", buffering=1)
    raise AssertionError(path)
