# SPDX-License-Identifier: Apache-2.0
"""The supported vLLM releases: a range declared once, and one line for what lies outside."""

import os
import subprocess
import sys

import pytest

from hygen_vllm.engine.release import (
    ALLOW_VARIABLE,
    SUPPORTED_BELOW,
    SUPPORTED_FROM,
    UnsupportedReleaseError,
    check_release,
    is_supported,
    supported_range,
)

UNSUPPORTED = ["0.30.9", "0.34.0", "0.34.0rc1", "1.0.0", "1.32.0", "0.3.1", "0.310.0"]
NO_RELEASE = ["dev", "", "0", "0.x", "unknown.version"]


@pytest.fixture(autouse=True)
def _nothing_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALLOW_VARIABLE, raising=False)


@pytest.mark.parametrize(
    "version",
    ["0.31.0", "0.32.0", "0.33.0", "0.31", "0.32.0+cpu", "0.33.1rc2.dev3+g1a2b3c4", "0.33.99"],
)
def test_release_inside_the_range_is_supported(version: str) -> None:
    """Patch releases, candidates and local builds of a supported release are supported."""
    assert is_supported(version)
    check_release(version)


@pytest.mark.parametrize("version", UNSUPPORTED + NO_RELEASE)
def test_release_outside_the_range_stops_with_range_version_and_remedy(version: str) -> None:
    """Numbers are compared as numbers; what is no version is not supported."""
    assert not is_supported(version)
    with pytest.raises(RuntimeError) as caught:
        check_release(version)
    message = str(caught.value)
    assert message.startswith(f"hygen-vllm supports vLLM {supported_range()}, found {version}; ")
    assert "install a supported vLLM release" in message
    assert "leave out --scheduler-cls" in message
    assert "set HYGEN_ALLOW_UNSUPPORTED_VLLM=1 to try it at your own risk" in message
    assert "\n" not in message


def test_supported_range_reads_as_the_declared_requirement() -> None:
    """The text in messages and requirements is the declared range, upper end excluded."""
    (from_major, from_minor), (below_major, below_minor) = SUPPORTED_FROM, SUPPORTED_BELOW
    expected = f">={from_major}.{from_minor},<{below_major}.{below_minor}"
    assert supported_range() == expected == ">=0.31,<0.34"
    assert is_supported(f"{from_major}.{from_minor}.0")
    assert not is_supported(f"{below_major}.{below_minor}.0")


@pytest.mark.parametrize("value", ["", "0", "false", "False"])
def test_variable_that_says_no_allows_nothing(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW_VARIABLE, value)
    with pytest.raises(
        UnsupportedReleaseError, match=r"supports vLLM >=0\.31,<0\.34, found 0\.34\.0"
    ):
        check_release("0.34.0")


@pytest.mark.parametrize("value", ["yes", "2", " 1", "on\noff"])
def test_variable_that_says_neither_stops_with_one_line(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt value is never taken for a yes or a no."""
    monkeypatch.setenv(ALLOW_VARIABLE, value)
    with pytest.raises(UnsupportedReleaseError) as caught:
        check_release("0.34.0")
    expected = f"{ALLOW_VARIABLE} must be 1, true, 0 or false, got {value!r}"
    assert (expected, 0) == (str(caught.value), str(caught.value).count("\n"))


def test_supported_release_is_not_warned_about(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(ALLOW_VARIABLE, "1")
    check_release("0.33.0")
    assert [] == caplog.records


CHECKS = """
import logging, sys
from hygen_vllm.engine.release import check_release
{}
for _ in range(3):
    check_release("0.34.0")
print("vllm" in sys.modules)
"""
AS_VLLM_LOGS = """
handler = logging.StreamHandler(sys.stdout)
handler.setFormatter(logging.Formatter("%(levelname)s here: %(message)s"))
logging.getLogger("vllm").addHandler(handler)
logging.getLogger("vllm").propagate = False
"""


def _output(set_up: str, value: str) -> tuple[list[str], list[str]]:
    """Return the lines on stdout and stderr of a process that checks one release three times."""
    command = [sys.executable, "-c", CHECKS.format(set_up)]
    environment = os.environ | {ALLOW_VARIABLE: value}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return done.stdout.splitlines(), done.stderr.splitlines()


@pytest.mark.parametrize("value", ["1", "true", "True"])
def test_allowed_release_is_warned_about_once_in_a_process(value: str) -> None:
    """One line on stderr names range, release and variable; vLLM is not imported for it."""
    printed, warned = _output("", value)
    assert (["False"], 1) == (printed, len(warned))
    assert warned[0].startswith(f"hygen-vllm supports vLLM {supported_range()}, found 0.34.0; ")
    assert ALLOW_VARIABLE in warned[0]


def test_warning_is_a_line_of_the_log_of_vllm() -> None:
    """It goes where vLLM's own messages go, and nowhere else."""
    printed, warned = _output(AS_VLLM_LOGS, "1")
    assert (2, []) == (len(printed), warned)
    assert printed[0].startswith("WARNING here: hygen-vllm supports vLLM ")
