# SPDX-License-Identifier: Apache-2.0
"""`hygen profile` of the real model, and engines that start with the profile it made."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from hygen_vllm.cost.composition import FEATURES
from hygen_vllm.cost.fit import predict_seconds
from hygen_vllm.cost.profile import Profile, load_profile
from hygen_vllm.lab.profile.batch_shapes import NUM_STEPS, design
from hygen_vllm.lab.profile.read_trace import features_of, read_trace
from hygen_vllm.lab.profile.run import plan_visits
from tests.support.engine_runner import TOGETHER, Job, Run
from tests.support.processes import ENGINE_ENVIRONMENT, log_tail, run_process
from tests.support.step_traces import composition
from tests.support.vllm_server import VLLM

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1500)]

HYGEN = str(Path(sys.executable).with_name("hygen"))
LIMIT_S = 700.0
PLAN = ["--mixes", "3", "--repeats", "1"]
FLAGS = ["--enforce-eager", "--max-model-len", "256", "--max-num-seqs", "4"]
FLAGS += ["--max-num-batched-tokens", "64"]
ENGINE_SETTINGS = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 256,
    "max_num_seqs": 4,
    "max_num_batched_tokens": 64,
    "scheduler_cls": "hygen_vllm.HyGenScheduler",
}


@dataclass(frozen=True)
class Profiled:
    """What `hygen profile` left behind."""

    folder: Path
    command: list[str]

    @property
    def trace(self) -> Path:
        return self.folder / "trace.csv"

    @property
    def profile(self) -> Profile:
        return load_profile(self.folder)


@pytest.fixture(scope="module")
def profiled(model, tmp_path_factory) -> Profiled:
    folder = tmp_path_factory.mktemp("profile")
    command = [HYGEN, "profile", "--model", str(model), *PLAN, "--dtype", "float32", *FLAGS]
    profiled = Profiled(folder, [*command, "--out", str(folder)])
    run_hygen(profiled.command, folder / "log")
    return profiled


def run_hygen(command, log, expected=0) -> str:
    """Run a command to its end; return what it printed."""
    status = run_process(command, log, ENGINE_ENVIRONMENT, LIMIT_S)
    assert expected == status, log_tail(log)
    return log.read_text(encoding="utf-8")


def this_processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    name = next(line for line in lines if line.startswith("model name")).partition(": ")[2]
    return f"{name} x {len(os.sched_getaffinity(0))}"


def test_profile_measures_exactly_the_planned_steps(profiled):
    """Each visit has its steps in a row, in which decodes grow by a token and chunks are anew."""
    engine, table = read_trace(profiled.trace)
    shapes = design(engine, num_mixes=3, seed=0)
    visits = plan_visits(len(shapes), num_repeats=1, seed=0)
    assert NUM_STEPS * len(visits) == len(table)
    measured = dict(iter(table.groupby("visit")))
    for visit in visits:
        shape, steps = shapes[visit.shape], measured[visit.number]
        first = composition(shape)
        first.decode_context_tokens += len(shape.contexts)  # one step of warm-up
        expected = [first.features() for _ in range(NUM_STEPS)]
        for i, row in enumerate(expected):
            row[FEATURES.index("decode_context_tokens")] += i * len(shape.contexts)
        assert expected == features_of(steps).tolist(), shape
        assert [visit.shape * NUM_STEPS + i for i in range(NUM_STEPS)] == list(steps["batch"])
    assert (table["seconds"] > 0).all()


def test_profile_names_the_model_its_numbers_and_this_device(profiled, model):
    """What it is for is what was measured, within the limits that were given."""
    profile = profiled.profile
    engine, table = read_trace(profiled.trace)
    assert ("measured", engine) == (profile.source, profile.engine)
    assert (model.name, "float32") == (engine.model, engine.dtype)
    assert this_processor() == engine.device
    assert (64, 4, 256) == (
        engine.max_num_batched_tokens,
        engine.max_num_seqs,
        engine.max_model_len,
    )
    assert engine.num_kv_blocks > 0
    assert len(table) == profile.fit["num_steps"]
    assert {"report.md", "report.png"} <= {path.name for path in profiled.folder.iterdir()}


@pytest.mark.long  # tests/unit/lab/test_profile_run.py has the same of an engine that is none
def test_profile_again_measures_nothing_again(profiled, tmp_path):
    """The same command finds all visits made, and makes the same profile of them."""
    expected, profile = profiled.trace.read_bytes(), profiled.profile
    run_hygen(profiled.command, tmp_path / "log")
    assert expected == profiled.trace.read_bytes()
    assert profile == profiled.profile


def test_engine_with_a_profile_predicts_from_the_first_step_on(profiled, model, prompts, tmp_path):
    """It serves both classes, and the trace that it writes can be held against the profile."""
    settings = {"profile": str(profiled.folder), "trace": str(tmp_path / "trace.csv")}
    engine = {**ENGINE_SETTINGS, "model": str(model), "additional_config": {"hygen": settings}}
    short = [prompt for prompt in prompts if len(prompt.text) < 600][:6]
    assert {True, False} == {prompt.is_offline for prompt in short}
    paths = [tmp_path / "job.json", tmp_path / "result.json"]
    Job(engine, short, {"run": Run(TOGETHER)}).save(paths[0])
    command = [sys.executable, "-m", "tests.support.engine_runner", *map(str, paths)]
    run_hygen(command, tmp_path / "engine.log")
    outputs = json.loads(paths[1].read_text(encoding="utf-8"))["run"]["outputs"]
    assert all(output["finish_reason"] for output in outputs)

    served_by, table = read_trace(settings["trace"])
    assert profiled.profile.engine == served_by
    assert list(range(1, len(table) + 1)) == list(table["step"])
    assert (table["predicted_s"] > 0).all()
    expected_s = predict_seconds(profiled.profile.cost, features_of(table)[:1])
    assert expected_s == pytest.approx(table["predicted_s"][:1], rel=1e-5)

    evaluate = [HYGEN, "evaluate", str(profiled.folder), settings["trace"], "--json", "-"]
    figures = json.loads(run_hygen(evaluate, tmp_path / "evaluate.log"))
    assert len(table) == figures["num_steps"]
    assert {"mape", "noise_floor", "regions"} <= set(figures)


@pytest.mark.long  # tests/unit has the line, tests/engine/test_settings.py a server that it stops
def test_profile_of_another_number_format_stops_the_server_before_the_model_is_loaded(
    profiled, model, tmp_path
):
    """The line names both formats and how to get a profile that fits."""
    settings = json.dumps({"hygen": {"profile": str(profiled.folder)}})
    command = [VLLM, "serve", model, *FLAGS, "--dtype", "bfloat16"]
    command += ["--scheduler-cls", "hygen_vllm.HyGenScheduler", "--additional-config", settings]
    text = run_hygen([*map(str, command)], tmp_path / "log", expected=1)
    assert "Traceback" not in text
    assert "EngineCore" not in text
    (line,) = (line for line in text.splitlines() if line.startswith("hygen-vllm: "))
    assert all(word in line for word in ("bfloat16", "float32", "hygen profile"))
    assert line == text.splitlines()[-1]
