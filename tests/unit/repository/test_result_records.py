# SPDX-License-Identifier: Apache-2.0
"""Every committed result names what makes it, the commit, and the files that it measures."""

import ast
import json
import re
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support.git_checkout import Checkout

sys.path.insert(0, str(Path(__file__).parents[3] / "experiments"))

from harness.experiment import load_config
from harness.provenance import (
    CHANGES_NOTHING,
    GROUPS,
    Record,
    Tree,
    command_line,
    find_records,
    patterns_of,
    read_meta,
    stamp,
    stamp_out,
)
from harness.record import RESULTS, measures_of
from run import find_folders
from stamp import main as stamp_main

ROOT = Path(__file__).parents[3]
EXPERIMENTS = ROOT / "experiments"
RECORDS = [*find_records()]
NAMES = [f"{record.folder.name}-{record.results[0]}" for record in RECORDS]
record_of_each = pytest.mark.parametrize("record", RECORDS, ids=NAMES)
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not here")
KINDS = ("csv", "json", "png", "csv.gz")
"""What a result can be."""
INPUTS = [EXPERIMENTS / "03-simulator/recorded"]
"""What a real engine did, which 03-simulator replays."""
STARTS = {
    "hygen demo": ["hygen_vllm/lab/demo/run.py"],
    "hygen profile": [f"hygen_vllm/lab/profile/{name}.py" for name in ("run", "fit", "report")],
    "make profile": [f"hygen_vllm/lab/profile/{name}.py" for name in ("run", "fit", "report")],
}
"""Files that commands begin with."""
LAZY = {"hygen_vllm/__init__.py", "hygen_vllm/lab/cli.py", "experiments/harness/tasks.py"}
"""They import something of everything, but only what is asked for."""
SETTINGS = ("hygen_vllm/config.py", "hygen_vllm/labels.py", "hygen_vllm/slo.py")
HARNESS, TUNER = "experiments/harness/*.py", "hygen_vllm/lab/tune/*.py"
UNUSED = {
    "02-latency-predictor/real-run.png": (
        "experiments/02-latency-predictor/serving.py",
        "hygen_vllm/lab/bare_scheduler.py",
        "hygen_vllm/lab/profile/*.py",
        "hygen_vllm/lab/simulator/*.py",
    ),
    "03-simulator/profile/profile.json": SETTINGS,
    "03-simulator/replay.csv": ("hygen_vllm/lab/demo/*.py", "hygen_vllm/lab/small_model.py"),
    "real-cpu/results.json": (HARNESS,),
    "real-cpu/summary.csv": (HARNESS, TUNER, "hygen_vllm/lab/profile/engine_flags.py"),
    "profiles/cpu/smollm2-135m/profile.json": SETTINGS,
    "profiles/h200/llama3-8b/profile.json": SETTINGS,
}
"""What a command imports, but only for something else than this result."""


def all_results() -> set[Path]:
    """Return the results of experiments and the profiles."""
    places = [EXPERIMENTS, ROOT / "profiles"]
    found = {path for place in places for kind in KINDS for path in place.rglob(f"*.{kind}")}
    return {p for p in found if p.name != "meta.json" and not {*INPUTS} & {*p.parents}}


def files_of(patterns: tuple[str, ...]) -> set[str]:
    """Return the files of this checkout, as paths from the root."""
    found = {path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}
    return {path.relative_to(ROOT).as_posix() for path in found}


def test_every_result_is_in_one_record() -> None:
    recorded = [path for record in RECORDS for path in record.files()]
    assert sorted(path for path in all_results() if path not in recorded) == []
    assert sorted(path for path in {*recorded} if recorded.count(path) > 1) == []


@record_of_each
def test_results_of_a_record_are_there(record: Record) -> None:
    assert record.results
    missing = [name for name in record.results if not [*record.folder.glob(name)]]
    assert missing == []


@record_of_each
def test_record_names_a_commit_and_a_command(record: Record) -> None:
    assert re.fullmatch(r"[0-9a-f]{7,40}", record.commit), "made with code that was not committed"
    assert record.dated_by in {"command", "history"}
    assert record.command


@record_of_each
def test_every_pattern_of_a_record_is_of_a_file(record: Record) -> None:
    assert [each for each in patterns_of(record.measures) if not files_of((each,))] == []


@pytest.mark.parametrize("group", GROUPS)
def test_every_pattern_of_a_group_is_of_a_file(group: str) -> None:
    assert [pattern for pattern in GROUPS[group] if not files_of((pattern,))] == []


def test_every_pattern_of_what_changes_nothing_is_of_a_file() -> None:
    assert [pattern for pattern in CHANGES_NOTHING if not files_of((pattern,))] == []


