# SPDX-License-Identifier: Apache-2.0
"""The measuring loop of `hygen profile`: every visit once, whatever interrupts it.

A stand-in for the engine takes times that depend on the shape alone, so that the trace of a run
that was interrupted must be, byte for byte, that of one that was not.
"""

import itertools
import random
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hygen_vllm.config import ConfigError
from hygen_vllm.cost.engine_info import EngineInfo
from hygen_vllm.cost.trace import TracedStep, header
from hygen_vllm.lab.profile import run
from hygen_vllm.lab.profile.batch_shapes import NUM_STEPS, BatchShape, design
from hygen_vllm.lab.profile.read_trace import read_trace
from hygen_vllm.lab.profile.run import WARM_UP_VISITS, ProfileOptions, Visit, measure, plan_visits
from tests.support.step_traces import ENGINE, steps_in_a_row

SMALL = replace(ENGINE, max_num_batched_tokens=16, max_num_seqs=2, max_model_len=32)
PLAN = {"mixes": 2, "repeats": 2, "seed": 5}
SHAPES = design(SMALL, num_mixes=2, seed=5)
VISITS = plan_visits(len(SHAPES), num_repeats=2, seed=5)


@dataclass
class FakeEngine:
    """What stand-ins for the engine do, and what they were asked for, over several starts."""

    engine: EngineInfo = SMALL
    visits_to_interruption: int | None = None
    visited: list[BatchShape] = field(default_factory=list)
    """Shapes run in the latest start, warm-up included."""
    num_closed: int = 0

    def start(self, _: Any) -> "FakeEngine":
        self.visited = []
        return self

    def run(self, shape: BatchShape) -> list[TracedStep]:
        if len(self.visited) - WARM_UP_VISITS == self.visits_to_interruption:
            raise KeyboardInterrupt
        self.visited.append(shape)
        return steps_in_a_row(shape, random.Random(0), noise=0.1)

    def close(self) -> None:
        self.num_closed += 1


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """Stand-in for `ShapeRunner`, whose module needs vLLM."""
    fake = FakeEngine()
    module = SimpleNamespace(ShapeRunner=fake.start)
    monkeypatch.setitem(sys.modules, "hygen_vllm.lab.profile.shape_runner", module)
    return fake


def _options(folder: Path, **plan: int) -> ProfileOptions:
    values = {**PLAN, **plan}
    return ProfileOptions(None, folder, values["mixes"], values["repeats"], values["seed"])


def _interrupted(fake: FakeEngine, folder: Path, num_visits: int) -> str:
    """Begin the plan and interrupt it after some visits; return the trace."""
    fake.visits_to_interruption = num_visits
    with pytest.raises(KeyboardInterrupt):
        measure(_options(folder))
    fake.visits_to_interruption = None
    return _options(folder).trace.read_text(encoding="utf-8")


def _whole(fake: FakeEngine, folder: Path) -> str:
    """Make all visits; return the trace."""
    measure(_options(folder))
    return _options(folder).trace.read_text(encoding="utf-8")


def _shapes(visits: list[Visit]) -> list[BatchShape]:
    return [SHAPES[visit.shape] for visit in visits]


def _measured(fake: FakeEngine) -> list[BatchShape]:
    """Return the shapes of the latest start after its warm-up."""
    assert SHAPES[:WARM_UP_VISITS] == fake.visited[:WARM_UP_VISITS]
    return fake.visited[WARM_UP_VISITS:]


def _refused(fake: FakeEngine, folder: Path, **plan: int) -> str:
    """Return the one line that refuses to go on; the trace stays as it was and nothing ran."""
    before = _options(folder).trace.read_bytes()
    num_closed = fake.num_closed
    with pytest.raises(ConfigError) as caught:
        measure(_options(folder, **plan))
    assert before == _options(folder).trace.read_bytes()
    assert ([], num_closed + 1) == (fake.visited, fake.num_closed)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_visits_of_a_plan_go_to_all_shapes_in_each_round_in_another_order() -> None:
    """Numbers count up; a drift of the machine falls on all shapes alike."""
    visits = plan_visits(num_shapes=9, num_repeats=3, seed=0)
    assert list(range(27)) == [visit.number for visit in visits]
    rounds = [[visit.shape for visit in visits[9 * i : 9 * i + 9]] for i in range(3)]
    assert [list(range(9))] * 3 == [sorted(each) for each in rounds]
    assert rounds[0] != rounds[1] != rounds[2]


