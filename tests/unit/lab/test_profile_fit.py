# SPDX-License-Identifier: Apache-2.0
"""Fitting and evaluating profiles: known prices are found again, and the figures say how well."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, RegressorMixin

from hygen_vllm.config import ConfigError
from hygen_vllm.cost.composition import FEATURES
from hygen_vllm.cost.fit import predict_seconds
from hygen_vllm.cost.profile import load_profile
from hygen_vllm.cost.trace import COLUMNS
from hygen_vllm.lab.profile.estimator import StepTimeRegressor
from hygen_vllm.lab.profile.fit import MeasuredSteps, evaluate_profile, fit_profile
from hygen_vllm.lab.profile.report import report_text, write_profile
from tests.support.step_traces import COST, ENGINE, profiled_rows, served_rows, write_trace

NOISE = 0.02
FLOOR = NOISE * (2 / np.pi) ** 0.5
"""Mean error of a prediction that knows the price: that of a normal variable."""
FIGURES = {"num_steps", "mape", "median", "p95", "bias", "noise_floor", "regions"}


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profiler's trace: each batch 2 x 4 times."""
    path = tmp_path_factory.mktemp("profiled") / "trace.csv"
    return write_trace(path, profiled_rows(num_mixes=60, num_repeats=2, noise=NOISE))


@pytest.fixture(scope="module")
def folder(trace: Path) -> Path:
    """The profile of the trace."""
    write_profile(fit_profile(trace), trace.parent)
    return trace.parent


class SeenBefore(RegressorMixin, BaseEstimator):
    """Predicts 1 for a step whose first sum was among those it was fitted to, else 0."""

    def fit(self, X: Any, y: Any) -> "SeenBefore":
        self.seen_ = np.unique(X[:, 0])
        return self

    def predict(self, X: Any) -> Any:
        return np.isin(X[:, 0], self.seen_).astype(float)


def _table(kinds: Any, **columns: Any) -> pd.DataFrame:
    """Return the table of a trace of steps whose first sum is their kind."""
    sums = {name: np.zeros(len(kinds)) for name in FEATURES}
    return pd.DataFrame({**sums, FEATURES[0]: kinds, "seconds": 1.0, **columns})


