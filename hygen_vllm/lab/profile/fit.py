# SPDX-License-Identifier: Apache-2.0
"""From a step trace to a profile, with figures that say how far to trust it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, cross_val_predict

from hygen_vllm.config import ConfigError
from hygen_vllm.cost.engine_info import EngineInfo
from hygen_vllm.cost.fit import Matrix, predict_seconds
from hygen_vllm.cost.profile import Profile, load_profile
from hygen_vllm.lab.profile.accuracy import Accuracy, by_region, noise_floor
from hygen_vllm.lab.profile.batch_shapes import NUM_STEPS
from hygen_vllm.lab.profile.estimator import StepTimeRegressor
from hygen_vllm.lab.profile.read_trace import features_of, read_trace

if TYPE_CHECKING:
    import pandas as pd

NUM_FOLDS = 5
FEWEST_STEPS = 50
FEWEST_GROUPS = 2
STEPS_HELD_TOGETHER = 10


@dataclass(frozen=True)
class MeasuredSteps:
    """The steps of a trace as arrays; all float64 with one entry, or row of X, a step."""

    engine: EngineInfo
    X: Matrix
    seconds: Matrix
    batch: Matrix
    """NaN where steps have no batch."""
    group: Matrix
    """Steps of one number are held out together: alike, or measured in a row."""

    @classmethod
    def read(cls, path: Path) -> "MeasuredSteps":
        """Return the steps of a trace file. Raises ConfigError if it is none or too short."""
        engine, table = read_trace(path)
        if len(table) < FEWEST_STEPS:
            raise ConfigError(
                f"{path} has {len(table)} measured steps; a fit needs at least {FEWEST_STEPS}"
            )
        return cls.of(engine, table)

    @classmethod
    def of(cls, engine: EngineInfo, table: "pd.DataFrame") -> "MeasuredSteps":
        """Return the steps in the table of a trace."""
        batch = np.full(len(table), np.nan)
        if "batch" in table:
            batch = table["batch"].to_numpy(dtype=np.float64)
        in_a_row = -1.0 - np.arange(len(table)) // STEPS_HELD_TOGETHER
        return cls(
            engine=engine,
            X=features_of(table),
            seconds=table["seconds"].to_numpy(dtype=np.float64),
            batch=batch,
            group=np.where(np.isnan(batch), in_a_row, batch // NUM_STEPS),
        )

    def held_out(self, model: Any) -> Matrix:
        """Return the seconds that a model predicts for each step when fitted to the others.

        Steps are held out a fifth at a time, all of a group together: the model has seen none
        of their kind.
        """
        num_groups = len(np.unique(self.group))
        if num_groups < FEWEST_GROUPS:
            raise ConfigError("all steps of the trace are of one batch; a fit needs several")
        folds = GroupKFold(min(NUM_FOLDS, num_groups))
        predicted: Matrix = cross_val_predict(
            clone(model), self.X, self.seconds, groups=self.group, cv=folds
        )
        return predicted


@dataclass(frozen=True)
class FittedProfile:
    """A profile and what its held-out predictions were."""

    profile: Profile
    steps: MeasuredSteps
    predicted: Matrix
    """Held-out predictions, float64 (num_steps,)."""


def fit_profile(path: Path) -> FittedProfile:
    """Fit the steps of a trace file. Raises ConfigError if it cannot be fitted."""
    return fit_steps(MeasuredSteps.read(path), source="measured")


def fit_steps(steps: MeasuredSteps, source: str) -> FittedProfile:
    """Fit steps; `source` is one of profile_file.SOURCES."""
    predicted = steps.held_out(StepTimeRegressor())
    figures = accuracy_figures(steps, predicted)
    cost = StepTimeRegressor().fit(steps.X, steps.seconds).cost_
    profile = Profile(steps.engine, source, cost, figures)
    return FittedProfile(profile, steps, predicted)


def evaluate_profile(name: str, trace: Path) -> dict[str, Any]:
    """Return how well a profile predicts the steps of a trace: figures by name.

    Raises: ConfigError if either cannot be read, or if they are of different engines.
    """
    profile = load_profile(name)
    engine, table = read_trace(trace)
    if table.empty:
        raise ConfigError(f"{trace} holds no measured step")
    profile.check_engine(engine, name)
    steps = MeasuredSteps.of(engine, table)
    return accuracy_figures(steps, predict_seconds(profile.cost, steps.X))


def accuracy_figures(steps: MeasuredSteps, predicted: Matrix) -> dict[str, Any]:
    """Return the accuracy of predictions and the noise floor, shares rather than percent."""
    floor = noise_floor(steps.seconds, steps.batch)
    regions = by_region(steps.X, predicted, steps.seconds)
    return {
        **asdict(Accuracy.of(predicted, steps.seconds)),
        "noise_floor": floor,
        "regions": {name: asdict(accuracy) for name, accuracy in regions.items()},
    }
