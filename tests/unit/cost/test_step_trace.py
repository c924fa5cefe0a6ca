# SPDX-License-Identifier: Apache-2.0
"""Step traces: what was written is read, what was cut off or impossible is left out."""

import csv
import gzip
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hygen_vllm.config import ConfigError
from hygen_vllm.cost import trace as step_trace
from hygen_vllm.cost.composition import FEATURES, StepComposition
from hygen_vllm.cost.trace import COLUMNS, FORMAT, VERSION, TracedStep, TraceWriter, header, row
from hygen_vllm.lab.profile.read_trace import features_of, is_measured, read_trace
from tests.support.engines import ENGINE
from tests.support.steps import matrix, mixed_steps

STEPS = [
    TracedStep(i + 1, 100 + i, step, None if i == 0 else 0.01 * i, 0.02 * (i + 1))
    for i, step in enumerate(mixed_steps(seed=0, count=5))
]


def _write(path: Path, steps: list[TracedStep], max_steps: int = 100) -> Path:
    """Write a trace that begins at 100 s and return its file."""
    writer = TraceWriter(path, ENGINE, max_steps, started_s=100.0)
    for step in steps:
        writer.record(step)
    writer.close()
    return writer.path


def _text(*steps: TracedStep) -> str:
    """Return the text of a trace."""
    return header(ENGINE) + "".join(row(step) for step in steps)


def _error(path: Path) -> str:
    """Return the one line that refuses a trace, without the file that it names."""
    with pytest.raises(ConfigError) as caught:
        read_trace(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), "FILE")


# --- there and back ----------------------------------------------------------------------------


def test_steps_written_are_read_back(tmp_path: Path) -> None:
    """Engine, sums, times and predictions, in the order in which they were recorded."""
    engine, table = read_trace(_write(tmp_path / "trace.csv", STEPS))
    assert engine == ENGINE
    assert tuple(table.columns) == COLUMNS
    assert [1, 2, 3, 4, 5] == table["step"].tolist()
    assert [0, 1, 2, 3, 4] == table["completed_s"].tolist()
    assert np.array_equal(matrix([step.composition for step in STEPS]), features_of(table))
    assert pytest.approx([step.seconds for step in STEPS], rel=1e-5) == table["seconds"].tolist()
    assert math.isnan(table["predicted_s"][0])
    assert pytest.approx([0.01, 0.02, 0.03, 0.04]) == table["predicted_s"][1:].tolist()


NUMBERS = st.integers(0, 10**6)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    st.builds(
        StepComposition,
        *(NUMBERS for _ in range(4)),
        st.integers(0, 2 * 10**9).map(lambda halves: halves / 2),
        NUMBERS,
    ),
    st.floats(1e-6, 1e3),
    st.none() | st.floats(1e-6, 1e3),
)
def test_any_row_has_the_columns_of_the_header_and_the_numbers_of_its_step(
    composition: StepComposition, seconds: float, predicted_s: float | None
) -> None:
    """Sums are exact to 12 digits, times to 6."""
    line = row(TracedStep(7, 3.0, composition, predicted_s, seconds), 1.0, batch=4, visit=2)
    cells = dict(zip(COLUMNS, line.removesuffix("\n").split(","), strict=True))
    assert composition.features() == [float(cells[name]) for name in FEATURES]
    assert pytest.approx(seconds, rel=1e-5) == float(cells["seconds"])
    assert pytest.approx(predicted_s or 0, rel=1e-5) == float(cells["predicted_s"] or 0)
    others = [cells[name] for name in ("step", "completed_s", "batch", "visit")]
    assert ["7", "2.000000", "4", "2"] == others


def test_step_whose_time_is_in_part_a_neighbours_is_kept_in_the_file_and_not_read(
    tmp_path: Path,
) -> None:
    """People see every step; whoever learns from a trace sees only times that are a step's own."""
    steps = [replace(step, is_steady=step.step != 3) for step in STEPS]
    path = _write(tmp_path / "trace.csv", steps)
    assert len(path.read_text(encoding="utf-8").splitlines()) == 2 + len(STEPS)
    assert [1, 2, 4, 5] == read_trace(path)[1]["step"].tolist()


