# SPDX-License-Identifier: Apache-2.0
"""prepare_small_model converts once and never hands out a half-written folder."""

import importlib.util
from pathlib import Path

import pytest

from hygen_vllm.lab import small_model


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Replace the conversion by one that writes a single file, and record each call."""
    calls: list[Path] = []

    def convert(gguf_dir: Path, new_dir: Path) -> None:
        calls.append(new_dir)
        new_dir.mkdir()
        (new_dir / "config.json").write_text("{}")

    monkeypatch.setattr(small_model, "_find_gguf_dir", lambda: Path("gguf"))
    monkeypatch.setattr(small_model, "_convert", convert)
    monkeypatch.setattr(small_model, "_check_answer", lambda new_dir: None)
    return calls


def test_second_call_reuses_the_folder(tmp_path: Path, conversions: list[Path]) -> None:
    """Two calls convert once and return the same whole folder."""
    first = small_model.prepare_small_model(tmp_path)
    assert small_model.prepare_small_model(tmp_path) == first
    assert (first / "config.json").exists()
    assert len(conversions) == 1


def test_folder_without_marker_is_converted_again(tmp_path: Path, conversions: list[Path]) -> None:
    """A folder that lacks the marker was not finished: it is replaced."""
    half_written = tmp_path / small_model.MODEL_NAME
    half_written.mkdir()
    (half_written / "torn.safetensors").touch()
    assert small_model.prepare_small_model(tmp_path) == half_written
    assert not (half_written / "torn.safetensors").exists()
    assert len(conversions) == 1


def test_wrong_answer_leaves_no_folder(
    tmp_path: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that fails its check never appears under its name."""

    def fail(new_dir: Path) -> None:
        raise RuntimeError("not Paris")

    monkeypatch.setattr(small_model, "_check_answer", fail)
    with pytest.raises(RuntimeError, match="not Paris"):
        small_model.prepare_small_model(tmp_path)
    assert not (tmp_path / small_model.MODEL_NAME).exists()


def test_cache_folder_comes_from_the_environment(
    tmp_path: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """HYGEN_CACHE names the cache when the caller does not."""
    monkeypatch.setenv("HYGEN_CACHE", str(tmp_path))
    assert small_model.prepare_small_model().parent == tmp_path


def test_missing_package_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the extra [cpu] the error says what is missing and how to install it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(ModuleNotFoundError, match=r"needs torch: pip install") as error:
        small_model.prepare_small_model(tmp_path)
    assert "\n" not in str(error.value)
