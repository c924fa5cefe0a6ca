# SPDX-License-Identifier: Apache-2.0
"""What a cluster has not got is said before anything waits for it."""

import pytest

from hygen_vllm.ray_serving.resources import missing_resources

NODE = {"CPU": 8.0, "GPU": 2.0}


@pytest.mark.parametrize(
    ("bundles", "num_replicas", "nodes", "reason"),
    [
        ([{"GPU": 1.0}], 1, [{"CPU": 8.0}], "no node"),
        ([{"GPU": 4.0}], 1, [NODE, NODE], "the largest have 2 GPU"),
        ([{"GPU": 1.0, "accelerator_type:H100": 0.001}], 1, [NODE], "accelerator_type:H100"),
        ([{"CPU": 1.0, "GPU": 1.0}], 3, [NODE], "3 replicas ask for 3 CPU, 3 GPU"),
        ([{"GPU": 1.0}, {"GPU": 1.0}], 2, [NODE], "4 GPU"),
        ([{"CPU": 1.0}], 1, [], "no node"),
    ],
)
def test_what_is_missing_is_named(bundles, num_replicas, nodes, reason):
    """With what is there."""
    assert reason in missing_resources(bundles, num_replicas, nodes)


def test_what_is_there_is_enough():
    """Over all nodes."""
    assert None is missing_resources([{"CPU": 1.0, "GPU": 1.0}], 4, [NODE, NODE])
