# SPDX-License-Identifier: Apache-2.0
"""Prints the rows of a result and keeps them as CSV."""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows to stdout and to a file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        for stream in (sys.stdout, file):
            writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
