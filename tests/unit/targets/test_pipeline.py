# SPDX-License-Identifier: Apache-2.0
"""Pipeline: who waits for a step among those that run at once, and up to where nobody does."""

from types import SimpleNamespace

import pytest

from hygen_vllm.targets.pipeline import Pipeline

STEPS = [(8, 0.04), (2, 0.01), (5, 0.03), (2, 0.02)]
"""Online decodes and seconds of the online work of each step."""


@pytest.mark.parametrize(
    ("num_stages", "num_decodes", "others_s"), [(1, 2.0, 0.0), (2, 3.5, 0.03), (3, 3.0, 0.02)]
)
def test_last_steps_share_what_one_of_them_takes(
    num_stages: int, num_decodes: float, others_s: float
) -> None:
    """The step that is made counts among those that wait, and not among those it is compared to."""
    pipeline = Pipeline(num_stages)
    for decodes, seconds in STEPS:
        pipeline.enter(SimpleNamespace(num_decodes=decodes, alone_s=seconds))
    assert num_decodes == pipeline.num_decodes
    assert pytest.approx(others_s) == pipeline.others_s


def test_first_step_of_a_pipeline_has_no_others() -> None:
    pipeline = Pipeline(4)
    pipeline.enter(SimpleNamespace(num_decodes=3, alone_s=0.02))
    assert (3.0, 0.0) == (pipeline.num_decodes, pipeline.others_s)
