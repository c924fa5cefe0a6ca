# SPDX-License-Identifier: Apache-2.0
"""The guard fails a run whose test files collect nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT_DIR = Path(__file__).resolve().parents[3]
ONE_TEST = "def test_one():\n    pass\n"


def run_pytest(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    options = ["--disable-plugin-autoload", "-p", "tests.collect_guard", "-c", "/dev/null"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *args],
        check=False,
        cwd=folder,
        env={"PYTHONPATH": str(PROJECT_DIR)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "content",
    ["", "def check_one():\n    pass\n", "import pytest\npytest.skip(allow_module_level=True)"],
)
def test_file_without_test_fails_the_run(tmp_path: Path, content: str) -> None:
    """An empty file, one without test functions and one skipped as a whole are named."""
    (tmp_path / "test_full.py").write_text(ONE_TEST)
    (tmp_path / "test_empty.py").write_text(content)
    run = run_pytest(tmp_path, ".")
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert "collect no test" in run.stderr
    assert "test_empty.py" in run.stderr
    assert "test_full.py" not in run.stderr


def test_file_without_test_fails_a_run_in_several_processes(tmp_path: Path) -> None:
    """The workers collect; the run as a whole fails, although every test passed."""
    (tmp_path / "test_full.py").write_text(ONE_TEST)
    (tmp_path / "test_empty.py").touch()
    run = run_pytest(tmp_path, "-p", "xdist", "-n", "1", ".")
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert "1 passed" in run.stdout
    assert "collect no test: " + str(tmp_path / "test_empty.py") in run.stdout


def test_deselected_tests_count_as_collected(tmp_path: Path) -> None:
    """-k may leave a file without a selected test; the run goes on."""
    (tmp_path / "test_full.py").write_text(ONE_TEST)
    (tmp_path / "test_other.py").write_text(ONE_TEST.replace("one", "two"))
    assert run_pytest(tmp_path, ".", "-k", "two").returncode == pytest.ExitCode.OK


def test_one_named_file_is_enough(tmp_path: Path) -> None:
    """Only files under the arguments are checked."""
    (tmp_path / "test_full.py").write_text(ONE_TEST)
    (tmp_path / "test_empty.py").touch()
    assert run_pytest(tmp_path, "test_full.py::test_one").returncode == pytest.ExitCode.OK


def test_import_error_is_shown(tmp_path: Path) -> None:
    """A file that does not import is reported by pytest itself."""
    (tmp_path / "test_broken.py").write_text("import no_such_module\n")
    run = run_pytest(tmp_path, ".")
    assert run.returncode == pytest.ExitCode.INTERRUPTED
    assert "no_such_module" in run.stdout
