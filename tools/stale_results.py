# SPDX-License-Identifier: Apache-2.0
"""Lists committed results that are older than the files they measure, the oldest first.

    python tools/stale_results.py [--files] [--json] [--fail]

A record in a meta.json says at which commit results were measured and which files can change them
(experiments/harness/provenance.py). A file counts as changed if it means something else now than
in that commit, committed or not: comments, docstrings and the layout of Python files mean nothing,
nor does the short version of an experiment in its config.yaml.
Exit status 0, with --fail 1 if a result is older. Where git has no whole history, a line says so,
and the status is 3 with --fail.
"""

import argparse
import ast
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from experiments.harness.provenance import (
    CHANGED,
    HISTORY,
    ROOT,
    UNKNOWN,
    Record,
    find_records,
    git_environment,
    pathspecs_of,
)

NO_BLOB = "0" * 40
CANNOT_SAY = 3
MOST_SHOWN = 2
"""Files of a result that the table names without --files."""


class NoHistoryError(Exception):
    """Git cannot say what changed since; the message says why."""


def meaning(path: str, data: bytes | None) -> object:
    """Return what counts of a file: syntax without docstrings, values of a config, else its bytes.

    Args:
        data: its content; None if it is not there.
    """
    try:
        if path.endswith(".py"):
            return ast.dump(_WithoutTexts().visit(ast.parse(data or b"")))
        if path.endswith("config.yaml"):
            config = yaml.safe_load(data or b"")
            return {**config, "quick": None} if isinstance(config, dict) else config
    except (SyntaxError, ValueError, yaml.YAMLError):
        return data
    return data


class _WithoutTexts(ast.NodeTransformer):
    """Takes out expressions that are nothing but a text: docstrings, those of constants too."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else node


class Repository:
    """What git knows of a checkout. Raises: NoHistoryError if its history is not whole."""

    def __init__(self, root: Path) -> None:
        self.root = root
        if not (root / ".git").exists():
            raise NoHistoryError("there is no git repository here")
        is_shallow = self._git("rev-parse", "--is-shallow-repository")
        if is_shallow is None:
            raise NoHistoryError("git cannot read this repository")
        if is_shallow.strip() == b"true":
            raise NoHistoryError("this is a shallow clone, its history is not whole")
        self._old_meaning = cache(self._meaning_of_blob)
        self._new_meaning = cache(self._meaning_of_file)

    def has(self, commit: str) -> bool:
        """Return whether a commit is one that led to this checkout."""
        return self._git("merge-base", "--is-ancestor", commit, "HEAD") is not None

    def date(self, commit: str) -> str:
        """Return the day of a commit."""
        return (self._git("show", "-s", "--format=%cs", commit) or b"").decode().strip()

    def changed(self, commit: str, specs: Sequence[str]) -> list[str]:
        """Return the files that mean something else in this checkout than in a commit."""
        raw = ("diff", "--raw", "-z", "--no-renames", "--no-abbrev", commit)
        fields = _texts(self._git(*raw, "--", *specs))
        pairs = zip(fields[::2], fields[1::2], strict=True)
        old = {path: entry.split()[2] for entry, path in pairs}
        others = self._git("ls-files", "-z", "--others", "--exclude-standard", "--", *specs)
        old |= dict.fromkeys(_texts(others), NO_BLOB)
        return sorted(
            path
            for path, blob in old.items()
            if self._old_meaning(path, blob) != self._new_meaning(path)
        )

    def num_commits(self, since: str, paths: Sequence[str]) -> int:
        """Return the number of commits after another one that changed some of these files."""
        specs = [f":(top,literal){path}" for path in paths]
        count = self._git("rev-list", "--count", f"{since}..HEAD", "--", *specs)
        return int(count or 0) if paths else 0

    def _meaning_of_blob(self, path: str, blob: str) -> object:
        return meaning(path, None if blob == NO_BLOB else self._git("cat-file", "blob", blob))

    def _meaning_of_file(self, path: str) -> object:
        file = self.root / path
        return meaning(path, file.read_bytes() if file.is_file() else None)

    def _git(self, *arguments: str) -> bytes | None:
        """Return what git prints; None if it fails."""
        command = ["git", "--no-optional-locks", "-C", str(self.root), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, check=False, env=git_environment())
        except FileNotFoundError:
            raise NoHistoryError("there is no git") from None
        return done.stdout if done.returncode == 0 else None


def _texts(output: bytes | None) -> list[str]:
    if output is None:
        raise NoHistoryError("git cannot compare this checkout with older commits")
    return output.decode().split("\0")[:-1]


@dataclass(frozen=True)
class Age:
    """What happened since results were measured.

    Args:
        results: paths from the root.
        problem: why that cannot be said; "" if it can.
        num_commits: that changed the files.
        files: that the results measure and that mean something else now.
        uncommitted: those of them whose change is in no commit.
    """

    record: Record
    results: tuple[str, ...]
    date: str = ""
    problem: str = ""
    num_commits: int = 0
    files: tuple[str, ...] = ()
    uncommitted: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The first of the results, and how many there are beside it."""
        others = len(self.results) - 1
        return self.results[0] + (f" and {others} more" if others else "")

    @property
    def is_current(self) -> bool:
        return not self.problem and not self.files

    @property
    def rank(self) -> tuple[bool, int, int, str]:
        """Order: what cannot be said, then most commits."""
        return (not self.problem, -self.num_commits, -len(self.files), self.name)