def test_every_file_of_the_package_is_measured_or_changes_nothing() -> None:
    """A new file is put into a group of provenance.py, or into CHANGES_NOTHING."""
    measured = files_of(patterns_of([*GROUPS])) | files_of(CHANGES_NOTHING)
    assert sorted(files_of(("hygen_vllm/**/*.py", "experiments/harness/*.py")) - measured) == [
        "experiments/harness/real_engine.py"
    ], "which two experiments name themselves"


def starts_of(command: str) -> list[str]:
    """Return the files that a command begins with."""
    scripts = re.findall(r"\b(?:experiments|tools)/\S+\.py", command)
    if scripts == ["experiments/run.py"]:
        (folder,) = EXPERIMENTS.glob(f"{command.rsplit(maxsplit=1)[-1]}-*")
        path = folder.relative_to(ROOT).as_posix()
        return [f"{path}/experiment.py", "experiments/harness/tasks.py"]
    return scripts + [path for name, some in STARTS.items() if name in command for path in some]


@cache
def imported_by(path: str) -> frozenset[str]:
    """Return the files of this repository that a file imports, wherever in it."""
    here = (ROOT / path).parent
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
            modules += [str(node.module)] * (modules != ["hygen_vllm.config.ConfigError"])
        else:
            continue
        if any(module.startswith("hygen_vllm.HyGen") for module in modules):
            modules += ["hygen_vllm.engine.scheduler"]
        for module in modules:
            name = module.replace(".", "/")
            places = [place / f"{name}.py" for place in (here, EXPERIMENTS, ROOT)]
            found |= {p.relative_to(ROOT).as_posix() for p in places if p.exists()}
    return frozenset(found)


def reached_from(starts: list[str]) -> set[str]:
    """Return what files import, and what that imports, and so on."""
    found: set[str] = set()
    ahead = [*starts]
    while ahead:
        path = ahead.pop()
        if path not in found:
            found.add(path)
            ahead += () if path in LAZY and path not in starts else imported_by(path)
    return found


@record_of_each
def test_record_measures_all_that_its_command_imports(record: Record) -> None:
    starts = starts_of(record.command)
    assert starts or record.command.startswith("none: ")
    unused = UNUSED.get(f"{record.folder.name}/{record.results[0]}", ())
    known = files_of((*patterns_of(record.measures), *CHANGES_NOTHING, *unused))
    assert sorted(reached_from(starts) - known) == []


def written_measures(path: str) -> set[str]:
    """Return the MEASURES that a script writes out, names of other constants aside."""
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MEASURES":
            assert isinstance(node.value, ast.Tuple)
            return {each.value for each in node.value.elts if isinstance(each, ast.Constant)}
    return set()


def test_records_say_what_scripts_will_write() -> None:
    """Of a script with MEASURES: a change of them is made in both."""
    scripts = [*EXPERIMENTS.glob("*/*.py"), *ROOT.glob("tools/*.py")]
    written = {path: written_measures(path) for path in map(str, scripts)}
    for path in [path for path, measures in written.items() if measures]:
        script = Path(path).relative_to(ROOT).as_posix()
        recorded = [{*each.measures} for each in RECORDS if script in starts_of(each.command)]
        assert any(written[path] | {script} == {*each} for each in recorded), script
    assert 10 <= sum(map(bool, written.values()))


def test_imports_are_found_through_scripts_functions_and_the_package() -> None:
    """The test above would notice a file that is imported anywhere."""
    reached = reached_from(["experiments/05-offline-lane/tenants.py"])
    assert {
        "experiments/05-offline-lane/runs.py",
        "experiments/harness/provenance.py",
        "hygen_vllm/lab/simulator/command.py",
        "hygen_vllm/engine/scheduler.py",
    } <= reached
    assert "hygen_vllm/ray_serving/app.py" not in reached


def test_unknown_group_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="no group 'serve'; there are serves, "):
        patterns_of(["serves", "serve"])


@pytest.mark.parametrize("folder", find_folders([]), ids=lambda folder: str(folder.name))
def test_experiment_records_what_its_next_run_will(folder: Path) -> None:
    """A config that is that of another one is measured, too."""
    (entry,) = read_meta(folder)
    assert measures_of(folder) == entry["measures"]
    assert list(RESULTS) == entry["results"]
    other = re.search(r"^runs_of: (\S+)", (folder / "config.yaml").read_text(), re.MULTILINE)
    if other:
        assert f"experiments/{other[1]}/config.yaml" in entry["measures"]
        assert load_config(folder, is_quick=False)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    """Return a repository with two measured files, and an experiment with results."""
    found = Checkout(tmp_path / "here", monkeypatch)
    for path in ("src/a.py", "src/b.py", "experiments/one/x.csv", "experiments/one/y.csv"):
        found.write(path, "1\n")
    found.commit()
    return found


def entries_of(checkout: Checkout) -> list[dict[str, Any]]:
    return read_meta(checkout.root / "experiments/one")


