# SPDX-License-Identifier: Apache-2.0
"""Predictors of step times, compared on steps held out of their fits."""

from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from hygen_vllm.cost.profile import load_profile, shipped_profiles
from hygen_vllm.lab.profile.accuracy import Accuracy, noise_floor
from hygen_vllm.lab.profile.estimator import StepTimeRegressor
from hygen_vllm.lab.profile.fit import MeasuredSteps
from hygen_vllm.lab.simulator.modelled_steps import modelled_steps
from hygen_vllm.lab.simulator.step_time import load_step_times

KEPT_SHARE = 0.8
"""Of the batches that were measured, drawn anew with each seed."""


def paper_sums(X: np.ndarray) -> np.ndarray:
    """Return S_p, S_d, S_p^2, N_p, N_d of each step (HyGen, arXiv 2501.14808, section 4.1)."""
    decodes, context, prefills, tokens = X[:, :4].T
    return np.column_stack([tokens, context, tokens**2, prefills, decodes])


MODELS = {
    "ours": StepTimeRegressor(),
    "paper": make_pipeline(FunctionTransformer(paper_sums), LinearRegression()),
}
"""The paper's is fitted by least squares."""


def accuracy(profile: str, seed: int, num_mixes: int) -> dict[str, Any]:
    """Return the MAPE of each model for the batches of a profile, a fifth held out at a time.

    Args:
        seed: draws the mixed batches of a device model, or which measured ones are kept.
        num_mixes: batches of a device model that mix decodes and prefills.
    """
    source = load_profile(profile)
    if source.source == "measured":
        steps = _some(MeasuredSteps.read(shipped_profiles()[profile] / "trace.csv.gz"), seed)
        floor = noise_floor(steps.seconds, steps.batch)
    else:
        steps = modelled_steps(load_step_times(profile), source.engine, num_mixes, seed)
        floor = 0.0
    errors = {
        f"{name}_mape": Accuracy.of(steps.held_out(model), steps.seconds).mape
        for name, model in MODELS.items()
    }
    return {"source": source.source, "num_steps": len(steps.seconds), **errors, "noise": floor}


def _some(steps: MeasuredSteps, seed: int) -> MeasuredSteps:
    groups = np.unique(steps.group)
    kept = np.random.default_rng(seed).permutation(groups)[: int(KEPT_SHARE * len(groups))]
    is_kept = np.isin(steps.group, kept)
    names = ("X", "seconds", "batch", "group")
    return replace(steps, **{name: getattr(steps, name)[is_kept] for name in names})