def age_of(record: Record, repository: Repository) -> Age:
    """Return what happened since the results of a record were measured."""
    folder = record.folder.relative_to(repository.root).as_posix()
    results = tuple(f"{folder}/{name}" for name in record.results)
    commit = record.commit.removesuffix(CHANGED)
    if commit == UNKNOWN:
        return Age(record, results, problem="its commit is not known")
    if not repository.has(commit):
        return Age(record, results, problem="its commit is not in this history")
    specs = pathspecs_of(record.measures)
    files = repository.changed(commit, specs)
    uncommitted = {*repository.changed("HEAD", specs)}
    return Age(
        record,
        results,
        repository.date(commit),
        "" if commit == record.commit else "measured with changes that are in no commit",
        repository.num_commits(commit, files),
        tuple(files),
        tuple(path for path in files if path in uncommitted),
    )


def table_of(ages: Iterable[Age], most_shown: int | None) -> list[str]:
    """Return lines for people: a result, when it was measured, what changed since."""
    rows = [("result", "measured at", "commits", "files changed since")]
    rows += [(age.name, _when(age), str(age.num_commits), _files(age, most_shown)) for age in ages]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [
        f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}"
        for row in rows
    ]


def _when(age: Age) -> str:
    mark = "?" if age.record.dated_by == HISTORY else ""
    return f"{age.record.commit}{mark} {age.date}".strip()


def _files(age: Age, most_shown: int | None) -> str:
    shown = [f"{path}{'*' if path in age.uncommitted else ''}" for path in age.files]
    others = len(shown) - most_shown if most_shown is not None else 0
    if others > 0:
        num_uncommitted = sum(path in age.uncommitted for path in age.files[most_shown:])
        marked = f", {num_uncommitted} of them*" if num_uncommitted else ""
        shown = [*shown[:most_shown], f"{others} more{marked}"]
    return "; ".join(filter(None, [age.problem, ", ".join(shown)]))


def as_json(age: Age) -> dict[str, Any]:
    """Return all there is to say of a result, for programs."""
    return {
        "results": list(age.results),
        "command": age.record.command,
        "commit": age.record.commit,
        "dated_by": age.record.dated_by,
        "date": age.date,
        "is_current": age.is_current,
        "problem": age.problem,
        "commits": age.num_commits,
        "files": list(age.files),
        "uncommitted": list(age.uncommitted),
    }


def show(ages: Sequence[Age], most_shown: int | None) -> None:
    """Print what is older, and how many are not."""
    older = [age for age in ages if not age.is_current]
    if older:
        print("\n".join(table_of(older, most_shown)))
        if any(age.uncommitted for age in older):
            print("* changed, and not committed")
        if any(age.record.dated_by == HISTORY for age in older):
            print("? the commit that last changed the numbers; the command wrote none")
    print(f"{len(older)} older than what they measure, {len(ages) - len(older)} up to date")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", action="store_true", help="name all files that changed")
    parser.add_argument("--json", action="store_true", help="everything as JSON, for programs")
    parser.add_argument("--fail", action="store_true", help="exit status 1 if a result is older")
    parser.add_argument("--root", type=Path, default=ROOT, help="another checkout than this one")
    options = parser.parse_args(arguments)
    try:
        repository = Repository(options.root)
        ages = [age_of(record, repository) for record in find_records(options.root)]
    except NoHistoryError as error:
        print(f"which results are older cannot be said: {error}", file=sys.stderr)
        return CANNOT_SAY if options.fail else 0
    ages.sort(key=lambda age: age.rank)
    if options.json:
        print(json.dumps([as_json(age) for age in ages], indent=1))
    else:
        show(ages, None if options.files else MOST_SHOWN)
    return int(options.fail and any(not age.is_current for age in ages))


if __name__ == "__main__":
    sys.exit(main())