def test_trace_that_does_not_say_which_steps_are_steady_is_read_whole(tmp_path: Path) -> None:
    """Traces of older releases stay usable."""
    text = _text(*STEPS).splitlines()
    place = COLUMNS.index("is_steady")
    lines = [",".join(c for i, c in enumerate(line.split(",")) if i != place) for line in text[1:]]
    path = tmp_path / "old.csv"
    path.write_text("\n".join([text[0], *lines, ""]), encoding="utf-8")
    assert len(read_trace(path)[1]) == len(STEPS)


def test_step_recorded_is_in_the_file_at_once(tmp_path: Path) -> None:
    """A killed engine loses nothing but the step under way."""
    writer = TraceWriter(tmp_path / "trace.csv", ENGINE, 100, started_s=0.0)
    for i, step in enumerate(STEPS):
        writer.record(step)
        assert len(read_trace(writer.path)[1]) == i + 1
    writer.close()


def test_file_is_a_header_line_and_plain_csv(tmp_path: Path) -> None:
    """Other tools can read it: JSON after "# ", then a line of names."""
    lines = _write(tmp_path / "trace.csv", STEPS).read_text(encoding="utf-8").splitlines()
    head = json.loads(lines[0].removeprefix("# "))
    assert head == {"format": FORMAT, "version": VERSION, "engine": ENGINE.as_mapping()}
    rows = [*csv.DictReader(lines[1:])]
    assert len(rows) == len(STEPS)
    assert set(COLUMNS) == set(rows[0])


def test_header_with_a_plan_is_read_as_without(tmp_path: Path) -> None:
    """What a profiler wanted to measure is no step."""
    path = tmp_path / "trace.csv"
    plan = {"mixes": 150, "seed": 0}
    path.write_text(header(ENGINE, plan) + row(STEPS[0]), encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[0][2:])["plan"] == plan
    assert (read_trace(path)[0], len(read_trace(path)[1])) == (ENGINE, 1)


def test_gzip_trace_is_read_as_the_plain_one(tmp_path: Path) -> None:
    """A name that ends in .gz is decompressed."""
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(gzip.compress(_text(*STEPS).encode()))
    plain = _write(tmp_path / "trace.csv", [])
    plain.write_text(_text(*STEPS), encoding="utf-8")
    engine, table = read_trace(path)
    assert engine == ENGINE
    assert table.equals(read_trace(plain)[1])


def test_trace_written_to_a_gzip_name_is_refused(tmp_path: Path) -> None:
    """The name says how a file is read, and steps are written at once, as plain text."""
    with pytest.raises(ConfigError, match="it is plain text; leave out"):
        _write(tmp_path / "trace.csv.gz", STEPS)


def test_trace_without_steps_is_an_empty_table(tmp_path: Path) -> None:
    """An engine that never ran has a trace all the same."""
    engine, table = read_trace(_write(tmp_path / "trace.csv", []))
    assert (engine, len(table)) == (ENGINE, 0)
    assert features_of(table).shape == (0, len(FEATURES))


def test_trace_in_the_home_folder_is_written_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path may begin with a tilde, and its folder need not exist."""
    monkeypatch.setenv("HOME", str(tmp_path))
    path = TraceWriter("~/runs/trace.csv", ENGINE, 1, 0.0).path
    assert path == tmp_path / "runs" / "trace.csv"
    assert len(read_trace("~/runs/trace.csv")[1]) == 0


# --- bounds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_steps", [1, 3, 5, 6])
def test_trace_holds_at_most_so_many_steps(tmp_path: Path, max_steps: int) -> None:
    """The first ones; further steps are not written."""
    _, table = read_trace(_write(tmp_path / "trace.csv", STEPS, max_steps))
    assert [*range(1, min(max_steps, 5) + 1)] == table["step"].tolist()


def test_existing_file_is_kept_and_the_next_free_name_taken(tmp_path: Path) -> None:
    """A restart, or another engine with the same setting, loses nothing."""
    path = tmp_path / "trace.csv"
    path.write_text("mine", encoding="utf-8")
    written = [_write(path, STEPS[:count]) for count in (1, 2, 3)]
    assert [tmp_path / f"trace.{number}.csv" for number in (1, 2, 3)] == written
    assert path.read_text(encoding="utf-8") == "mine"
    assert [1, 2, 3] == [len(read_trace(each)[1]) for each in written]


def test_trace_after_any_number_of_restarts_is_made(tmp_path: Path) -> None:
    """The next free name is found, however many are taken."""
    path = tmp_path / "trace.csv"
    path.touch()
    for number in range(1, 1500):
        (tmp_path / f"trace.{number}.csv").touch()
    assert tmp_path / "trace.1500.csv" == _write(path, STEPS[:1])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk without room")
def test_trace_on_a_disk_that_is_full_from_the_start_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line with the reason, whatever of it could be made."""
    monkeypatch.setattr(step_trace, "_open_new", lambda _: open("/dev/full", "w", buffering=1))  # noqa: PTH123, SIM115
    with pytest.raises(ConfigError, match="No space left on device"):
        TraceWriter(tmp_path / "trace.csv", ENGINE, 100, started_s=0.0)


