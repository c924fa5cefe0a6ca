# SPDX-License-Identifier: Apache-2.0
"""The check of the wheel notices what is wrong, says it, and leaves nothing behind."""

import io
import os
import re
import select
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))

from check_wheel import (
    BUILD_FILES,
    DATA_FILES,
    ROOT,
    StepError,
    check_contents,
    expect,
    profile_files,
    profile_names,
    run,
    step,
    succeed,
)

LICENSE = "hygen_vllm-9.dist-info/licenses/LICENSE"
HANGING = ["sh", "-c", "sleep 60 & echo child $!; wait"]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def archives(folder: Path, without: str = "", extra: Iterable[str] = ()) -> tuple[Path, Path]:
    """Write an sdist and a wheel with all files of the package but one, and the extra ones."""
    modules = [str(path.relative_to(ROOT)) for path in ROOT.glob("hygen_vllm/**/*.py")]
    profiles = [str(path.relative_to(ROOT)) for path in profile_files()]
    sdist, wheel = folder / "hygen_vllm-9.tar.gz", folder / "hygen_vllm-9-py3-none-any.whl"
    with tarfile.open(sdist, "w:gz") as archive:
        for name in [*modules, *profiles, *BUILD_FILES, *extra]:
            if name != without:
                archive.addfile(tarfile.TarInfo(f"hygen_vllm-9/{name}"), io.BytesIO())
    with zipfile.ZipFile(wheel, "w") as archive_of_wheel:
        shipped = [f"hygen_vllm/{name}" for name in (*profiles, *DATA_FILES)]
        for name in [*modules, *shipped, LICENSE, *extra]:
            if name != without:
                archive_of_wheel.writestr(name, "")
    return sdist, wheel


def test_complete_archives_are_fine(tmp_path: Path) -> None:
    check_contents(*archives(tmp_path))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("README.md", "missing in the sdist"),
        ("profiles/a100/llama2-7b/device.json", "missing in the sdist"),
        ("hygen_vllm/slo.py", "missing in the sdist"),
        ("hygen_vllm/profiles/a100/llama2-7b/profile.json", "missing in the wheel"),
        ("hygen_vllm/py.typed", "missing in the wheel"),
        ("hygen_vllm/lab/report/page.html", "missing in the wheel"),
        (LICENSE, "missing in the wheel"),
    ],
)
def test_missing_file_is_named(name: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(StepError, match=f"^{problem}: {name}$"):
        check_contents(*archives(tmp_path, without=name))


@pytest.mark.parametrize("name", ["tests/conftest.py", "hygen_vllm/old.py", "tools/run.py"])
def test_file_that_is_not_of_the_package_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(StepError, match=f"^in the wheel: {name}$"):
        check_contents(*archives(tmp_path, extra=[name]))


def test_profiles_are_those_that_ship() -> None:
    """By the names that `profile` takes."""
    assert {"a100-llama2-7b", "cpu-smollm2-135m"} <= set(profile_names())


def test_command_is_run_without_the_repository_and_settings_of_hygen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise what is checked would not be what a user has."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HYGEN_CONFIG", "hygen.yaml")
    monkeypatch.setenv("KEPT", "kept")
    code = "import os; print(*map(os.environ.get, ['PYTHONPATH', 'HYGEN_CONFIG', 'KEPT']))"
    assert (0, "None None kept\n") == run(python(code), tmp_path)


def test_command_past_its_limit_ends_with_all_that_it_started(tmp_path: Path) -> None:
    """What it wrote until then is in the error."""
    with pytest.raises(StepError, match=r"was not done after 1 s:\nchild \d+\n$") as caught:
        run(HANGING, tmp_path, limit_s=1.0)
    with suppress(ProcessLookupError):  # it is gone already
        end = os.pidfd_open(int(str(caught.value).split()[-1]))
        assert select.select([end], [], [], 10.0)[0] == [end], "its child lives"
        os.close(end)


def test_command_that_fails_is_shown_with_its_output(tmp_path: Path) -> None:
    """stdout and stderr, and the status."""
    code = "import sys; print('so far', flush=True); sys.exit('no further')"
    with pytest.raises(StepError, match=r"ended with 1:\nso far\nno further\n$"):
        succeed(python(code), tmp_path)


def test_output_that_is_not_as_expected_is_shown() -> None:
    with pytest.raises(StepError, match=r"^expected 'hygen 9' in:\nhygen 8$"):
        expect("hygen 9", "hygen 8")


def test_step_that_fails_ends_with_status_1_and_the_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A text as the status of an exit is a 1, with the text on stderr."""
    with pytest.raises(SystemExit) as stop, step("look"):
        raise StepError("there is nothing")
    assert ("there is nothing", "look: failed\n") == (stop.value.code, capsys.readouterr().out)


def test_step_that_succeeds_is_printed_with_its_seconds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with step("look"):
        pass
    assert re.fullmatch(r"look: \d+\.\d s\n", capsys.readouterr().out)
