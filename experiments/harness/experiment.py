# SPDX-License-Identifier: Apache-2.0
"""What an experiment is: runs, what is learned from them, a picture of it, and what is claimed.

A folder `NN-question` has `config.yaml` (what is run), `experiment.py` with an EXPERIMENT (what is
made of it), and README.md (why). `experiments/run.py` does the rest.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Row = dict[str, Any]
"""A line of a table."""
Config = Mapping[str, Any]
"""What config.yaml says."""


@dataclass(frozen=True)
class Case:
    """One run.

    Args:
        labels: what tells it from the others of its experiment; its first columns in runs.csv.
        flags: of `hygen simulate`, or the arguments of another task.
        task: what does it, see tasks.py.
        keeps: what else of the result the experiment needs.
    """

    labels: Mapping[str, Any]
    flags: Mapping[str, Any]
    task: str = "simulate"
    keeps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Done:
    """A run that is over.

    Args:
        figures: its numbers by name.
        kept: what the case asked for beside them.
        wall_s: seconds that it took on one core.
    """

    case: Case
    figures: Row
    kept: Mapping[str, Any] = field(default_factory=dict)
    wall_s: float = 0.0

    @property
    def row(self) -> Row:
        """Labels and figures."""
        return {**self.case.labels, **self.figures}


@dataclass(frozen=True)
class Claim:
    """A row of RESULTS.md. Texts, made from the measured numbers; "" where there is none.

    Args:
        result: what is claimed, and where.
        paper: what the paper says about it.
        baseline: what is there without HyGen: vLLM's priority policy, or a rate cap (HyGen*).
        fixed: the paper's HyGen, a fixed budget.
        ours: mode `slo`.
        ratio: of ours to the fixed budget.
        note: what has to be known beside it; where ours is not ahead, that.
    """

    result: str
    paper: str = ""
    baseline: str = ""
    fixed: str = ""
    ours: str = ""
    ratio: str = ""
    note: str = ""


@dataclass(frozen=True)
class Findings:
    """What is made of runs.

    Args:
        summary: the numbers behind the picture.
        table: the same for people, Markdown.
        headline: the table for the project's README, if this is the one that convinces.
    """

    summary: Sequence[Row]
    table: str
    claims: Sequence[Claim] = ()
    headline: str = ""


@dataclass(frozen=True)
class Experiment:
    """An experiment.

    Args:
        cases: what is to be run, from the config.
        findings: what comes of it, from the config and the runs in their order.
        draw: makes the picture from the summary.
    """

    cases: Callable[[Config], list[Case]]
    findings: Callable[[Config, Sequence[Done]], Findings]
    draw: Callable[[Config, Sequence[Row]], Any]


def load_config(folder: Path, is_quick: bool) -> dict[str, Any]:
    """Return the config of an experiment; a quick one with what stands under `quick` instead.

    One that names another experiment under `runs_of` has that one's runs, but for what it says
    itself.
    """
    own: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    other, quick = own.pop("runs_of", None), own.pop("quick", {})
    config = {} if other is None else load_config(folder.parent / other, is_quick)
    return config | own | (quick if is_quick else {})


def by_labels(runs: Sequence[Done], **labels: Any) -> list[Done]:
    """Return the runs that have these labels."""
    return [run for run in runs if labels.items() <= run.case.labels.items()]