def test_step_after_close_is_not_recorded(tmp_path: Path) -> None:
    """A step in flight at shutdown is dropped, and closing twice does no harm."""
    writer = TraceWriter(tmp_path / "trace.csv", ENGINE, 100, started_s=0.0)
    writer.close()
    writer.record(STEPS[0])
    writer.close()
    assert len(read_trace(writer.path)[1]) == 0


class _FullDisk:
    """A file on a disk without room."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")

    def close(self) -> None:
        raise OSError(28, "No space left on device")


def test_recording_on_a_full_disk_ends_without_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Serving goes on; one line says that recording ended, closing included."""
    writer = TraceWriter(tmp_path / "trace.csv", ENGINE, 100, started_s=0.0)
    writer._file.close()
    writer._file = _FullDisk()
    for step in STEPS:
        writer.record(step)
    expected = f"Recording of steps ends: cannot write {writer.path}: [Errno 28] No space left"
    assert [expected] == [
        record.getMessage().removesuffix(" on device") for record in caplog.records
    ]
    writer.close()


@pytest.mark.parametrize("name", ["file/trace.csv", "x" * 300], ids=["in a file", "too long"])
def test_trace_that_cannot_be_made_is_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    """At the start, in one line, rather than at the first step."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        TraceWriter(tmp_path / name, ENGINE, 100, started_s=0.0)
    assert str(caught.value).startswith(f"cannot write trace {tmp_path / name}: ")
    assert "\n" not in str(caught.value)


# --- what is left out --------------------------------------------------------------------------


def test_last_line_cut_off_anywhere_is_left_out(tmp_path: Path) -> None:
    """Whatever of it was written, the lines before it are read and it is not."""
    path = tmp_path / "trace.csv"
    text, last = _text(*STEPS[:2]), row(STEPS[2])
    for length in range(len(last)):
        path.write_text(text + last[:length], encoding="utf-8")
        assert [1, 2] == read_trace(path)[1]["step"].tolist()
    path.write_text(text + last, encoding="utf-8")
    assert [1, 2, 3] == read_trace(path)[1]["step"].tolist()


@pytest.mark.parametrize("seconds", ["nan", "", "0", "-0.1", "inf", "-inf"])
def test_step_without_a_possible_time_is_left_out(tmp_path: Path, seconds: str) -> None:
    """A clock that went wrong teaches nothing; the rows after it are numbered on."""
    path = tmp_path / "trace.csv"
    cells = row(STEPS[1]).split(",")
    cells[COLUMNS.index("seconds")] = seconds
    path.write_text(_text(STEPS[0]) + ",".join(cells) + row(STEPS[2]), encoding="utf-8")
    _, table = read_trace(path)
    assert [1, 3] == table["step"].tolist()
    assert [0, 1] == table.index.tolist()


def test_times_that_can_be_used_are_finite_and_above_zero() -> None:
    """Whatever numbers they are."""
    times = [math.nan, math.inf, -math.inf, 0.0, -1.0, 5e-324, 1, 0.02]
    assert [False] * 5 + [True] * 3 == is_measured(times).tolist()


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"\xff\xfe\x00",
        b"TIMESTAMP,ContextTokens,GeneratedTokens\n1,2,3\n",
        b"{}",
        b"# {",
        b"# {}\n",
        b'# {"format": 1}\n',
        b"# {not json}\nstep\n",
        b"# a comment\nstep\n",
        b"\x1f\x8b\x08\x00",
    ],
)
def test_foreign_or_empty_file_is_refused(tmp_path: Path, content: bytes) -> None:
    """Bytes, text and tables of any other kind are told from a trace."""
    path = tmp_path / "trace.csv"
    path.write_bytes(content)
    assert _error(path).startswith("FILE is not a hygen-step-trace 1 file: ")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": "hygen-profile"}, "format is hygen-profile 1"),
        ({"version": 2}, "format is hygen-step-trace 2"),
        ({"version": "1"}, "format is hygen-step-trace 1"),
        ({"engine": None}, "engine is not an object"),
        ({"engine": {}}, "engine lacks or does not know: architecture, block_size"),
        ({"engine": ENGINE.as_mapping() | {"device": 7}}, "engine.device must be str, got 7"),
    ],
)
def test_trace_with_a_foreign_header_is_refused_with_the_reason(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    """A later version, or an engine that is none, is not read as if it were known."""
    path = tmp_path / "trace.csv"
    first, rest = _text(*STEPS).split("\n", 1)
    path.write_text(f"# {json.dumps(json.loads(first[2:]) | changes)}\n{rest}", encoding="utf-8")
    assert _error(path).startswith(f"FILE is not a hygen-step-trace 1 file: {reason}")


@pytest.mark.parametrize("name", ["format", "version", "engine"])
def test_trace_with_a_header_that_lacks_a_part_is_refused_with_its_name(
    tmp_path: Path, name: str
) -> None:
    """What is missing is not made up."""
    path = tmp_path / "trace.csv"
    first, rest = _text(*STEPS).split("\n", 1)
    head = json.loads(first[2:])
    del head[name]
    path.write_text(f"# {json.dumps(head)}\n{rest}", encoding="utf-8")
    assert _error(path) == f"FILE is not a hygen-step-trace 1 file: no '{name}'"


@pytest.mark.parametrize("name", [*FEATURES, "seconds"])
def test_trace_without_a_column_is_refused_with_its_name(tmp_path: Path, name: str) -> None:
    """A sum that is not there is not taken for 0."""
    path = tmp_path / "trace.csv"
    path.write_text(_text(*STEPS).replace(f",{name},", ",other,"), encoding="utf-8")
    assert _error(path) == f"FILE is not a hygen-step-trace 1 file: no column {name}"


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("value", ["-1", "nan", "", "inf", "many"])
def test_trace_with_an_impossible_sum_is_refused(tmp_path: Path, name: str, value: str) -> None:
    """A damaged row is not skipped: nobody knows what else is damaged."""
    path = tmp_path / "trace.csv"
    cells = row(STEPS[1]).split(",")
    cells[COLUMNS.index(name)] = value
    path.write_text(_text(STEPS[0]) + ",".join(cells) + row(STEPS[2]), encoding="utf-8")
    assert _error(path).startswith("FILE is not a hygen-step-trace 1 file: ")


@pytest.mark.parametrize("number", [0, 1])
def test_trace_with_a_line_run_into_the_next_is_refused(tmp_path: Path, number: int) -> None:
    """A line with more cells than names, the first one too, shifts no number."""
    path = tmp_path / "trace.csv"
    lines = [row(step, batch=5, visit=3) for step in STEPS[1:4]]
    lines[number] = lines[number].removesuffix("\n") + ",7\n"
    path.write_text(header(ENGINE) + "".join(lines), encoding="utf-8")
    assert _error(path).startswith("FILE is not a hygen-step-trace 1 file: ")


def test_gzip_trace_cut_short_or_not_compressed_is_refused(tmp_path: Path) -> None:
    """A download that broke off, or a plain file of that name, is one line."""
    path = tmp_path / "trace.csv.gz"
    data = gzip.compress(_text(*STEPS).encode())
    for content in (data[:20], data[:-9], _text(*STEPS).encode(), b""):
        path.write_bytes(content)
        _error(path)
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 0xFF
    path.write_bytes(damaged)
    _error(path)


def test_trace_that_is_missing_or_a_folder_is_named_with_the_reason(tmp_path: Path) -> None:
    """What the system says about the path is in the line."""
    assert _error(tmp_path / "gone.csv") == "cannot read trace FILE: No such file or directory"
    assert _error(tmp_path) == "cannot read trace FILE: Is a directory"


def test_trace_of_a_user_without_a_home_folder_is_refused() -> None:
    """A tilde that leads nowhere is one line, for reading and for writing."""
    _error(Path("~nobody-of-this-name/trace.csv"))
    with pytest.raises(ConfigError, match="~nobody-of-this-name"):
        TraceWriter("~nobody-of-this-name/trace.csv", ENGINE, 1, started_s=0.0)
