# SPDX-License-Identifier: Apache-2.0
"""Fixtures of several files of unit tests."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.results import document


@pytest.fixture
def write_result(tmp_path: Path) -> Callable[..., str]:
    """Write a result of a simulation into a file, and return its path as text."""

    def write(name: str = "r.json", **changes: Any) -> str:
        path = tmp_path / name
        path.write_text(json.dumps(document(**changes)), encoding="utf-8")
        return str(path)

    return write
