# SPDX-License-Identifier: Apache-2.0
"""What an application asks Ray for; no cluster is there."""

import pytest

from hygen_vllm.ray_serving.app import _llm_config, _most_counted
from hygen_vllm.ray_serving.app_config import AppConfig
from hygen_vllm.ray_serving.offline_pool import MOST_COUNTED

GPU = {"GPU": 1}
H100 = {"GPU": 1, "accelerator_type:H100": 0.001}
GIVEN = {"bundles": [{"GPU": 1, "CPU": 2}] * 2, "strategy": "SPREAD"}


@pytest.mark.parametrize(
    ("settings", "bundles", "strategy"),
    [
        ({}, [GPU], "PACK"),
        ({"tensor_parallel_size": 2, "accelerator_type": "H100"}, [H100] * 2, "PACK"),
        ({"tensor_parallel_size": 2, "engine": {"pipeline_parallel_size": 2}}, [GPU] * 4, "PACK"),
        ({"tensor_parallel_size": 2, "placement_group_config": GIVEN}, *GIVEN.values()),
        ({"on_cpu": True}, [{"CPU": 1}], "PACK"),
    ],
)
def test_replica_asks_for_its_devices(settings, bundles, strategy):
    """Accelerator, tensor parallelism and placement group reach Ray as they were given."""
    engine = _llm_config(AppConfig(model="model", **settings)).get_engine_config()
    assert (bundles, strategy) == (engine.placement_bundles, engine.placement_strategy)


def test_settings_reach_every_replica():
    """In the engine's arguments, with the scheduler."""
    config = AppConfig(model="model", hygen={"mode": "off"}, engine={"max_model_len": 100})
    engine = _llm_config(config).get_engine_config().engine_kwargs
    assert ("hygen_vllm.HyGenScheduler", 100) == (engine["scheduler_cls"], engine["max_model_len"])
    assert {"hygen": {"mode": "off"}} == engine["additional_config"]


AUTO = {"autoscaling_config": {"max_replicas": 3, "target_ongoing_requests": 5}}


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({"num_replicas": 4}, 0),
        ({"num_replicas": "auto"}, 200),
        ({"num_replicas": None, "deployment": AUTO}, 15),
        ({"num_replicas": None, "deployment": {"autoscaling_config": {}}}, MOST_COUNTED),
        ({"num_replicas": None, "deployment": {**AUTO, "max_queued_requests": 7}}, 7),
        ({"num_replicas": "auto", "deployment": AUTO}, 15),
        ({"num_replicas": "auto", "deployment": {"autoscaling_config": {"min_replicas": 2}}}, 200),
    ],
)
def test_no_more_offline_requests_count_than_all_replicas_are_for(settings, most):
    """Serve's default is two calls for each of up to 100 replicas."""
    assert most == _most_counted(AppConfig(model="model", **settings))
