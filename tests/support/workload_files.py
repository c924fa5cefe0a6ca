# SPDX-License-Identifier: Apache-2.0
"""Small workload files, and what every refusal of one has in common."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

needs_data = pytest.mark.skipif(
    not os.environ.get("HYGEN_DATA"), reason="HYGEN_DATA is not set: no real trace"
)


class LetterTokenizer:
    """A token for each character."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


def write_lines(path: Path, *lines: str) -> Path:
    """Write a text file, its folder as well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def refusal(read: Callable[[], object]) -> str:
    """Return why a call raises ValueError, which must be one line of a bearable length."""
    with pytest.raises(ValueError, match=r"\A.+\Z") as caught:
        read()
    message = str(caught.value)
    assert len(message) < 600
    return message
