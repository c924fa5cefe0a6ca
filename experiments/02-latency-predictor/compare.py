# SPDX-License-Identifier: Apache-2.0
"""Our estimator against the paper's form and others, on the same held-out steps; comparison.csv.

Three kinds of steps: measured ones of the profile of a real engine; the profiler's batches on the
device models, without noise; and, predicted by the models fitted to those batches, the steps that
the real scheduler makes of an Azure-like load with an offline backlog on the device models.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from harness.predictors import paper_sums
from harness.provenance import stamp
from scipy import sparse
from scipy.optimize import linprog
from serving import PROFILES, Disturbance, DisturbedDevice, serve
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from tables import write_table
from tqdm import tqdm

from hygen_vllm.cost.composition import FEATURES
from hygen_vllm.cost.fit import total_tokens
from hygen_vllm.cost.profile import load_profile
from hygen_vllm.lab.profile.accuracy import Accuracy, noise_floor
from hygen_vllm.lab.profile.estimator import StepTimeRegressor
from hygen_vllm.lab.profile.fit import MeasuredSteps
from hygen_vllm.lab.simulator.device_model import DeviceModel, load_device
from hygen_vllm.lab.simulator.modelled_steps import modelled_steps

HERE = Path(__file__).parent
MEASURES = (
    "simulates",
    "fits",
    "experiments/harness/predictors.py",
    "experiments/02-latency-predictor/compare.py",
    "experiments/02-latency-predictor/serving.py",
    "profiles/cpu/smollm2-135m/trace.csv.gz",
    "profiles/*/llama2-7b/*.json",
    "profiles/a100/llama3-8b/*.json",
)
MEASURED = {"cpu-smollm2-135m": PROFILES / "cpu/smollm2-135m/trace.csv.gz"}
MODELLED = ("a100/llama2-7b", "h100/llama2-7b", "a40/llama2-7b", "a100/llama3-8b")
NUM_MIXES = 3000
NUM_SERVED = 3000
BUDGETS_S = {"a100/llama2-7b": (0.03, 0.1), "h100/llama2-7b": (0.012, 0.04)}
"""A tight one, with 100 to 200 tokens in most steps, and one that lets steps fill up to 512."""


def token_count(X: np.ndarray) -> np.ndarray:
    return total_tokens(X)[:, None]


MODELS = {
    "ours": StepTimeRegressor(),
    "ours, four knees": StepTimeRegressor(knees="coarse"),
    "paper's form, least squares": make_pipeline(
        FunctionTransformer(paper_sums), LinearRegression()
    ),
    "token count, least squares": make_pipeline(
        FunctionTransformer(token_count), LinearRegression()
    ),
    "gradient boosting (log seconds)": TransformedTargetRegressor(
        HistGradientBoostingRegressor(max_iter=500, random_state=0),
        func=np.log,
        inverse_func=np.exp,
    ),
}


@dataclass(frozen=True)
class Task:
    """Steps to fit and steps to predict; None: the same, a fifth held out at a time."""

    name: str
    kind: str
    steps: MeasuredSteps
    served: MeasuredSteps | None = None
    device: DeviceModel | None = None

    def predictions(self, model) -> tuple[np.ndarray, MeasuredSteps]:
        if self.served is None:
            return self.steps.held_out(model), self.steps
        fitted = clone(model).fit(self.steps.X, self.steps.seconds)
        return fitted.predict(self.served.X), self.served


def tasks() -> Iterator[Task]:
    for name, path in MEASURED.items():
        yield Task(name, "measured batches", MeasuredSteps.read(path))
    for name in MODELLED:
        device, engine = load_device(PROFILES / name), load_profile(PROFILES / name).engine
        steps = modelled_steps(device, engine, NUM_MIXES)
        yield Task(name.replace("/", "-"), "modelled batches", steps, device=device)
        for budget_s in BUDGETS_S.get(name, ()):
            served = serve(
                DisturbedDevice(device, Disturbance(), seed=1),
                {"latency_budget_s": budget_s},
                NUM_SERVED,
                seed=1,
            )
            kind = f"modelled serving, budget {1e3 * budget_s:g} ms"
            yield Task(name.replace("/", "-"), kind, steps, as_steps(engine, served), device)


def as_steps(engine, served) -> MeasuredSteps:
    return MeasuredSteps(
        engine=engine,
        X=np.array([step.composition.features() for step in served], dtype=np.float64),
        seconds=np.array([step.true_s for step in served]),
        batch=np.full(len(served), np.nan),
        group=np.arange(len(served), dtype=np.float64),
    )


def monotone_bound(device: DeviceModel, steps: MeasuredSteps) -> float:
    """Return the least MAPE of a curve in total tokens that never falls, attention being known.

    A linear program: the value at each number of tokens, and how far it is off.
    """
    sizes, size = np.unique(total_tokens(steps.X), return_inverse=True)
    weights = np.bincount(size, 1.0 / steps.seconds)
    truth = np.array([device.operator_seconds(int(tokens)) for tokens in sizes])
    one, none = sparse.eye(len(sizes)), sparse.csr_matrix((len(sizes) - 1, len(sizes)))
    falling = sparse.diags([1.0, -1.0], [0, 1], shape=none.shape)
    constraints = sparse.vstack(
        [sparse.hstack([one, -one]), sparse.hstack([-one, -one]), sparse.hstack([falling, none])]
    )
    limits = np.concatenate([truth, -truth, np.zeros(len(sizes) - 1)])
    costs = np.concatenate([np.zeros(len(sizes)), weights])
    solved = linprog(costs, A_ub=constraints, b_ub=limits, bounds=(None, None))
    return float(solved.fun) / len(steps.seconds)


def falls(model, X: np.ndarray) -> float:
    """Return the share of steps that a decode or a chunk more is predicted to make shorter."""
    more_decode, more_chunk = X.copy(), X.copy()
    more_decode[:, FEATURES.index("decode_tokens")] += 1
    more_decode[:, FEATURES.index("decode_context_tokens")] += 500
    for name, value in (
        ("num_prefills", 1),
        ("prefill_tokens", 64),
        ("prefill_attention", 64 * 32),
        ("prefill_context_tokens", 64),
    ):
        more_chunk[:, FEATURES.index(name)] += value
    before = model.predict(X) * (1 - 1e-12)
    shorter = [model.predict(more) < before for more in (more_decode, more_chunk)]
    return float(np.mean(shorter[0] | shorter[1]))


def us_per_prediction(model, X: np.ndarray) -> float:
    """Return microseconds of predicting one step at a time, as a scheduler would."""
    steps = [X[i : i + 1] for i in range(200)]
    started = time.perf_counter()
    for step in steps:
        model.predict(step)
    return 1e6 * (time.perf_counter() - started) / len(steps)


def row(task: Task, name: str, model) -> dict[str, object]:
    predicted, steps = task.predictions(model)
    started = time.perf_counter()
    fitted = clone(model).fit(task.steps.X, task.steps.seconds)
    fit_s = time.perf_counter() - started
    accuracy = Accuracy.of(predicted, steps.seconds)
    floor = noise_floor(steps.seconds, steps.batch) if task.kind.startswith("measured") else 0.0
    return {
        "engine": task.name,
        "steps": task.kind,
        "number": accuracy.num_steps,
        "model": name,
        "mape_percent": round(100 * accuracy.mape, 2),
        "p95_percent": round(100 * accuracy.p95, 2),
        "noise_floor_percent": None if floor is None else round(100 * floor, 2),
        "monotone_bound_percent": round(100 * monotone_bound(task.device, steps), 2)
        if task.device
        else None,
        "more_work_predicts_less_percent": round(100 * falls(fitted, steps.X), 2),
        "fit_s": round(fit_s, 3),
        "us_per_predict_call": round(us_per_prediction(fitted, steps.X), 1),
    }


def main() -> None:
    rows = [
        row(task, name, model)
        for task in tqdm(list(tasks()), unit="task", file=sys.stderr)
        for name, model in MODELS.items()
    ]
    write_table(HERE / "comparison.csv", rows)
    stamp(HERE, ["comparison.csv"], MEASURES)


if __name__ == "__main__":
    main()
