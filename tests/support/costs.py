# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategies for the prices of steps."""

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from hygen_vllm.cost.curve import TokenCurve
from hygen_vllm.cost.step_cost import NUM_COEFFICIENTS, StepCost

KNEES = st.sampled_from((0, 1, 8, 63, 64, 65, 72, 128, 256, 512)) | st.integers(0, 600)


def curves(slopes: st.SearchStrategy[Any], is_convex: bool = False) -> st.SearchStrategy[Any]:
    """Return curves with the given slopes, any of them or those that only bend upwards."""
    pieces = st.lists(st.tuples(KNEES, slopes), max_size=5, unique_by=lambda piece: piece[0])
    return pieces.map(lambda some: _curve(some, is_convex))


def costs(numbers: st.SearchStrategy[Any], is_convex: bool = False) -> st.SearchStrategy[Any]:
    """Return costs whose coefficients and slopes are the given numbers."""
    sums = (numbers for _ in range(NUM_COEFFICIENTS))
    return st.builds(StepCost, *sums, curve=curves(numbers, is_convex), first_prefill_s=numbers)


def _curve(pieces: Sequence[tuple[int, Any]], is_convex: bool) -> TokenCurve:
    knees = sorted(knee for knee, _ in pieces)
    slopes = [slope for _, slope in pieces]
    return TokenCurve(tuple(knees), tuple(sorted(slopes) if is_convex else slopes))
