# SPDX-License-Identifier: Apache-2.0
"""tools/stale_results.py: which results are older than what they measure, by git."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.git_checkout import Checkout

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))

import stale_results
from stale_results import CANNOT_SAY, main, meaning

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not here")
CODE = '''"""What this is."""
LIMIT = 2
"""Of all."""


def double(x):
    """Return it."""
    return LIMIT * x  # twice
'''
SAME = "LIMIT = 2\n\n\ndef double( x ):\n    return (LIMIT\n      * x)\n"
OTHER = CODE.replace("LIMIT = 2", "LIMIT = 3")
MEASURES = ["src/*.py", "src/deep/**/*.py"]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    """Return a repository with code and one commit."""
    found = Checkout(tmp_path / "here", monkeypatch)
    found.write("src/a.py", CODE)
    found.write("src/b.py", CODE)
    found.write("src/deep/er/c.py", CODE)
    found.write("other.py", CODE)
    found.commit()
    return found


def record(checkout: Checkout, commit: str, name: str = "one", **more: Any) -> None:
    """Commit a result and its record."""
    entry = {"results": ["r.csv"], "command": "make it", "commit": commit, "measures": MEASURES}
    checkout.write(f"experiments/{name}/r.csv", "x\n1\n")
    checkout.write(f"experiments/{name}/meta.json", json.dumps([{**entry, **more}]))
    checkout.commit()


def listed(checkout: Checkout, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Return what --json prints."""
    assert main(["--root", str(checkout.root), "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_result_is_current_while_nothing_that_it_measures_changes(
    checkout: Checkout, capsys: pytest.CaptureFixture[str]
) -> None:
    record(checkout, checkout.head())
    checkout.write("other.py", OTHER)
    checkout.commit()
    (one,) = listed(checkout, capsys)
    assert one["is_current"]
    assert [] == one["files"]
    assert ["experiments/one/r.csv"] == one["results"]
    assert main(["--root", str(checkout.root), "--fail"]) == 0
    assert "0 older than what they measure, 1 up to date" in capsys.readouterr().out


def test_changed_new_and_deleted_files_count_with_the_commits_that_changed_them(
    checkout: Checkout, capsys: pytest.CaptureFixture[str]
) -> None:
    record(checkout, checkout.head())
    checkout.write("src/a.py", OTHER)
    checkout.commit()
    checkout.write("src/new.py", CODE)
    checkout.commit()
    (checkout.root / "src/deep/er/c.py").unlink()
    checkout.commit()
    checkout.write("other.py", OTHER)
    checkout.commit()
    (one,) = listed(checkout, capsys)
    assert not one["is_current"]
    assert ["src/a.py", "src/deep/er/c.py", "src/new.py"] == one["files"]
    assert [] == one["uncommitted"]
    assert 3 == one["commits"]


def test_comments_docstrings_and_layout_do_not_count(
    checkout: Checkout, capsys: pytest.CaptureFixture[str]
) -> None:
    record(checkout, checkout.head())
    checkout.write("src/a.py", SAME)
    checkout.commit()
    checkout.write("src/b.py", SAME)
    checkout.write("src/empty.py", '"""Nothing is here."""\n')
    (one,) = listed(checkout, capsys)
    assert one["is_current"]
    checkout.write("src/b.py", SAME.replace("LIMIT = 2", "LIMIT = 3"))
    (one,) = listed(checkout, capsys)
    assert ["src/b.py"] == one["files"]


def test_change_that_was_taken_back_does_not_count(
    checkout: Checkout, capsys: pytest.CaptureFixture[str]
) -> None:
    record(checkout, checkout.head())
    checkout.write("src/a.py", OTHER)
    checkout.commit()
    checkout.write("src/a.py", CODE)
    checkout.commit()
    (one,) = listed(checkout, capsys)
    assert one["is_current"]


def test_uncommitted_changes_count_and_are_marked(
    checkout: Checkout, capsys: pytest.CaptureFixture[str]
) -> None:
    record(checkout, checkout.head())
    checkout.write("src/a.py", OTHER)
    checkout.commit()
    checkout.write("src/b.py", OTHER)
    checkout.write("src/new.py", CODE)
    (one,) = listed(checkout, capsys)
    assert ["src/a.py", "src/b.py", "src/new.py"] == one["files"]
    assert ["src/b.py", "src/new.py"] == one["uncommitted"]
    assert 1 == one["commits"]
    main(["--root", str(checkout.root)])
    out = capsys.readouterr().out
    assert "src/a.py, src/b.py*, 1 more, 1 of them*" in out
    assert "* changed, and not committed" in out
    main(["--root", str(checkout.root), "--files"])
    assert "src/a.py, src/b.py*, src/new.py*" in capsys.readouterr().out


def test_worst_comes_first_and_fail_is_for_any_that_is_older(
    checkout: Checkout, capsys: pytest.CaptureFixture[str]
) -> None:
    old = checkout.head()
    checkout.write("src/a.py", OTHER)
    newer = checkout.commit()
    checkout.write("src/b.py", OTHER)
    newest = checkout.commit()
    record(checkout, newest, "current")
    record(checkout, newer, "newer")
    record(checkout, old, "old", dated_by="history")
    record(checkout, "unknown", "nowhere")
    assert main(["--root", str(checkout.root)]) == 0
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("experiments/")]
    names = [line.split("/")[1] for line in lines]
    assert ["nowhere", "old", "newer"] == names
    assert f"{old}? " in lines[1]
    assert f"{newer} " in lines[2]
    assert "? the commit that last changed the numbers" in out
    assert "3 older than what they measure, 1 up to date" in out
    assert main(["--root", str(checkout.root), "--fail"]) == 1


