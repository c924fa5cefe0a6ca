# SPDX-License-Identifier: Apache-2.0
"""Fetching public data: once, whole, and only if it is what was used here."""

import hashlib
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "experiments"))

from fetch_data import SOURCES, Source, checksum, fetch

from hygen_vllm.lab.workloads.sources import ARXIV, AZURE, MOONCAKE, SHAREGPT

TEXT = b"TIMESTAMP,ContextTokens\n"


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """A public file, on this machine."""
    file = tmp_path / "public.csv"
    file.write_bytes(TEXT)
    return Source("there/data.csv", file.as_uri(), hashlib.sha256(TEXT).hexdigest(), "CC0")


def test_file_is_fetched_once(source: Source, tmp_path: Path) -> None:
    root = tmp_path / "data"
    fetch(source, root)
    assert TEXT == (root / "there" / "data.csv").read_bytes()
    assert ["data.csv"] == [path.name for path in (root / "there").iterdir()]
    fetch(replace(source, url="file:///nowhere"), root)


def test_file_that_is_another_is_refused(source: Source, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"public.csv is not the file that was used here"):
        fetch(replace(source, sha256="0" * 64), tmp_path / "data")


def test_folders_are_taken_out_of_an_archive_and_nothing_else(tmp_path: Path) -> None:
    for name in ("data/dev/a.csv", "data/test/b.csv", "data/other/c.csv", "data/dev/d.txt"):
        file = tmp_path / "made" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name, encoding="utf-8")
    with tarfile.open(tmp_path / "data.tar", "w") as tar:
        tar.add(tmp_path / "made" / "data", "data")
    text = b"dev/a.csvdata/dev/a.csvtest/b.csvdata/test/b.csv"
    source = Source(
        "mmlu",
        (tmp_path / "data.tar").as_uri(),
        hashlib.sha256(text).hexdigest(),
        "MIT",
        ("data/dev", "data/test"),
    )
    fetch(source, tmp_path / "root")
    found = sorted((tmp_path / "root").rglob("*.*"))
    assert ["a.csv", "b.csv"] == [path.name for path in found]
    assert source.sha256 == checksum(source, tmp_path / "root")


def test_sources_are_the_files_that_workloads_are_looked_for_in() -> None:
    paths = {source.path for source in SOURCES}
    assert {str(path) for path in (ARXIV, AZURE, MOONCAKE, SHAREGPT)} <= paths
    assert {"gsm8k/train.jsonl", "gsm8k/test.jsonl", "mmlu"} <= paths
    assert len(paths) == len(SOURCES)