def test_visits_of_the_same_plan_are_in_the_same_order() -> None:
    """What is missing can be told from what was done; another seed orders differently."""
    expected = plan_visits(num_shapes=9, num_repeats=2, seed=1)
    assert expected == plan_visits(num_shapes=9, num_repeats=2, seed=1)
    assert expected != plan_visits(num_shapes=9, num_repeats=2, seed=2)


def test_measure_makes_all_visits_in_order(fake: FakeEngine, tmp_path: Path) -> None:
    """After a warm-up that is not kept, each visit leaves its steps, batch and number."""
    measure(_options(tmp_path / "new" / "folder"))
    assert _shapes(VISITS) == _measured(fake)
    engine, table = read_trace(tmp_path / "new" / "folder" / "trace.csv")
    assert SMALL == engine
    expected = [(visit.shape * NUM_STEPS + i, visit.number) for visit in VISITS for i in range(4)]
    assert expected == list(zip(table["batch"], table["visit"], strict=True))
    assert 1 == fake.num_closed


def test_measure_of_what_is_done_measures_nothing(fake: FakeEngine, tmp_path: Path) -> None:
    """The same command again leaves the trace as it is and warms nothing up."""
    expected = _whole(fake, tmp_path)
    assert expected == _whole(fake, tmp_path)
    assert [] == fake.visited


