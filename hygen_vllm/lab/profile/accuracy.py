# SPDX-License-Identifier: Apache-2.0
"""How good predicted step times are, beside how good they could be. Pure.

The error is relative: |predicted / measured - 1|, its mean the MAPE. Identical steps do not take
identical times, so no prediction can reach 0: the noise floor is the mean error of a prediction
that knew the true mean of every composition.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hygen_vllm.cost.composition import FEATURES
from hygen_vllm.cost.fit import Matrix, total_tokens


@dataclass(frozen=True)
class Accuracy:
    """Relative errors of predictions; shares, not percent."""

    num_steps: int
    mape: float
    median: float
    p95: float
    bias: float
    """Mean of predicted / measured - 1: above 0 if steps are shorter than predicted."""

    @classmethod
    def of(cls, predicted: Matrix, measured: Matrix) -> "Accuracy":
        """Return the accuracy of predictions, both float64 (num_steps,), num_steps >= 1."""
        error = predicted / measured - 1.0
        size = np.abs(error)
        return cls(
            num_steps=len(measured),
            mape=float(size.mean()),
            median=float(np.median(size)),
            p95=float(np.quantile(size, 0.95)),
            bias=float(error.mean()),
        )


def masks_by_kind(X: Matrix) -> dict[str, NDArray[np.bool_]]:
    """Return which steps hold decodes only, prefills only, or both; each bool (num_steps,)."""
    has_prefill = X[:, FEATURES.index("prefill_tokens")] > 0
    has_decode = X[:, FEATURES.index("decode_tokens")] > 0
    return {
        "decodes only": ~has_prefill,
        "prefills only": has_prefill & ~has_decode,
        "both": has_prefill & has_decode,
    }


def by_region(X: Matrix, predicted: Matrix, measured: Matrix) -> Mapping[str, Accuracy]:
    """Return the accuracy for steps of each kind and size that occurs."""
    tokens = total_tokens(X)
    masks = masks_by_kind(X)
    edges = [0, 16, 64, 256, 1024, math.inf]
    for low, high in pairwise(edges):
        name = f"{low + 1} to {high} tokens" if high < math.inf else f"more than {low} tokens"
        masks[name] = (tokens > low) & (tokens <= high)
    return {
        name: Accuracy.of(predicted[mask], measured[mask])
        for name, mask in masks.items()
        if mask.any()
    }


def noise_floor(seconds: Matrix, batch: NDArray[np.float64]) -> float | None:
    """Return the noise floor of steps that were measured more than once; None if none was.

    Args:
        seconds: float64 (num_steps,).
        batch: float64 (num_steps,); steps of one number had the same composition, NaN had none.
    Two draws differ by sqrt(2) times what each differs from the mean, so pairs of neighbours give
    the floor without knowing any mean.
    """
    differences = []
    for number in np.unique(batch[~np.isnan(batch)]):
        times = seconds[batch == number]
        if len(times) > 1:
            difference = np.abs(np.diff(times)) / times.mean() / math.sqrt(2.0)
            differences.append((float(difference.mean()), len(times)))
    if not differences:
        return None
    means, weights = zip(*differences, strict=True)
    return float(np.average(means, weights=weights))
