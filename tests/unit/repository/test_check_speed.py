# SPDX-License-Identifier: Apache-2.0
"""A ratio far above the committed one is found, noise and a faster machine are not."""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "experiments"))

import check_speed
from harness.regression import (
    Verdict,
    add_check,
    compare,
    ratio_of,
    read_rows,
    report,
    table_of,
)

COMMITTED = [
    {"running": "16", "case": "online only", "ratio": "1.0"},
    {"running": "16", "case": "half offline", "ratio": "2.0"},
]
KEYS = ("running", "case")


class Measurements:
    """Ratios of each case, one a try; remembers the efforts."""

    def __init__(self, **ratios: Sequence[float]) -> None:
        self._ahead = {name.replace("_", " "): [*some] for name, some in ratios.items()}
        self.efforts: list[tuple[str, int]] = []

    def __call__(self, row: Mapping[str, str], effort: int) -> float:
        self.efforts.append((row["case"], effort))
        return self._ahead[row["case"]].pop(0)


def verdicts_of(measure: Measurements) -> list[str]:
    return [each.verdict for each in compare(COMMITTED, KEYS, measure)]


def test_a_row_within_the_tolerance_is_measured_once() -> None:
    measure = Measurements(online_only=[1.15], half_offline=[0.1])
    first, second = compare(COMMITTED, KEYS, measure)
    assert Verdict("16, online only", 1.0, 1.15, "ok") == first
    assert Verdict("16, half offline", 2.0, 0.1, "ok") == second, "faster is no fault"
    assert [("online only", 1), ("half offline", 1)] == measure.efforts


def test_only_the_row_that_is_too_slow_is_measured_again_and_longer() -> None:
    measure = Measurements(online_only=[1.0], half_offline=[2.4, 2.31, 2.29])
    assert ["ok", "ok"] == verdicts_of(measure)
    slow = [("half offline", 1), ("half offline", 3), ("half offline", 3)]
    assert [("online only", 1), *slow] == measure.efforts


def test_a_row_that_stays_too_slow_is_worse_and_shows_the_least_ratio() -> None:
    measure = Measurements(online_only=[1.2, 1.16, 1.3], half_offline=[2.0])
    first, second = compare(COMMITTED, KEYS, measure)
    assert Verdict("16, online only", 1.0, 1.16, "worse") == first
    assert first.is_bad
    assert not second.is_bad
    assert 4 == len(measure.efforts), "no fourth try"


def test_not_a_number_is_worse_than_any_ratio() -> None:
    nan = math.nan
    measure = Measurements(online_only=[nan, nan, nan], half_offline=[nan, 9.0, 8.0])
    first, second = compare(COMMITTED, KEYS, measure)
    assert ["worse", "worse"] == [first.verdict, second.verdict]
    assert first.measured is not None
    assert math.isnan(first.measured)
    assert 8.0 == second.measured
    assert ["ok", "ok"] == verdicts_of(Measurements(online_only=[nan, 1.0], half_offline=[2.0])), (
        "which may be noise"
    )


def test_a_row_whose_case_is_gone_cannot_be_measured() -> None:
    first, second = compare(COMMITTED, KEYS, Measurements(half_offline=[2.0]))
    assert Verdict("16, online only", 1.0, None, "cannot be measured") == first
    assert first.is_bad
    assert not second.is_bad


@pytest.mark.parametrize("ratio", [None, "", "nan", "inf", "4.9 us an add"])
def test_a_row_without_a_committed_ratio_is_not_measured_and_no_fault(ratio: str | None) -> None:
    row = {"running": "16", "case": "half offline", **({} if ratio is None else {"ratio": ratio})}
    measure = Measurements()
    (verdict,) = compare([row], KEYS, measure)
    assert Verdict("16, half offline", None, None, "no ratio committed") == verdict
    assert not verdict.is_bad
    assert [] == measure.efforts
    assert ratio_of(row) is None