def test_measure_writes_each_visit_before_the_next_begins(
    fake: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even a machine that loses its power takes more than one visit with it."""
    num_lines = []

    def run(shape: BatchShape) -> list[TracedStep]:
        num_lines.append(_options(tmp_path).trace.read_text(encoding="utf-8").count("\n"))
        return FakeEngine.run(fake, shape)

    monkeypatch.setattr(fake, "run", run)
    measure(_options(tmp_path))
    assert [2 + NUM_STEPS * i for i in range(len(VISITS))] == num_lines[WARM_UP_VISITS:]


@pytest.mark.parametrize("num_visits", [0, 1, 7, len(VISITS) - 1])
def test_measure_interrupted_keeps_all_whole_visits(
    fake: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str], num_visits: int
) -> None:
    """Only the visit under way is lost, the engine is ended, and the user learns how to go on."""
    begun = _interrupted(fake, tmp_path / "begun", num_visits)
    assert 2 + NUM_STEPS * num_visits == begun.count("\n")
    assert _whole(fake, tmp_path / "whole").startswith(begun)
    assert 2 == fake.num_closed
    hint = f"{tmp_path / 'begun' / 'trace.csv'} is kept; run the same command to go on"
    assert hint in capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("num_visits", [0, 1, 7, len(VISITS) - 1])
def test_measure_after_an_interruption_makes_exactly_the_missing_visits(
    fake: FakeEngine, tmp_path: Path, num_visits: int
) -> None:
    """The trace ends up as if nothing had happened."""
    _interrupted(fake, tmp_path / "begun", num_visits)
    trace = _whole(fake, tmp_path / "begun")
    assert _shapes(VISITS[num_visits:]) == _measured(fake)
    assert _whole(fake, tmp_path / "whole") == trace


def test_measure_out_of_time_keeps_what_it_has_and_goes_on_at_the_next_start(
    fake: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time a user allows bounds a start, not the profile."""
    minutes = itertools.count()
    monkeypatch.setattr(run.time, "monotonic", lambda: 60.0 * next(minutes))
    measure(replace(_options(tmp_path), max_minutes=3))
    assert _shapes(VISITS[:3]) == _measured(fake)
    assert _whole(fake, tmp_path / "whole") == _whole(fake, tmp_path)


def test_measure_interrupted_again_and_again_gets_done(fake: FakeEngine, tmp_path: Path) -> None:
    """Each start goes on from the one before."""
    for _ in range(3):
        _interrupted(fake, tmp_path / "begun", 4)
    trace = _whole(fake, tmp_path / "begun")
    assert _shapes(VISITS[12:]) == _measured(fake)
    assert _whole(fake, tmp_path / "whole") == trace


@pytest.mark.parametrize("num_lost", [1, 2, 9, 40, 100, 150])
def test_measure_after_a_line_was_cut_makes_only_the_visit_it_belonged_to(
    fake: FakeEngine, tmp_path: Path, num_lost: int
) -> None:
    """A file that ends within a visit, wherever, has lost that visit and no other."""
    expected = _whole(fake, tmp_path)
    last_visit = len("".join(expected.splitlines(keepends=True)[-NUM_STEPS:]))
    assert num_lost < last_visit
    _options(tmp_path).trace.write_text(expected[:-num_lost], encoding="utf-8")
    assert expected == _whole(fake, tmp_path)
    assert _shapes(VISITS[-1:]) == _measured(fake)


def test_measure_after_all_rows_were_cut_begins_anew(fake: FakeEngine, tmp_path: Path) -> None:
    """A trace that has only its header has no visit."""
    expected = _whole(fake, tmp_path)
    _options(tmp_path).trace.write_text(header(SMALL, PLAN), encoding="utf-8")
    assert expected == _whole(fake, tmp_path)
    assert _shapes(VISITS) == _measured(fake)


@pytest.mark.parametrize("other", [{"mixes": 3}, {"repeats": 1}, {"seed": 6}])
def test_measure_into_a_folder_of_another_plan_is_refused(
    fake: FakeEngine, tmp_path: Path, other: dict[str, int]
) -> None:
    """What was measured stays; the line names the options that have to be the same."""
    _interrupted(fake, tmp_path, 2)
    line = _refused(fake, tmp_path, **other)
    assert line.startswith(f"{tmp_path / 'trace.csv'} was begun with other --mixes, --repeats")


@pytest.mark.parametrize(
    ("field_name", "other", "words"),
    [
        ("architecture", "Other", "not Other"),
        ("dtype", "float16", "dtype float32, not float16"),
        ("device", "Slide rule", "device Abacus x 2, not Slide rule"),
        ("pipeline_parallel", 2, "pipeline parallel size 1, not 2"),
    ],
)
def test_measure_into_a_folder_of_another_engine_is_refused_with_both_values(
    fake: FakeEngine, tmp_path: Path, field_name: str, other: Any, words: str
) -> None:
    """Steps of two engines never meet in one trace."""
    _interrupted(fake, tmp_path, 2)
    fake.engine = replace(SMALL, **{field_name: other})
    assert words in _refused(fake, tmp_path)


@pytest.mark.parametrize(
    ("field_name", "other"),
    [
        ("max_num_batched_tokens", 8),
        ("max_num_seqs", 3),
        ("max_model_len", 24),
        ("is_async", True),
        ("vllm_version", "0.33.0"),
    ],
)
def test_measure_into_a_folder_of_other_limits_is_refused(
    fake: FakeEngine, tmp_path: Path, field_name: str, other: Any
) -> None:
    """Shapes designed for one engine are not run on one with other flags."""
    _interrupted(fake, tmp_path, 2)
    fake.engine = replace(SMALL, **{field_name: other})
    assert str(tmp_path / "trace.csv") in _refused(fake, tmp_path)


def test_measure_with_fewer_free_kv_blocks_goes_on_with_the_same_shapes(
    fake: FakeEngine, tmp_path: Path
) -> None:
    """How many blocks there are differs a little from start to start; the plan does not."""
    _interrupted(fake, tmp_path / "begun", 2)
    fake.engine = replace(SMALL, num_kv_blocks=SMALL.num_kv_blocks - 7)
    trace = _whole(fake, tmp_path / "begun")
    fake.engine = SMALL
    assert _whole(fake, tmp_path / "whole") == trace


@pytest.mark.parametrize("content", ["", "step,seconds\n1,0.5\n", '# {"format": "other"}\n'])
def test_measure_into_a_folder_with_a_foreign_trace_is_refused(
    fake: FakeEngine, tmp_path: Path, content: str
) -> None:
    """A file that is no trace is not written to."""
    (tmp_path / "trace.csv").write_text(content, encoding="utf-8")
    assert _refused(fake, tmp_path).startswith(f"{tmp_path / 'trace.csv'} is not a hygen-step-")


def test_measure_that_fails_ends_the_engine(
    fake: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its workers do not outlive it, and what was measured before stays."""
    begun = _interrupted(fake, tmp_path, 3)
    monkeypatch.setattr(FakeEngine, "run", _fail)
    with pytest.raises(RuntimeError, match="the engine did not run"):
        measure(_options(tmp_path))
    assert begun == _options(tmp_path).trace.read_text(encoding="utf-8")
    assert 2 == fake.num_closed


def _fail(*_: Any) -> list[TracedStep]:
    raise RuntimeError("the engine did not run that")