def test_commit_that_is_not_in_the_history_is_said_to_be_so(
    checkout: Checkout, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that nobody has, and one that was left behind by a rebase."""
    checkout.git("checkout", "--quiet", "-b", "side")
    checkout.write("src/a.py", OTHER)
    left_behind = checkout.commit()
    checkout.git("checkout", "--quiet", "main")
    record(checkout, "abcdef1", "gone")
    record(checkout, left_behind, "rebased")
    ages = listed(checkout, capsys)
    assert ["its commit is not in this history"] * 2 == [age["problem"] for age in ages]
    assert [False, False] == [age["is_current"] for age in ages]
    main(["--root", str(checkout.root)])
    assert "its commit is not in this history" in capsys.readouterr().out


def test_result_of_changes_that_are_in_no_commit_is_never_current(
    checkout: Checkout, capsys: pytest.CaptureFixture[str]
) -> None:
    record(checkout, checkout.head() + ", changed")
    (one,) = listed(checkout, capsys)
    assert not one["is_current"]
    assert "measured with changes that are in no commit" == one["problem"]


@pytest.mark.parametrize("flags", [[], ["--fail"], ["--json"]])
def test_shallow_clone_says_so_in_a_line(
    checkout: Checkout, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    record(checkout, checkout.head())
    shallow = tmp_path / "shallow"
    checkout.git("clone", "--quiet", "--depth=1", checkout.root.as_uri(), shallow)
    assert main(["--root", str(shallow), *flags]) == (CANNOT_SAY if flags == ["--fail"] else 0)
    out, err = capsys.readouterr()
    assert "" == out
    assert [
        "which results are older cannot be said: this is a shallow clone, its history is not whole"
    ] == err.splitlines()


@pytest.mark.parametrize(
    "variable", [("GIT_LITERAL_PATHSPECS", "1"), ("GIT_DIR", "/nowhere"), ("GIT_INDEX_FILE", "/x")]
)
def test_variables_of_git_change_nothing(
    checkout: Checkout,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    variable: tuple[str, str],
) -> None:
    """A hook, or an editor that runs git, has set them for another command."""
    record(checkout, checkout.head())
    checkout.write("src/a.py", OTHER)
    monkeypatch.setenv(*variable)
    (one,) = listed(checkout, capsys)
    assert ["src/a.py"] == one["files"] == one["uncommitted"]


def test_commit_that_git_cannot_read_is_not_up_to_date(
    checkout: Checkout, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clone without trees, whose origin is gone, knows its commits and not what is in them."""
    record(checkout, "0" * 40)
    monkeypatch.setattr(stale_results.Repository, "has", lambda *_: True)
    assert main(["--root", str(checkout.root), "--fail"]) == CANNOT_SAY
    assert "git cannot compare this checkout" in capsys.readouterr().err


def test_copy_without_git_says_so_in_a_line(
    checkout: Checkout, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a repository around it counts, nor does one without the program git."""
    record(checkout, "abcdef1")
    inner = checkout.root / "experiments"
    assert main(["--root", str(inner)]) == 0
    assert "there is no git repository here" in capsys.readouterr().err
    monkeypatch.setenv("PATH", "")
    assert main(["--root", str(checkout.root), "--fail"]) == CANNOT_SAY
    assert "there is no git" in capsys.readouterr().err


def test_meaning_of_a_config_is_its_values_without_the_short_version() -> None:
    path = "experiments/10/config.yaml"
    assert meaning(path, b"a: 1 # b\nquick: {a: 0}\n") == meaning(path, b"a:   1\nquick: {a: 2}\n")
    assert meaning(path, b"a: 1\n") != meaning(path, b"a: 2\n")


def test_meaning_of_what_is_no_python_is_its_bytes() -> None:
    assert meaning("a.json", b"{}") != meaning("a.json", b"{} ")
    assert meaning("a.json", b"") != meaning("a.json", None)
    assert meaning("a.py", b"def f(:") != meaning("a.py", b"def  f(:"), "which cannot be parsed"
