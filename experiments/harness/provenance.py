# SPDX-License-Identifier: Apache-2.0
"""Which commit and which files a committed result measures: the meta.json in its folder.

A meta.json is a list of records, one for each command that makes results of the folder:

    results   their names in the folder, or patterns of names
    command   what makes them
    commit    that was measured; "abc1234, changed" if what they measure was not as in that commit
    measures  files whose change can change the results: patterns of paths from the root, in which
              ** stands for any number of folders, and names of GROUPS

and what else the command has to say: versions of packages, seeds, checksums of data. Where
`dated_by` is "history" the command did not write the record: the commit is the one in which the
numbers were last changed.

A script that writes a result calls `stamp` or `stamp_out`. `experiments/stamp.py` does it for what
was measured in another way, and `tools/stale_results.py` lists results that are older than what
they measure.
"""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
META = "meta.json"
HISTORY = "history"
"""Value of `dated_by` where the commit was looked up, not written by what measured."""
CHANGED = ", changed"
UNKNOWN = "unknown"
PACKAGES = ("vllm", "torch", "numpy", "scipy", "hygen-vllm")
Entry = dict[str, Any]
"""A record as it is in the file."""


def _modules(folder: str, names: str) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}.py" for name in names.split())


SERVES = (
    *_modules("hygen_vllm", "__init__ config labels slo"),
    *(f"hygen_vllm/{name}/*.py" for name in ("cost", "kv", "lane", "operate", "step", "targets")),
    *_modules(
        "hygen_vllm/engine",
        "arrivals hook identity kv_reserve leftovers load_report make_room offload_tier "
        "policy release requests scheduler slo_control state step_builder step_meter victims "
        "waiting_queue",
    ),
    *_modules("hygen_vllm/fleet", "engine_load interference"),
)
"""What decides in a serving engine."""
REQUESTS = ("hygen_vllm/lab/workloads/*.py",)
MODELS = (
    "hygen_vllm/lab/profile/batch_shapes.py",
    *_modules("hygen_vllm/lab/simulator", "device_model modelled_steps step_time step_work"),
)
"""How long a step takes on a device that is not here."""
SIMULATES = (
    *SERVES,
    *REQUESTS,
    *_modules("hygen_vllm/lab", "bare_scheduler policies rate_capped"),
    "hygen_vllm/fleet/*.py",
    "hygen_vllm/lab/profile/batch_shapes.py",
    "hygen_vllm/lab/report/result_file.py",
    *_modules(
        "hygen_vllm/lab/simulator",
        "arguments command device_model figures fleet_figures fleet_run lazy_request many_runs "
        "options predictor run_log simulated_engine simulation step_time step_work "
        "virtual_engine",
    ),
)
FITS = (
    "hygen_vllm/cost/*.py",
    *_modules("hygen_vllm/lab/profile", "accuracy estimator fit read_trace"),
    *MODELS,
)
"""What makes prices of measured or modelled steps."""
PROFILES = (
    *FITS,
    *_modules("hygen_vllm", "operate/log engine/identity"),
    *_modules("hygen_vllm/lab/profile", "engine_flags kv_fill report run shape_runner"),
)
"""What measures a real engine's steps."""
ENGINES = (
    *SIMULATES,
    *_modules("hygen_vllm/engine", "endpoints plugin"),
    "hygen_vllm/lab/profile/engine_flags.py",
    *_modules("hygen_vllm/lab/tune", "engine_server served simulated_server"),
)
"""What serves requests at their times through a real engine's core."""
SMALL_MODEL = ("hygen_vllm/lab/small_model.py", "hygen_vllm/engine/plugin.py")
DEMO = (*SERVES, *REQUESTS, *SMALL_MODEL, "hygen_vllm/lab/demo/*.py")
RAY = (
    *SERVES,
    *SMALL_MODEL,
    "hygen_vllm/fleet/*.py",
    "hygen_vllm/openai_request.py",
    "hygen_vllm/ray_serving/*.py",
)
PLANS = _modules("hygen_vllm/lab/plan", "plan report sampled_slots slot_job slots")
DECIDES = _modules(
    "experiments/harness", "tasks constants mechanisms predictors days kv_store memory"
)
RUNS = (*SIMULATES, *FITS, *PLANS, *DECIDES, "profiles/*/*/*.json", "profiles/*/*/trace.csv.gz")
"""What runs.csv of an experiment depends on, beside its own folder."""
FINDINGS = _modules(
    "experiments/harness",
    "claims comparison comparison_findings days_findings experiment figures spread tables troubles",
)
"""What makes tables, claims and pictures of runs."""
GROUPS = {
    "serves": SERVES,
    "requests": REQUESTS,
    "simulates": SIMULATES,
    "fits": FITS,
    "profiles": PROFILES,
    "engines": ENGINES,
    "small model": SMALL_MODEL,
    "demo": DEMO,
    "ray": RAY,
    "runs": RUNS,
    "findings": FINDINGS,
}
CHANGES_NOTHING = (
    "hygen_vllm/**/__init__.py",
    *_modules("hygen_vllm", "command_line files json_types"),
    "hygen_vllm/batch/*.py",
    *_modules("hygen_vllm/lab", "cli"),
    "hygen_vllm/lab/plan/arguments.py",
    "hygen_vllm/lab/report/*.py",
    *_modules("hygen_vllm/lab/tune", "arguments budget_search report tune"),
    *_modules("experiments/harness", "apart pool provenance record regression results_page store"),
    "experiments/02-latency-predictor/tables.py",
)
"""Files that no committed result depends on: commands, pages, what hands results on."""