OK = Verdict("a", 1.0, 1.0, "ok")
OPEN = Verdict("b", None, None, "no ratio committed")
WORSE = Verdict("c", 1.0, 1.5, "worse")
GONE = Verdict("d", 1.0, None, "cannot be measured")


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [([OK, OPEN], 0), ([OK, WORSE], 1), ([GONE], 1), ([], 1)],
    ids=["fine", "worse", "gone", "nothing was checked"],
)
def test_exit_status_says_whether_a_row_is_worse(
    verdicts: list[Verdict], status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status == report(verdicts, tmp_path / "out.json")
    out = capsys.readouterr().out
    assert all(each.verdict in out for each in verdicts)
    assert verdicts == [Verdict(**each) for each in json.loads((tmp_path / "out.json").read_text())]


def test_columns_of_a_table_are_below_each_other() -> None:
    assert "row   ratio\nlong  1.0" == table_of([("row", "ratio"), ("long", "1.0")])


def test_a_committed_table_is_read_with_its_commas(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('case,ratio\n"a, b",1.5\n', encoding="utf-8")
    assert [{"case": "a, b", "ratio": "1.5"}] == read_rows(path)


SCRIPT = """
import argparse, sys
from pathlib import Path
sys.path.insert(0, {harness!r})
from harness.regression import add_check, compare, read_rows, report
parser = argparse.ArgumentParser()
parser.add_argument("--times", type=float, default=1.0)
add_check(parser)
options = parser.parse_args()
print("noise")
rows = read_rows(options.check)
verdicts = compare(rows, ["case"], lambda row, _: float(row["ratio"]) * options.times)
sys.exit(report(verdicts, options.verdicts))
"""


@pytest.fixture
def benchmarks(tmp_path: Path) -> Path:
    """Return a folder with a benchmark, one that breaks, and a committed table."""
    harness = str(Path(check_speed.__file__).parent)
    (tmp_path / "run.py").write_text(SCRIPT.format(harness=harness), encoding="utf-8")
    (tmp_path / "broken.py").write_text("raise OSError\n", encoding="utf-8")
    (tmp_path / "t.csv").write_text("case,ratio\na,1.0\nb,2.0\n", encoding="utf-8")
    return tmp_path


def test_all_checks_are_run_and_shown_in_one_table(
    benchmarks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checks = {
        "slow": ("run.py", "t.csv", "--times", "1.2"),
        "fast": ("run.py", "t.csv", "--times", "0.5"),
    }
    assert 1 == check_speed.run(checks, benchmarks)
    lines = capsys.readouterr().out.splitlines()
    assert ["benchmark", "row", "committed", "measured", "verdict"] == lines[0].split()
    assert ["slow", "a", "1.000", "1.200", "worse"] == lines[1].split()
    assert ["fast", "b", "2.000", "1.000", "ok"] == lines[4].split()
    assert "4 rows, 2 worse, 0 that cannot be measured" == lines[5]
    assert 0 == check_speed.run({"fast": checks["fast"]}, benchmarks)


def test_a_benchmark_that_breaks_fails_the_check(
    benchmarks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 1 == check_speed.run({"broken": ("broken.py", "t.csv")}, benchmarks)
    assert "1 that cannot be measured" in capsys.readouterr().out


def test_a_table_without_a_ratio_fails_the_check(
    benchmarks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whose column was renamed, say: its script ends with 1, and no row of it is bad."""
    (benchmarks / "t.csv").write_text("case,ratio\na,\nb,\n", encoding="utf-8")
    assert 1 == check_speed.run({"none": ("run.py", "t.csv")}, benchmarks)
    assert "1 that cannot be measured" in capsys.readouterr().out


def test_checks_name_scripts_and_tables_that_are_there() -> None:
    for script, table, *_ in check_speed.CHECKS.values():
        assert (check_speed.HERE / script).is_file()
        assert read_rows(check_speed.HERE / table)


def test_unknown_check_is_refused_with_those_that_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        check_speed.main(["scheduling"])
    assert "no check 'scheduling'; there are scheduler, " in capsys.readouterr().err


def test_check_is_left_out_by_default() -> None:
    parser = argparse.ArgumentParser()
    add_check(parser)
    assert parser.parse_args([]).check is None
    assert "--check FILE" in parser.format_help()
