# SPDX-License-Identifier: Apache-2.0
"""Results are written once, and survive a crash."""

import json

import pytest

from hygen_vllm.batch.results_file import ResultsFile


def row(custom_id, error=None):
    return {"custom_id": custom_id, "error": error}


def ids(path):
    return [json.loads(line)["custom_id"] for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out.jsonl"


def test_result_is_there_at_once(path):
    """Before the file is closed."""
    results = ResultsFile(path, resume=False)
    assert results.write(row("a"))
    assert ["a"] == ids(path)
    results.close()


def test_result_is_written_once(path):
    """The first one counts."""
    results = ResultsFile(path, resume=False)
    assert [True, False] == [results.write(row("a")), results.write(row("a", {"code": "500"}))]
    results.close()
    assert ["a"] == ids(path)


def test_file_with_results_is_not_overwritten(path):
    """Unless it is gone on with."""
    path.write_text(json.dumps(row("a")) + "\n")
    with pytest.raises(FileExistsError, match="--resume"):
        ResultsFile(path, resume=False)
    assert ["a"] == ids(path)


def test_results_are_gone_on_with(path):
    """What is there is known."""
    path.write_text("".join(json.dumps(r) + "\n" for r in (row("a"), row("b", {"code": "400"}))))
    results = ResultsFile(path, resume=True)
    assert ({"a", "b"}, 1) == (results.done, results.num_failed)
    results.write(row("c"))
    results.close()
    assert ["a", "b", "c"] == ids(path)


@pytest.mark.parametrize("cut_off", ['{"custom_id": "b"', "x", json.dumps(row("b"))])
def test_line_that_was_cut_off_is_removed(path, cut_off):
    """Without an end of the line nobody knows whether it is whole."""
    path.write_text(json.dumps(row("a")) + "\n" + cut_off)
    results = ResultsFile(path, resume=True)
    assert {"a"} == results.done
    results.write(row("b"))
    results.close()
    assert ["a", "b"] == ids(path)


@pytest.mark.parametrize("text", ["x\n", "{}\n", "[1]\n", "3\n"])
def test_other_files_are_left_alone(path, text):
    """They are no results."""
    path.write_text(text)
    with pytest.raises(ValueError, match="line 1: not a result"):
        ResultsFile(path, resume=True)
    assert text == path.read_text()
