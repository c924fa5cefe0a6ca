# SPDX-License-Identifier: Apache-2.0
"""Files that settings name are looked at before a model is loaded."""

import json
from pathlib import Path
from typing import Any

import pytest

from hygen_vllm.config import ConfigError, HyGenConfig
from hygen_vllm.engine.plugin import check_files


def checked(**settings: Any) -> None:
    check_files(HyGenConfig(**settings))


def test_files_that_can_be_used_are_fine(tmp_path: Path) -> None:
    """Nothing is written but the folder of a trace."""
    reference = tmp_path / "alone.json"
    reference.write_text(json.dumps({"online": {"tbt_s": {"p99": 0.04}, "ttft_s": {}}}), "utf-8")
    trace = tmp_path / "new" / "trace.csv"
    checked(slos=["tbt_p99=+10%"], slo_reference=str(reference), trace=str(trace))
    checked()
    assert not trace.exists()


@pytest.mark.parametrize(
    ("slo", "content", "reason"),
    [
        ("tbt_p99=+10%", None, "No such file"),
        ("tbt_p99=+10%", "{", "reference"),
        ("ttft_mean=+10%", '{"online": {"tbt_s": {"p99": 0.04}}}', "has no ttft_mean"),
    ],
)
def test_reference_that_cannot_be_used_is_refused(
    tmp_path: Path, slo: str, content: str | None, reason: str
) -> None:
    """Missing, damaged, or without the statistic that a target needs: in one line."""
    reference = tmp_path / "alone.json"
    if content is not None:
        reference.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=reason) as error:
        checked(slos=[slo], slo_reference=str(reference))
    assert "\n" not in str(error.value)


def test_trace_where_no_file_can_be_made_is_refused(tmp_path: Path) -> None:
    """In one line with the reason."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot write trace .*: (Not a directory|File exists)"):
        checked(trace=str(tmp_path / "file" / "trace.csv"))
