# SPDX-License-Identifier: Apache-2.0
"""A scheduler with the setting `trace` records every step it runs; without it, nothing."""

import pandas as pd
import pytest

from hygen_vllm.cost import trace as step_trace
from hygen_vllm.engine.identity import engine_info
from hygen_vllm.engine.step_meter import MEASURE_EVERY
from hygen_vllm.lab.bare_scheduler import Limits, make_request, make_scheduler
from hygen_vllm.lab.profile.read_trace import read_trace
from tests.support.classes import HYGEN
from tests.support.fake_engine import FakeEngine

BOTH = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
TICK_S = 0.01


class TickingEngine(FakeEngine):
    """A fake engine whose clock moves a tick each time somebody looks at it."""

    def __init__(self, is_async, hygen):
        self.now_s = 0.0
        scheduler = make_scheduler(HYGEN[is_async], Limits(), hygen, clock=self._tick)
        super().__init__(scheduler, depth=1 + is_async)

    def _tick(self):
        self.now_s += TICK_S
        return self.now_s

    def serve(self, name, prompt_tokens=30, max_tokens=12):
        """Serve an online and an offline request to their ends."""
        for slo_class in ("online", "offline"):
            prompt = list(range(prompt_tokens))
            request_id = f"{name}-{slo_class}"
            self.add(make_request(request_id, prompt, slo_class=slo_class, max_tokens=max_tokens))
        self.run()


def all_rows(path):
    """Return all steps of a trace file; read_trace leaves out those that nobody can learn from."""
    return pd.read_csv(path, comment="#")


@BOTH
def test_every_step_with_tokens_is_recorded_once_with_what_is_in_it(tmp_path, is_async):
    """Rows and their sums are those of the schedule; predictions begin with the first steps."""
    engine = TickingEngine(is_async, {"trace": str(tmp_path / "trace.csv")})
    engine.serve("first")
    info, _ = read_trace(tmp_path / "trace.csv")
    assert engine_info(engine.scheduler.vllm_config) == info
    table = all_rows(tmp_path / "trace.csv")
    scheduled = [sum(step.values()) for step in engine.schedules if step]
    assert scheduled == (table["decode_tokens"] + table["prefill_tokens"]).tolist()
    assert [*range(1, len(scheduled) + 1)] == table["step"].tolist()
    assert table["predicted_s"][4:].notna().all()


@BOTH
def test_recorded_seconds_are_the_busy_time_without_the_idle_time(tmp_path, is_async):
    """A minute in which no request was there is in no step; all other time is in one.

    But for that of the last steps, in which nothing is left to compute.
    """
    engine = TickingEngine(is_async, {"trace": str(tmp_path / "trace.csv")})
    engine.serve("first", max_tokens=40)
    engine.now_s += 60.0
    engine.serve("second", max_tokens=40)
    table = all_rows(tmp_path / "trace.csv")
    assert table["seconds"].max() < 10 * TICK_S
    busy_s = engine.now_s - 60.0
    assert 0.8 * busy_s <= table["seconds"].sum() <= busy_s


@BOTH
def test_recording_ends_at_its_bound(tmp_path, is_async):
    """The file never holds more steps than was asked for."""
    engine = TickingEngine(is_async, {"trace": str(tmp_path / "t.csv"), "trace_max_steps": 5})
    engine.serve("first")
    assert 5 == len(all_rows(tmp_path / "t.csv"))


@BOTH
def test_without_trace_few_steps_are_measured_once_the_device_is_known(is_async):
    """What is not recorded is not even looked at."""
    engine = TickingEngine(is_async, {})
    learner, observed = engine.scheduler.hygen.learner, []
    observe = learner.observe
    learner.observe = lambda *sample: (observed.append(sample), observe(*sample))
    engine.serve("first", max_tokens=200)
    assert engine.scheduler.hygen.meter.trace is None
    while learner.is_new:
        engine.serve(f"more-{len(observed)}", max_tokens=200)
    before = len(observed)
    num_steps = len(engine.schedules)
    engine.serve("last", max_tokens=200)
    assert len(observed) - before <= (len(engine.schedules) - num_steps) / MEASURE_EVERY + 2


@BOTH
def test_closing_the_scheduler_closes_its_trace(tmp_path, is_async):
    """Steps after the end of the engine, if any, are not written to a closed file."""
    engine = TickingEngine(is_async, {"trace": str(tmp_path / "trace.csv")})
    engine.serve("first")
    num_before = len(all_rows(tmp_path / "trace.csv"))
    engine.scheduler.shutdown()
    engine.serve("second")
    assert num_before == len(all_rows(tmp_path / "trace.csv"))


def test_engine_starts_where_steps_cannot_be_recorded(tmp_path, monkeypatch, caplog):
    """A disk may be full when an engine is started again; it serves all the same, and says so."""

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(step_trace, "_open_new", full)
    engine = TickingEngine(False, {"trace": str(tmp_path / "trace.csv")})
    engine.serve("first")
    assert 2 == len(engine.finished)
    (line,) = (r.getMessage() for r in caplog.records if "records no steps" in r.getMessage())
    assert line.endswith(f"cannot write trace {tmp_path / 'trace.csv'}: No space left on device")
