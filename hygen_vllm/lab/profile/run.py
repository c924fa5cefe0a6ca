# SPDX-License-Identifier: Apache-2.0
"""Profiles an engine: every batch shape several times in random order, then the fit.

Each visit to a shape is written to DIR/trace.csv before the next begins. When its time is over the
profiler fits what it has: every shape is visited once before any is visited again. Started again
with the same arguments, it goes on with the visits that are missing.
"""

import math
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hygen_vllm.config import ConfigError
from hygen_vllm.cost.engine_info import EngineInfo
from hygen_vllm.cost.trace import header, row
from hygen_vllm.files import naming, write_text
from hygen_vllm.lab.profile.batch_shapes import NUM_STEPS, BatchShape, design
from hygen_vllm.lab.profile.read_trace import read_trace

WARM_UP_VISITS = 5


@dataclass(frozen=True)
class ProfileOptions:
    """What `hygen profile` was asked for."""

    engine_args: Any
    """vLLM's EngineArgs."""
    out_dir: Path
    num_mixes: int
    num_repeats: int
    seed: int
    max_minutes: float = math.inf
    """Time to measure; what is missing then can be measured by another start."""

    @property
    def trace(self) -> Path:
        return self.out_dir / "trace.csv"


@dataclass(frozen=True)
class Visit:
    """One of the visits to a shape; numbered in the order in which they are made."""

    number: int
    shape: int


def plan_visits(num_shapes: int, num_repeats: int, seed: int) -> list[Visit]:
    """Return the visits: all shapes in a random order, then all again in another, and so on."""
    rng = random.Random(seed)
    shapes: list[int] = []
    for _ in range(num_repeats):
        shapes += rng.sample(range(num_shapes), num_shapes)
    return [Visit(number, shape) for number, shape in enumerate(shapes)]


def measure(options: ProfileOptions) -> None:
    """Make the visits that DIR/trace.csv lacks, as many as there is time for.

    Raises: ConfigError, one line, if the file is another engine's or another plan's.
    """
    from hygen_vllm.lab.profile.shape_runner import ShapeRunner

    options.out_dir.mkdir(parents=True, exist_ok=True)
    runner = ShapeRunner(options.engine_args)
    try:
        engine = _start_or_resume(options, runner.engine)
        shapes = design(engine, options.num_mixes, options.seed)
        visits = plan_visits(len(shapes), options.num_repeats, options.seed)
        done = _visits_done(options.trace)
        left = [visit for visit in visits if visit.number not in done]
        for shape in shapes[:WARM_UP_VISITS] if left else ():
            runner.run(shape)
        progress = tqdm(initial=len(done), total=len(visits), unit="batch", file=sys.stderr)
        deadline_s = time.monotonic() + 60.0 * options.max_minutes
        with progress, options.trace.open("a", encoding="utf-8") as file:
            for visit in left:
                if time.monotonic() > deadline_s:
                    break
                rows = _rows(visit, runner, shapes)
                with naming(options.trace):
                    file.write(rows)
                    file.flush()
                progress.update()
    except KeyboardInterrupt:
        print(f"{options.trace} is kept; run the same command to go on", file=sys.stderr)
        raise
    finally:
        runner.close()


def _rows(visit: Visit, runner: Any, shapes: Sequence[BatchShape]) -> str:
    steps = runner.run(shapes[visit.shape])
    return "".join(
        row(step, batch=visit.shape * NUM_STEPS + i, visit=visit.number)
        for i, step in enumerate(steps)
    )


def _start_or_resume(options: ProfileOptions, engine: EngineInfo) -> EngineInfo:
    """Begin the trace, or cut it after its last whole visit; return the engine it is of."""
    path = options.trace
    if not path.exists():
        write_text(path, header(engine, _plan(options)))
        return engine
    begun, _ = read_trace(path)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    expected = header(begun, _plan(options)).splitlines(keepends=True)
    difference = begun.difference(engine) or _other_setting(begun, engine)
    if difference is not None:
        raise ConfigError(f"{path} is of {difference}; choose another --out or remove it")
    if lines[:2] != expected:
        raise ConfigError(
            f"{path} was begun with other --mixes, --repeats or --seed; give the same ones, choose "
            "another --out or remove it"
        )
    done = _visits_done(path)
    rows = [line for line in lines[2:] if line.endswith("\n") and _visit_of(line) in done]
    write_text(path, "".join([*lines[:2], *rows]))
    return begun


def _other_setting(begun: EngineInfo, engine: EngineInfo) -> str | None:
    """Return in which setting two engines differ; the KV blocks may, as free memory does."""
    now = engine.as_mapping()
    for name, value in begun.as_mapping().items():
        if name not in ("model", "num_kv_blocks") and value != now[name]:
            return f"{name} {value}, not {now[name]}"
    return None


def _plan(options: ProfileOptions) -> dict[str, int]:
    return {
        "mixes": options.num_mixes,
        "repeats": options.num_repeats,
        "seed": options.seed,
    }


def _visits_done(path: Path) -> set[int]:
    """Return the visits of which all steps are in the file."""
    _, table = read_trace(path)
    counts = table.groupby("visit").size()
    return {int(visit) for visit in counts[counts == NUM_STEPS].index}


def _visit_of(line: str) -> int | None:
    number = line.rstrip("\n").rpartition(",")[2]
    return int(number) if number.isdecimal() else None
