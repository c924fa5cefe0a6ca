# SPDX-License-Identifier: Apache-2.0
"""Tables: CSV for programs, Markdown for people."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.experiment import Row


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write rows, which may differ in their columns; floats with six digits."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)


def _cell(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], num_texts: int = 1) -> str:
    """Return a table, whose first `num_texts` columns are text and the others numbers."""
    rule = ["---"] * num_texts + ["---:"] * (len(header) - num_texts)
    lines = [header, rule, *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
