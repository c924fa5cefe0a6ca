# SPDX-License-Identifier: Apache-2.0
"""What `make test` promises: nothing is left out, nothing hangs, and clocks really move."""

import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))

import run_tests
from run_tests import LONG_STAGES, RELEASES, STAGES, Place, Running, Stage, at_uptime, run_all

ROOT = Path(__file__).parents[3]
PYTEST = [sys.executable, "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml")]
UPTIME_S = 1000


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(run_tests, "LOGS", tmp_path)
    return tmp_path


def python_stage(name: str, code: str, **options: object) -> Stage:
    return Stage(name, (sys.executable, "-c", code), is_pytest=False, **options)  # type: ignore[arg-type]


def printed(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def test_every_folder_of_tests_is_in_a_stage() -> None:
    """A new one is not forgotten."""
    folders = {path.parent for path in ROOT.glob("tests/**/test_*.py")}
    named = {ROOT / argument for stage in STAGES for argument in stage.command}
    assert all({folder, *folder.parents} & named for folder in folders), folders


def test_long_tests_are_in_the_long_stages() -> None:
    """What `make test` leaves out by its mark is in `make test-long`."""
    for mark in ("long", "two_replicas"):
        assert any(f"not {mark}" in " ".join(stage.command) for stage in STAGES)
        assert any(mark in stage.command for stage in LONG_STAGES)


def test_unit_and_contract_tests_run_on_new_and_old_machines_and_on_each_release() -> None:
    """The installed release is the one that is in no place."""
    contract = [stage for stage in STAGES if "tests/contract" in stage.command]
    assert {"0.32.0"} == {*RELEASES} - {stage.place.release for stage in contract}
    for folder in ("tests/unit", "tests/contract"):
        stages = [stage for stage in STAGES if folder in stage.command]
        places = [stage.place for stage in stages if stage.place.uptime_s is not None]
        uptimes_s = [place.uptime_s or 0 for place in places]
        assert 0 < min(uptimes_s) < 60
        assert max(uptimes_s) > 365 * 86400
        assert all(p.time_zone and p.locale and p.has_empty_home for p in places)
    assert any(stage.place.is_ascii for stage in STAGES if "tests/unit" in stage.command)


def test_stages_have_names_of_their_own_and_need_only_stages_before_them() -> None:
    """Else one would wait for ever."""
    for stages in (STAGES, LONG_STAGES):
        names = [stage.name for stage in stages]
        assert len(set(names)) == len(names)
        for number, stage in enumerate(stages):
            assert {*stage.needs} <= {*names[:number]}


def test_command_at_an_uptime_sees_that_time() -> None:
    """By a time namespace where there may be one, else by the plug-in that the command is given."""
    command = at_uptime([sys.executable, "-c", "import time; print(time.monotonic())"], UPTIME_S)
    if command[0] != "unshare":
        assert f"--uptime={UPTIME_S}" == command[-1]
        return
    assert UPTIME_S <= float(printed(command)) <= UPTIME_S + 60


def test_plug_in_moves_the_clock_of_a_test(tmp_path: Path) -> None:
    """Both forms of it, and in the workers of pytest-xdist as well."""
    test = tmp_path / "test_clock.py"
    test.write_text(
        "import time\n"
        "def test_clock():\n"
        f"    assert {UPTIME_S} <= time.monotonic() < {UPTIME_S + 60}\n"
        f"    assert {UPTIME_S} <= 1e-9 * time.monotonic_ns() < {UPTIME_S + 60}\n"
    )
    for workers in ([], ["-n", "1"]):
        out = printed([*PYTEST, f"--uptime={UPTIME_S}", *workers, str(test)])
        assert "1 passed" in out


def test_test_that_hangs_fails_with_its_stack_after_its_own_limit(tmp_path: Path) -> None:
    """The others go on."""
    test = tmp_path / "test_hang.py"
    test.write_text(
        "import time\n"
        "def wait_for_nothing():\n    time.sleep(60)\n"
        "def test_hangs():\n    wait_for_nothing()\n"
        "def test_goes_on():\n    pass\n"
    )
    command = [*PYTEST, "--timeout=0.5", str(test)]
    run = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == pytest.ExitCode.TESTS_FAILED
    assert "wait_for_nothing" in run.stdout
    assert "1 failed, 1 passed" in run.stdout


def test_stage_that_takes_too_long_is_ended_with_all_that_it_started(logs: Path) -> None:
    """Its log has its stack, and no process is left, in whatever session it hides."""
    code = (
        "import subprocess, sys, time\n"
        "child = [sys.executable, '-c', 'import time; time.sleep(300)']\n"
        "print(subprocess.Popen(child, start_new_session=True).pid, flush=True)\n"
        "def wait_for_nothing(): time.sleep(300)\n"
        "wait_for_nothing()"
    )
    (done,) = run_all([python_stage("hangs", code, limit_s=6.0)], seed=1)
    assert done.status != 0
    text = (logs / "hangs.log").read_text()
    assert "wait_for_nothing" in text
    child = int(text.split()[0])
    deadline_s = time.monotonic() + 10.0
    while psutil.pid_exists(child) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert not psutil.pid_exists(child)


def test_stages_run_in_order_beside_each_other_and_after_what_they_need(logs: Path) -> None:
    """A failure does not keep the others from running."""
    stages = [
        python_stage("first", ""),
        python_stage("second", "", needs=("first",)),
        python_stage("broken", "raise SystemExit(3)"),
        python_stage("needs it", "", needs=("broken",)),
        python_stage("wide", "", cores=2),
    ]
    done = run_all(stages, seed=1)
    expected = {"first": 0, "second": 0, "broken": 3, "needs it": 1, "wide": 0}
    assert expected == {each.stage.name: each.status for each in done}
    names = [each.stage.name for each in done]
    assert names.index("first") < names.index("second")
    assert "not run: broken failed" in (logs / "needs it.log").read_text()


@pytest.mark.parametrize(
    "variable",
    [("PYTEST_ADDOPTS", "--collect-only"), ("PYTEST_TIMEOUT", "0"), ("PYTHONOPTIMIZE", "1")],
)
def test_variables_that_leave_out_tests_or_assertions_do_not_reach_a_stage(
    monkeypatch: pytest.MonkeyPatch, variable: tuple[str, str]
) -> None:
    """Whoever runs the tests may have set them for others."""
    monkeypatch.setenv(*variable)
    assert variable[0] not in Place().environment("")


def test_stage_of_pytest_that_ran_no_test_has_failed(logs: Path, tmp_path: Path) -> None:
    """Whatever its status says."""
    test = tmp_path / "test_one.py"
    test.write_text("def test_one(): pass")
    stages = [
        Stage(name, (*PYTEST, str(test), *more))
        for name, more in (("one", ()), ("none", ("--collect-only",)))
    ]
    assert {"one": 0, "none": run_tests.NO_TEST} == {
        each.stage.name: each.status for each in run_all(stages, seed=1)
    }


def test_failures_are_named_with_their_reason(logs: Path, tmp_path: Path) -> None:
    """After the tables, so that the end of the output says what failed."""
    test = tmp_path / "test_two.py"
    test.write_text("def test_good(): pass\ndef test_bad(): assert 0, 'why\\nit is'")
    (done,) = run_all([Stage("two", (*PYTEST, str(test)))], seed=1)
    (line,) = done.failures()
    assert re.fullmatch(r"\S+ test_bad: AssertionError: why", line)


def test_place_is_what_a_stage_sees(logs: Path) -> None:
    """An empty home folder, a locale, a time zone, and hashes by the seed."""
    place = Place(time_zone="Pacific/Chatham", locale="C", has_empty_home=True)
    names = ("HOME", "TZ", "LC_ALL", "PYTHONHASHSEED")
    code = "import os\n"
    code += f"print(*(os.environ[n] for n in {names}), os.listdir(os.environ['HOME']), sep='\\n')"
    running = Running(replace(python_stage("place", code), place=place), seed=7)
    while not running.has_ended():
        time.sleep(0.05)
    home, *rest = (logs / "place.log").read_text().splitlines()[-len(names) - 1 :]
    assert ["Pacific/Chatham", "C", "7", "[]"] == rest
    assert home != os.environ.get("HOME")
    assert not Path(home).exists(), "it is gone afterwards"
