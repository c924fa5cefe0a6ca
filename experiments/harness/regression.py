# SPDX-License-Identifier: Apache-2.0
"""Is something slower than a committed table says? Ratios of two things measured in one run.

A machine's speed does not matter, since both are measured on it. A row whose ratio is too high is
measured again, alone and with more effort, before it counts as worse.
"""

import argparse
import csv
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

Row = Mapping[str, str]
"""A line of a committed table."""
TOLERANCE = 0.15
"""Share of a committed ratio by which a measured one may be higher."""
EFFORTS = (1, 3, 3)
"""Of the tries: the last ones measure three times as long."""
OK, WORSE = "ok", "worse"
NOT_COMMITTED = "no ratio committed"
NOT_MEASURED = "cannot be measured"


@dataclass(frozen=True)
class Verdict:
    """What came of a row; `committed` and `measured` are None where there is no ratio."""

    row: str
    committed: float | None
    measured: float | None
    verdict: str

    @property
    def is_bad(self) -> bool:
        return self.verdict not in {OK, NOT_COMMITTED}


def compare(
    rows: Iterable[Row], keys: Sequence[str], measure: Callable[[Row, int], float]
) -> list[Verdict]:
    """Return what comes of each row of a committed table when it is measured now.

    Args:
        keys: columns that say which case a row is.
        measure: measures the ratio of a row's case; its second argument is 1, or 3 for three times
            as long. Raises LookupError if there is no such case.
    """
    return [_verdict(row, ", ".join(row[key] for key in keys), measure) for row in rows]


def _verdict(row: Row, name: str, measure: Callable[[Row, int], float]) -> Verdict:
    committed = ratio_of(row)
    if committed is None:
        return Verdict(name, None, None, NOT_COMMITTED)
    measured = []
    for effort in EFFORTS:
        try:
            ratio = measure(row, effort)
        except LookupError:
            return Verdict(name, committed, None, NOT_MEASURED)
        if ratio <= committed * (1.0 + TOLERANCE):  # NaN is not
            return Verdict(name, committed, ratio, OK)
        measured.append(ratio)
    least = min((each for each in measured if not math.isnan(each)), default=math.nan)
    return Verdict(name, committed, least, WORSE)


def ratio_of(row: Row) -> float | None:
    """Return the ratio of a row; None if it has none, or a text."""
    try:
        ratio = float(row.get("ratio") or math.nan)
    except ValueError:
        return None
    return ratio if math.isfinite(ratio) else None


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a committed table."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def add_check(parser: argparse.ArgumentParser) -> None:
    """Add --check to a benchmark."""
    parser.add_argument(
        "--check",
        type=Path,
        metavar="FILE",
        help="measure shortly instead, and fail where a ratio is far above that of this table",
    )
    parser.add_argument("--verdicts", type=Path, help=argparse.SUPPRESS)


def report(verdicts: Sequence[Verdict], out: Path | None = None) -> int:
    """Print what came of rows, and write it as JSON if wanted; return the exit status.

    It is 1 if a row is worse or cannot be measured, and if none has a ratio.
    """
    print(table_of([("row", "committed", "measured", "verdict"), *map(cells_of, verdicts)]))
    if out is not None:
        out.write_text(json.dumps([asdict(each) for each in verdicts]), encoding="utf-8")
    has_ratio = any(each.verdict != NOT_COMMITTED for each in verdicts)
    return int(not has_ratio or any(each.is_bad for each in verdicts))


def cells_of(verdict: Verdict) -> tuple[str, ...]:
    """Return a line of the table."""
    ratios = (verdict.committed, verdict.measured)
    texts = ("" if ratio is None else f"{ratio:.3f}" for ratio in ratios)
    return (verdict.row, *texts, verdict.verdict)


def table_of(rows: Sequence[Sequence[str]]) -> str:
    """Return rows with their columns below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{c:{w}}" for c, w in zip(r, widths, strict=True)) for r in rows)
    return "\n".join(line.rstrip() for line in lines)
