# SPDX-License-Identifier: Apache-2.0
"""Profile files: what was saved is loaded bit for bit, and nothing else is loaded at all."""

import json
from pathlib import Path
from typing import Any

import pytest

from hygen_vllm.config import ConfigError
from hygen_vllm.latency.profile_file import FORMAT, VERSION, load_cost, save_cost
from hygen_vllm.latency.step_cost import StepCost

COST = StepCost(0.1, 1 / 3, 1e-9, 2e-3, 1e-4, 1.7e-8, 5e-324, hinge_token_s=(0.0, 1e-5, 2e-6, 1.0))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A saved profile."""
    path = tmp_path / "profile.json"
    save_cost(COST, path)
    return path


def _error(path: Path) -> str:
    """Return the one line that refuses a profile; it names the file."""
    with pytest.raises(ConfigError) as caught:
        load_cost(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_saved_cost_loads_as_the_same_numbers(path: Path) -> None:
    """Nothing is lost on the way through the file, to the last bit."""
    assert load_cost(str(path)) == COST


def test_save_to_an_existing_file_replaces_it(path: Path) -> None:
    """Whatever the file held before is gone."""
    other = StepCost(1, 2, 3, 4, 5, 6, 7, hinge_token_s=(8, 9, 10, 11))
    path.write_text("x" * 10_000)
    save_cost(other, path)
    assert load_cost(str(path)) == other


def test_saved_file_states_format_and_version(path: Path) -> None:
    """A reader can tell what it is before it reads a number."""
    document = json.loads(path.read_text(encoding="utf-8"))
    assert (document["format"], document["version"]) == (FORMAT, VERSION)
    assert document["coefficients"]["base_s"] == COST.base_s
    assert document["coefficients"]["hinge_token_s"] == list(COST.hinge_token_s)


def test_profile_in_the_home_folder_is_found(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path may begin with a tilde."""
    monkeypatch.setenv("HOME", str(path.parent))
    assert load_cost("~/profile.json") == COST


def test_profile_that_is_missing_or_a_folder_is_named_with_the_reason(tmp_path: Path) -> None:
    """What the system says about the path is in the line."""
    gone = tmp_path / "gone.json"
    assert _error(gone) == f"cannot read profile {gone}: No such file or directory"
    assert _error(tmp_path) == f"cannot read profile {tmp_path}: Is a directory"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_profile_cut_short_is_refused(path: Path, share: float) -> None:
    """A file that was not written to its end is no profile."""
    text = path.read_text(encoding="utf-8")
    path.write_text(text[: int(share * len(text))], encoding="utf-8")
    assert _error(path).startswith(f"profile {path} is not a hygen-step-cost 1 file: ")


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00",
        b"mode: fixed\n",
        b"[1, 2]",
        b"null",
        b"7",
        b'"text"',
        b"{}",
        b'{"format": 1}',
    ],
)
def test_profile_that_is_another_file_is_refused(path: Path, content: bytes) -> None:
    """Bytes, text and JSON of any other kind are told from a profile."""
    path.write_bytes(content)
    assert _error(path).startswith(f"profile {path} is not a hygen-step-cost 1 file: ")


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("format", "hygen-profile", ": format is hygen-profile 1"),
        ("version", 2, ": format is hygen-step-cost 2"),
        ("version", "1", ": format is hygen-step-cost 1"),
        ("coefficients", None, "NoneType"),
        ("coefficients", [1, 2], "sequence"),
        ("coefficients", {}, "hinge_token_s"),
    ],
)
def test_profile_with_a_foreign_part_is_refused_with_the_reason(
    path: Path, field: str, value: Any, reason: str
) -> None:
    """Another format or a later version is not read as if it were this one."""
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(document | {field: value}), encoding="utf-8")
    assert reason in _error(path)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("base_s", -0.1, "must be finite and >= 0, got -0.1"),
        ("decode_token_s", float("nan"), "must be finite and >= 0, got nan"),
        ("prefill_s", float("inf"), "must be finite and >= 0, got inf"),
        ("prefill_token_s", "0.1", "not supported between instances"),
        ("prefill_attention_s", None, "not supported between instances"),
        ("hinge_token_s", [0.0, 0.0, 0.0], "a step cost has 11 numbers, got 10"),
        ("hinge_token_s", 0.0, "not iterable"),
        ("extra_s", 0.1, "extra_s"),
    ],
)
def test_profile_with_a_wrong_coefficient_is_refused_with_the_reason(
    path: Path, name: str, value: Any, reason: str
) -> None:
    """One bad number is enough: the rest is not used."""
    document = json.loads(path.read_text(encoding="utf-8"))
    document["coefficients"][name] = value
    path.write_text(json.dumps(document), encoding="utf-8")
    assert reason in _error(path)


@pytest.mark.parametrize("name", ["base_s", "prefill_context_token_s", "hinge_token_s"])
def test_profile_without_a_coefficient_is_refused_with_its_name(path: Path, name: str) -> None:
    """What is missing is not taken for zero."""
    document = json.loads(path.read_text(encoding="utf-8"))
    del document["coefficients"][name]
    path.write_text(json.dumps(document), encoding="utf-8")
    assert name in _error(path)