def patterns_of(measures: Sequence[str]) -> tuple[str, ...]:
    """Return path patterns, those of groups in place of their names.

    Raises: ValueError for a name that is neither a path nor a group.
    """
    unknown = [name for name in measures if "/" not in name and name not in GROUPS]
    if unknown:
        raise ValueError(f"no group {unknown[0]!r}; there are {', '.join(GROUPS)}")
    patterns = (pattern for name in measures for pattern in GROUPS.get(name, (name,)))
    return tuple(dict.fromkeys(patterns))


def pathspecs_of(measures: Sequence[str]) -> list[str]:
    """Return what git takes for the files."""
    return [f":(top,glob){pattern}" for pattern in patterns_of(measures)]


@dataclass(frozen=True)
class Record:
    """What a meta.json says about some results."""

    folder: Path
    results: tuple[str, ...]
    command: str
    commit: str
    measures: tuple[str, ...]
    dated_by: str = "command"

    @classmethod
    def of(cls, folder: Path, entry: Entry) -> "Record":
        """Return the record of an entry of the file in a folder."""
        return cls(
            folder,
            tuple(entry["results"]),
            entry["command"],
            entry["commit"],
            tuple(entry["measures"]),
            entry.get("dated_by", "command"),
        )

    def files(self) -> list[Path]:
        """Return the results that are there."""
        return sorted({path for name in self.results for path in self.folder.glob(name)})


def read_meta(folder: Path) -> list[Entry]:
    """Return the entries of a folder; none if it has no meta.json."""
    path = folder / META
    if not path.exists():
        return []
    entries: list[Entry] = json.loads(path.read_text(encoding="utf-8"))
    return entries


def find_records(root: Path = ROOT) -> Iterator[Record]:
    """Yield the records of all experiments and of the profiles."""
    for path in sorted([*root.glob(f"experiments/*/{META}"), *root.glob(f"profiles/{META}")]):
        for entry in read_meta(path.parent):
            yield Record.of(path.parent, entry)


@dataclass(frozen=True)
class Tree:
    """A checkout and the commit that it was at when this was made."""

    root: Path
    head: str

    @classmethod
    def now(cls, root: Path) -> "Tree":
        """Return a checkout as it is; its commit is unknown where git does not say it."""
        head = _git(root, "rev-parse", "--short", "HEAD") if (root / ".git").exists() else None
        return cls(root, head or UNKNOWN)

    def commit(self, measures: Sequence[str]) -> str:
        """Return the commit, with a mark if files that are measured differ from it by now."""
        if self.head == UNKNOWN:
            return UNKNOWN
        specs = pathspecs_of(measures)
        changed = _git(self.root, "diff", "--name-only", self.head, "--", *specs)
        new = _git(self.root, "ls-files", "--others", "--exclude-standard", "--", *specs)
        return self.head + ("" if changed == new == "" else CHANGED)


def git_environment() -> dict[str, str]:
    """Return the environment without git's own variables: they may name another repository."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


def _git(root: Path, *arguments: str) -> str | None:
    """Return what git prints; None if it fails or is not there."""
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    env = git_environment()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


TREE = Tree.now(ROOT)
"""This checkout when the program began: a run of an hour measures what it imported."""


def stamp(
    folder: Path,
    results: Sequence[str],
    measures: Sequence[str],
    command: str | None = None,
    tree: Tree = TREE,
    **more: Any,
) -> None:
    """Write the record of results of a folder; records of its other results stay.

    Args:
        command: what makes them; this program with its arguments if left out.
        more: what else there is to say of them.
    """
    entry = {
        "results": list(results),
        "command": command or command_line(sys.argv, tree.root),
        "commit": tree.commit(measures),
        "measures": list(measures),
        "versions": _versions(),
        **more,
    }
    others = [_without(folder, other, set(results)) for other in read_meta(folder)]
    entries = sorted([entry, *filter(None, others)], key=lambda each: str(each["results"][0]))
    write_meta(folder, entries)


def write_meta(folder: Path, entries: Sequence[Entry]) -> None:
    """Write the entries of a folder."""
    (folder / META).write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def stamp_out(path: Path | None, measures: Sequence[str], tree: Tree = TREE) -> None:
    """Write the record of a file that was asked for with --out; none outside of the checkout."""
    if path is not None and path.resolve().is_relative_to(tree.root.resolve()):
        stamp(path.parent, [path.name], measures, tree=tree)


def _without(folder: Path, entry: Entry, results: set[str]) -> Entry | None:
    """Return an entry of the other results; None if there are none."""
    names = [
        name
        for pattern in entry["results"]
        for name in _names(folder, pattern, results)
        if name not in results
    ]
    return {**entry, "results": names} if names else None


def _names(folder: Path, pattern: str, results: set[str]) -> list[str]:
    """Return a pattern as it is, or the names that it stands for if some are among results."""
    found = sorted(path.relative_to(folder).as_posix() for path in folder.glob(pattern))
    return found if results & {*found} else [pattern]


def command_line(arguments: Sequence[str], root: Path = ROOT) -> str:
    """Return a command as it is typed in the root; of other absolute paths only the name stays."""
    return shlex.join(["python", *(_shown(argument, root) for argument in arguments)])


def _shown(argument: str, root: Path) -> str:
    path = Path(argument)
    if not argument.endswith(".py") and not path.is_absolute():
        return argument
    if path.resolve().is_relative_to(root.resolve()):
        return path.resolve().relative_to(root.resolve()).as_posix()
    return path.name


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