@needs_git
def test_stamp_writes_a_record_of_results_and_leaves_those_of_others(checkout: Checkout) -> None:
    folder = checkout.root / "experiments/one"
    first = Tree.now(checkout.root)
    stamp(folder, ["x.csv", "y.csv"], ["src/*.py"], "make both", first, seeds=[1])
    (both,) = entries_of(checkout)
    assert (["x.csv", "y.csv"], "make both", [1]) == tuple(
        both[name] for name in ("results", "command", "seeds")
    )
    assert (first.head, ["src/*.py"]) == (both["commit"], both["measures"])
    assert sys.version.split()[0] == both["versions"]["python"]
    checkout.write("src/a.py", "2\n")
    head = checkout.commit()
    stamp(folder, ["y.csv"], ["src/a.py"], "make y", Tree.now(checkout.root))
    assert [(["x.csv"], first.head), (["y.csv"], head)] == [
        (entry["results"], entry["commit"]) for entry in entries_of(checkout)
    ]
    assert [1] == entries_of(checkout)[0]["seeds"]


@needs_git
def test_stamp_takes_a_result_out_of_a_pattern(checkout: Checkout) -> None:
    folder, tree = checkout.root / "experiments/one", Tree.now(checkout.root)
    stamp(folder, ["*.csv"], ["src/*.py"], "make all", tree)
    stamp(folder, ["y.csv"], ["src/*.py"], "make y", tree)
    assert [["x.csv"], ["y.csv"]] == [entry["results"] for entry in entries_of(checkout)]


@needs_git
@pytest.mark.parametrize("path", ["src/a.py", "src/new.py"])
def test_stamp_marks_the_commit_if_what_is_measured_is_not_in_it(
    checkout: Checkout, path: str
) -> None:
    """A change of another file does not matter."""
    tree = Tree.now(checkout.root)
    checkout.write("other.py", "2\n")
    assert tree.head == tree.commit(["src/*.py"])
    checkout.write(path, "2\n")
    assert f"{tree.head}, changed" == tree.commit(["src/*.py"])
    assert tree.head == tree.commit(["src/b.py"])


@needs_git
def test_commit_is_that_of_the_beginning_of_a_run(checkout: Checkout) -> None:
    """What was committed meanwhile is not what was measured."""
    began = Tree.now(checkout.root)
    checkout.write("src/a.py", "2\n")
    assert began.head != checkout.commit()
    assert f"{began.head}, changed" == began.commit(["src/a.py"])
    assert began.head == began.commit(["src/b.py"])


def test_commit_is_unknown_in_a_copy_without_git(tmp_path: Path) -> None:
    assert "unknown" == Tree.now(tmp_path).commit(["src/*.py"])


@needs_git
def test_result_that_goes_elsewhere_has_no_record(checkout: Checkout, tmp_path: Path) -> None:
    tree = Tree.now(checkout.root)
    stamp_out(tmp_path / "x.csv", ["src/*.py"], tree)
    stamp_out(None, ["src/*.py"], tree)
    assert not (tmp_path / "meta.json").exists()
    stamp_out(checkout.root / "experiments/one/x.csv", ["src/*.py"], tree)
    assert [["x.csv"]] == [entry["results"] for entry in entries_of(checkout)]


@needs_git
def test_stamping_a_result_by_hand_gives_its_record_the_present_commit(
    checkout: Checkout, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = checkout.root / "experiments/one"
    old = Tree.now(checkout.root)
    stamp(folder, ["x.csv"], ["src/*.py"], "make x", old, dated_by="history", seeds=[1])
    stamp(folder, ["y.csv"], ["src/*.py"], "make y", old)
    checkout.write("src/a.py", "2\n")
    head = checkout.commit()
    stamp_main([str(folder / "x.csv")], Tree.now(checkout.root))
    x, y = entries_of(checkout)
    assert (head, old.head) == (x["commit"], y["commit"])
    assert {"results", "command", "commit", "measures", "seeds"} == set(x)
    assert head in capsys.readouterr().out
    with pytest.raises(SystemExit):
        stamp_main([str(folder / "z.csv")], Tree.now(checkout.root))
    assert "no meta.json has a record of" in capsys.readouterr().err


def test_command_is_written_as_typed_in_the_root(tmp_path: Path) -> None:
    """Places of one machine are not in it."""
    script, out = tmp_path / "experiments/one/run.py", tmp_path / "experiments/one/x.csv"
    typed = [str(script), "--out", str(out), "--model", "/some/where/a model", "--turns", "3"]
    expected = "python experiments/one/run.py --out experiments/one/x.csv --model 'a model' "
    assert f"{expected}--turns 3" == command_line(typed, tmp_path)


def test_no_record_names_a_place_of_a_machine() -> None:
    for path in [*EXPERIMENTS.glob("*/meta.json"), ROOT / "profiles/meta.json"]:
        for entry in json.loads(path.read_text(encoding="utf-8")):
            assert not re.search(r"(^|[ =])/", entry["command"]), path
