# SPDX-License-Identifier: Apache-2.0
"""Each experiment's folder is whole: why, what is run, and results that are of that."""

import csv
import json
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "experiments"))

from harness.experiment import load_config
from harness.results_page import results_page
from run import find_folders, load_experiment

EXPERIMENTS = Path(__file__).parents[3] / "experiments"
FOLDERS = find_folders([])
NAMES = [folder.name for folder in FOLDERS]
folder_of_each = pytest.mark.parametrize("folder", FOLDERS, ids=NAMES)
QUICK_S = 3000.0
"""Virtual seconds of an experiment's short version; they take half a minute of one core."""


@folder_of_each
def test_readme_says_why_what_was_expected_how_and_what_is_not_shown(folder: Path) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")
    parts = ("Question", "Expected before running", "Command", "Result", "What it does not show")
    places = [text.index(f"**{part}.**") for part in parts]
    assert places == sorted(places)
    assert f"python experiments/run.py {folder.name[:2]}" in text


@folder_of_each
def test_runs_differ_in_their_labels_and_have_three_seeds(folder: Path) -> None:
    """A claim rests on three seeds, and every line of runs.csv can be told from the others.

    What runs only if it is named may have fewer.
    """
    config = load_config(folder, is_quick=False)
    cases = load_experiment(folder).cases(config)
    labels = [tuple(sorted(case.labels.items())) for case in cases]
    assert len(set(labels)) == len(labels)
    assert len({case.labels["seed"] for case in cases}) == 3 or config.get("run_if_named")


@folder_of_each
def test_short_version_is_short(folder: Path) -> None:
    cases = load_experiment(folder).cases(load_config(folder, is_quick=True))
    flags = {json.dumps(dict(case.flags), sort_keys=True): case.flags for case in cases}
    assert QUICK_S > sum(each.get("seconds") or 0.0 for each in flags.values())


@folder_of_each
def test_results_are_there_for_every_run_of_the_config(folder: Path) -> None:
    """With what they were made of; a config that was changed needs them anew."""
    cases = load_experiment(folder).cases(load_config(folder, is_quick=False))
    with (folder / "runs.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [{name: str(value) for name, value in case.labels.items()} for case in cases]
    assert expected == [{name: row[name] for name in expected[0]} for row in rows]
    (meta,) = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    assert {"results", "command", "measures"} <= set(meta)
    assert {"kind", "runs", "seeds", "commit", "versions", "data"} <= set(meta)
    assert len(cases) == meta["runs"]
    assert re.fullmatch(r"[0-9a-f]{7,}", meta["commit"]), "made with code that was not committed"
    assert (folder / "figure.png").stat().st_size > 0
    assert (folder / "summary.csv").stat().st_size > 0


def test_results_page_is_made_of_the_claims_that_are_there() -> None:
    text = (EXPERIMENTS / "RESULTS.md").read_text(encoding="utf-8")
    assert results_page(EXPERIMENTS) == text
    claims = [json.loads((folder / "claims.json").read_text("utf-8")) for folder in FOLDERS]
    assert all(claims), "each experiment claims something"


def test_list_of_experiments_names_them_all() -> None:
    text = (EXPERIMENTS / "README.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"`{name}`" not in text] == []


def test_experiment_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(ValueError, match="no experiment begins with '99'; there are 10-slo"):
        find_folders(["10", "99"])
    assert ["10-slo-compliance"] == [folder.name for folder in find_folders(["10"])]