def _error(call: Callable[..., Any], *arguments: Any) -> str:
    """Return the one line with which a call refuses."""
    with pytest.raises(ConfigError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_fit_of_known_prices_errs_by_the_noise_alone(trace: Path) -> None:
    """Predictions for batches that were held out come near what no prediction can beat."""
    figures = fit_profile(trace).profile.fit
    assert figures["noise_floor"] == pytest.approx(FLOOR, rel=0.15)
    assert 0.95 < figures["mape"] / figures["noise_floor"] < 1.15
    assert abs(figures["bias"]) < 0.25 * figures["noise_floor"]


def test_fit_of_known_prices_finds_the_seconds_of_each_step(trace: Path) -> None:
    """Many noisy steps give prices much better than any one of them."""
    fitted = fit_profile(trace)
    expected = predict_seconds(COST, fitted.steps.X)
    found = predict_seconds(fitted.profile.cost, fitted.steps.X)
    assert np.abs(found / expected - 1).mean() < 0.25 * FLOOR


def test_fit_figures_are_those_of_steps_that_were_held_out(trace: Path) -> None:
    """How well the profile fits the very steps that it was fitted to is no figure."""
    fitted = fit_profile(trace)
    held_out = fitted.steps.held_out(StepTimeRegressor())
    assert held_out.tolist() == fitted.predicted.tolist()
    error = np.abs(held_out / fitted.steps.seconds - 1)
    assert error.mean() == pytest.approx(fitted.profile.fit["mape"])


def test_fit_figures_count_every_step_once_by_kind_and_by_size(trace: Path) -> None:
    """Regions by kind are all steps, and so are regions by size."""
    figures = fit_profile(trace).profile.fit
    num_steps = len(trace.read_text(encoding="utf-8").splitlines()) - 2
    assert FIGURES == set(figures)
    assert num_steps == figures["num_steps"]
    counts = {name: region["num_steps"] for name, region in figures["regions"].items()}
    kinds = [counts.pop(name) for name in ("decodes only", "prefills only", "both")]
    assert num_steps == sum(kinds) == sum(counts.values())


def test_fit_says_that_its_profile_was_measured_on_the_engine_of_the_trace(trace: Path) -> None:
    """Where it comes from and what it is for go into the profile."""
    profile = fit_profile(trace).profile
    assert ("measured", ENGINE) == (profile.source, profile.engine)


def test_steps_of_a_batch_are_held_out_together() -> None:
    """No prediction comes from other steps of the same visit, nor of another visit to it."""
    shapes = np.tile(np.repeat(np.arange(10.0), 4), 3)
    batch = 4 * shapes + np.tile(np.arange(4), 30)
    steps = MeasuredSteps.of(ENGINE, _table(shapes, batch=batch))
    assert [0.0] * 120 == steps.held_out(SeenBefore()).tolist()


def test_steps_without_batches_are_held_out_ten_in_a_row() -> None:
    """Steps of an engine that serves resemble those around them."""
    steps = MeasuredSteps.of(ENGINE, _table(np.repeat(np.arange(30.0), 10)))
    assert [0.0] * 300 == steps.held_out(SeenBefore()).tolist()
    assert np.isnan(steps.batch).all()


def test_profile_folder_holds_profile_report_and_picture(folder: Path) -> None:
    """What was written is the fitted profile, a page that names it, and a PNG."""
    fitted = fit_profile(folder / "trace.csv")
    assert fitted.profile == load_profile(folder)
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert text.startswith(f"# Step times of {ENGINE.model} on {ENGINE.device}\n")
    assert "![predicted and measured step times](report.png)" in text
    assert b"\x89PNG" == (folder / "report.png").read_bytes()[:4]


def test_profile_without_matplotlib_has_a_report_that_names_the_extra(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The picture is all that is missing."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    text = write_profile(fit_profile(trace), tmp_path)
    assert "pip install 'hygen-vllm[lab]'" in text
    assert text == (tmp_path / "report.md").read_text(encoding="utf-8")
    assert {"profile.json", "report.md"} == {path.name for path in tmp_path.iterdir()}


def test_report_says_what_was_measured_and_how_well_it_fits(trace: Path) -> None:
    """Error, floor and every region are on the page, in percent."""
    figures = fit_profile(trace).profile.fit
    text = report_text(ENGINE, figures)
    assert f"{figures['num_steps']} steps, MAPE **{figures['mape']:.2%}**" in text
    assert f"noise floor {figures['noise_floor']:.2%}" in text
    assert all(f"| {name} | " in text for name in ("all", *figures["regions"]))
    assert all(word in text for word in (ENGINE.architecture, ENGINE.dtype, ENGINE.vllm_version))


def test_report_without_repeated_batches_knows_no_noise_floor(tmp_path: Path) -> None:
    """What was measured once says nothing about noise."""
    path = write_trace(tmp_path / "served.csv", served_rows(80, NOISE))
    figures = fit_profile(path).profile.fit
    assert figures["noise_floor"] is None
    assert "noise floor unknown" in report_text(ENGINE, figures)


@pytest.mark.parametrize("num_steps", [0, 1, 49])
def test_fit_of_too_short_a_trace_is_refused_with_both_numbers(
    tmp_path: Path, num_steps: int
) -> None:
    """Fifty steps are needed."""
    path = write_trace(tmp_path / "short.csv", served_rows(80, NOISE)[:num_steps])
    assert f"{path} has {num_steps} measured steps; a fit needs at least 50" == _error(
        fit_profile, path
    )


def test_fit_of_fifty_steps_of_a_serving_engine_is_a_profile(tmp_path: Path) -> None:
    """The shortest trace that is not refused can be fitted."""
    path = write_trace(tmp_path / "served.csv", served_rows(80, NOISE)[:50])
    assert 50 == fit_profile(path).profile.fit["num_steps"]


@pytest.mark.parametrize("content", ["", "step,seconds\n1,0.5\n", '# {"format": "other"}\n'])
def test_fit_of_a_foreign_file_is_refused_with_its_name(tmp_path: Path, content: str) -> None:
    """What is no trace is not read as one."""
    path = tmp_path / "foreign.csv"
    path.write_text(content, encoding="utf-8")
    assert _error(fit_profile, path).startswith(f"{path} is not a hygen-step-trace 1 file: ")


def test_evaluate_of_steps_that_were_not_fitted_errs_by_the_noise_alone(
    folder: Path, tmp_path: Path
) -> None:
    """A profile predicts a trace of the same engine as well as its own figures promise."""
    other = write_trace(tmp_path / "served.csv", served_rows(200, NOISE))
    figures = evaluate_profile(str(folder), other)
    assert FIGURES == set(figures)
    assert figures["mape"] == pytest.approx(FLOOR, rel=0.25)
    assert figures == json.loads(json.dumps(figures))


def test_evaluate_on_a_slower_engine_shows_the_bias(folder: Path, tmp_path: Path) -> None:
    """Steps that take twice as long are predicted half too short."""
    rows = served_rows(60, noise=0.0)
    slower = [",".join(_doubled(line.split(","))) for line in rows]
    figures = evaluate_profile(str(folder), write_trace(tmp_path / "slow.csv", slower))
    assert figures["bias"] == pytest.approx(-0.5, abs=0.02)


def _doubled(fields: list[str]) -> list[str]:
    place = COLUMNS.index("seconds")
    return [*fields[:place], str(2 * float(fields[place])), *fields[place + 1 :]]


@pytest.mark.parametrize(
    ("field", "other", "words"),
    [
        ("dtype", "float16", "dtype float32, not float16"),
        ("device", "Slide rule", "device Abacus x 2, not Slide rule"),
        ("tensor_parallel", 2, "tensor parallel size 1, not 2"),
        ("architecture", "Other", "not Other"),
    ],
)
def test_evaluate_on_a_trace_of_another_engine_is_refused_with_both_values(
    folder: Path, tmp_path: Path, field: str, other: Any, words: str
) -> None:
    """Their step times have nothing to do with each other."""
    engine = replace(ENGINE, **{field: other})
    path = write_trace(tmp_path / "other.csv", served_rows(5, NOISE), engine)
    assert words in _error(evaluate_profile, str(folder), path)


def test_evaluate_on_a_trace_without_measured_steps_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    """No step, or none with a time, has no accuracy."""
    empty = write_trace(tmp_path / "empty.csv", [])
    assert f"{empty} holds no measured step" == _error(evaluate_profile, str(folder), empty)
    idle = [",".join([*line.split(",")[:-3], "0.0", "", "\n"]) for line in served_rows(5, NOISE)]
    timeless = write_trace(tmp_path / "timeless.csv", idle)
    assert f"{timeless} holds no measured step" == _error(evaluate_profile, str(folder), timeless)
