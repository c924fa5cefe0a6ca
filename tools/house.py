# SPDX-License-Identifier: Apache-2.0
"""Count what keeps the package small and its walls standing, beside what is aimed at.

    python tools/house.py

Lines are those of the files, blank ones and comments included.
"""

import ast
import sys
from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from experiments.harness.constants import constants  # noqa: E402

PACKAGE = ROOT / "hygen_vllm"
SCHEDULER = PACKAGE / "engine" / "scheduler.py"
STATE = PACKAGE / "engine" / "state.py"
"""The one part that may hold the scheduler."""


def main() -> None:
    """Print the table."""
    for what, count, aim in AIMS:
        print(f"{what:<48}{count():>8,}  aim {aim:,}")


def files(*, lab: bool) -> Iterator[Path]:
    """Yield the files of the half that measures, or of the half that serves."""
    yield from (path for path in sorted(PACKAGE.rglob("*.py")) if ("lab" in path.parts) == lab)


def lines_of(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")


def lines_that_serve() -> int:
    return sum(map(lines_of, files(lab=False)))


def lines() -> int:
    return lines_that_serve() + sum(map(lines_of, files(lab=True)))


def lines_of_the_scheduler() -> int:
    return lines_of(SCHEDULER)


def files_at_the_root() -> int:
    return len([*PACKAGE.glob("*.py")])


def nodes(path: Path) -> Iterator[ast.AST]:
    yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def reach_throughs() -> int:
    """Count where a part that was handed the scheduler goes on to something behind it."""
    return sum(
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Attribute)
        and ast.unparse(node.value.value) in {"scheduler", "self._scheduler"}
        for path in files(lab=False)
        if path not in {SCHEDULER, STATE}
        for node in nodes(path)
    )


def holders_of_the_scheduler() -> int:
    """Count the parts that keep the scheduler."""
    return sum(
        isinstance(node, ast.Assign)
        and [ast.unparse(target) for target in node.targets] == ["self._scheduler"]
        for path in files(lab=False)
        if path != STATE
        for node in nodes(path)
    )


def any_outside_the_engine() -> int:
    return sum(
        isinstance(node, ast.Name) and node.id == "Any"
        for path in files(lab=False)
        if "engine" not in path.parts
        for node in nodes(path)
    )


def policy_constants() -> int:
    """Count the numbers with a name, in what decides, below which nothing says why."""
    return sum(not each.why for each in constants())


def cycles() -> int:
    """Return 1 if folders that serve import each other in a circle."""
    graph: dict[str, set[str]] = {}
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    for path in files(lab=False):
        if path == PACKAGE / "__init__.py":
            continue
        here = path.relative_to(PACKAGE).parts[0] if path.parent != PACKAGE else "root"
        for node in nodes(path):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hygen_vllm."):
                name = (node.module or "").split(".")[1]
                there = name if name in folders else "root"
                graph.setdefault(here, set()).update({there} - {here})
    try:
        TopologicalSorter(graph).prepare()
    except CycleError:
        return 1
    return 0


AIMS: tuple[tuple[str, Callable[[], int], int], ...] = (
    ("lines that serve", lines_that_serve, 8_000),
    ("lines of the package", lines, 15_000),
    ("lines of the scheduler's file", lines_of_the_scheduler, 250),
    ("files at the root", files_at_the_root, 8),
    ("parts that keep the scheduler", holders_of_the_scheduler, 0),
    ("reach-throughs into the scheduler", reach_throughs, 0),
    ("Any outside engine/, in what serves", any_outside_the_engine, 20),
    ("named numbers of the policy without a reason", policy_constants, 0),
    ("cycles between folders", cycles, 0),
)

if __name__ == "__main__":
    main()
