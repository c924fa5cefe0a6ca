# SPDX-License-Identifier: Apache-2.0
"""What stays of an experiment in its folder: every run, what they were made with, what came of it.

runs.csv has a line for each run, summary.csv the numbers behind figure.png, claims.json the rows of
RESULTS.md, meta.json what was measured, see provenance.py, and with what. The result in README.md,
between its marks, is written here too, so that no number in it is typed.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from harness.experiment import Config, Done, Experiment
from harness.provenance import ROOT, stamp
from harness.tables import write_csv

from hygen_vllm.lab.workloads import data_dir
from hygen_vllm.lab.workloads.sources import ARXIV, AZURE, MOONCAKE, SHAREGPT

DATA = {"azure": AZURE, "mooncake": MOONCAKE, "arxiv": ARXIV, "sharegpt": SHAREGPT}
"""Files in HYGEN_DATA by the name of the workload."""
FOLDERS = {"mmlu": Path("mmlu"), "gsm8k": Path("gsm8k")}
RESULTS = ("runs.csv", "summary.csv", "claims.json", "figure.png")
MARKS = re.compile(r"(<!-- result -->\n).*?(<!-- end of result -->)", re.DOTALL)


@dataclass(frozen=True)
class Place:
    """Where an experiment is, and where its results go."""

    folder: Path
    out: Path


def record(place: Place, experiment: Experiment, config: Config, runs: Sequence[Done]) -> None:
    """Write all that stays. Raises ValueError if offline requests ran out, see check_backlog."""
    check_backlog(runs)
    findings = experiment.findings(config, runs)
    out = place.out
    out.mkdir(parents=True, exist_ok=True)
    write_csv(out / "runs.csv", [run.row for run in runs])
    write_csv(out / "summary.csv", findings.summary)
    _write_json(out / "claims.json", [asdict(claim) for claim in findings.claims])
    figure = experiment.draw(config, findings.summary)
    figure.savefig(out / "figure.png", dpi=110)
    command = f"python experiments/run.py {place.folder.name[:2]}"
    stamp(out, RESULTS, measures_of(place.folder), command, **meta(runs))
    text = f"{findings.table}\n\n![figure](figure.png)\n\n{_effort(runs)}\n"
    fill_result(place.folder / "README.md", text, out / "README.md")
    if findings.headline and out == place.folder:
        fill_result(ROOT / "README.md", f"{findings.headline}\n", ROOT / "README.md")


def measures_of(folder: Path) -> list[str]:
    """Return what the results of an experiment measure, see provenance.py."""
    own = [folder / "experiment.py", *config_files(folder)]
    return ["runs", "findings", *(f"experiments/{p.parent.name}/{p.name}" for p in own)]


def config_files(folder: Path) -> list[Path]:
    """Return the config of an experiment, and the one that it names under `runs_of`."""
    path = folder / "config.yaml"
    other = yaml.safe_load(path.read_text(encoding="utf-8")).get("runs_of")
    return [path] if other is None else [path, *config_files(folder.parent / other)]


def check_backlog(runs: Sequence[Done]) -> None:
    """Raise ValueError for a run beside online in which offline requests ran out.

    Its offline throughput would be that of the workload, not of the policy.
    """
    for run in runs:
        flags = run.case.flags
        if not flags.get("online") or "offline_requests" not in flags:
            continue
        if run.figures["offline_finished"] >= flags["offline_requests"]:
            raise ValueError(f"offline requests ran out, offline_requests is too low: {flags}")


def fill_result(document: Path, result: str, out: Path) -> None:
    """Write a document with a result between its marks."""
    text = MARKS.sub(lambda marks: f"{marks[1]}{result}{marks[2]}", document.read_text("utf-8"))
    out.write_text(text, encoding="utf-8")


def _effort(runs: Sequence[Done]) -> str:
    """Return what was run, in a line."""
    seeds = {run.case.labels["seed"] for run in runs}
    minutes = sum(run.wall_s for run in runs) / 60.0
    return (
        f"{len(runs)} runs with {len(seeds)} seeds, {minutes:.0f} minutes of one core; medians "
        "over the seeds, in brackets the lowest and the highest."
    )


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def meta(runs: Sequence[Done]) -> dict[str, Any]:
    """Return with what runs were made."""
    cases = [run.case for run in runs]
    return {
        "kind": "simulated",
        "runs": len(runs),
        "core_minutes": round(sum(run.wall_s for run in runs) / 60.0, 1),
        "seeds": sorted({case.labels["seed"] for case in cases if "seed" in case.labels}),
        "data": _checksums(case.flags for case in cases),
    }


def _checksums(flags: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the SHA-256 of each file of data that runs read, by its name in HYGEN_DATA."""
    root = data_dir()
    names = {str(each.get(name)) for each in flags for name in ("online", "offline")}
    if root is None:
        return dict.fromkeys(sorted(names & {*DATA, *FOLDERS}), "generated")
    files = [DATA[name] for name in sorted(names & {*DATA})]
    for name in sorted(names & {*FOLDERS}):
        files += sorted(
            p.relative_to(root) for p in (root / FOLDERS[name]).rglob("*.*") if p.is_file()
        )
    return {str(file): _sha256(root / file) for file in files if "LICENSE" not in file.name}


@cache
def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
