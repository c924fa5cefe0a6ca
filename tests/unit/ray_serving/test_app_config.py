# SPDX-License-Identifier: Apache-2.0
"""Settings of an application on Ray: one line for what cannot be used, settings that travel."""

import pytest

from hygen_vllm.config import ConfigError
from hygen_vllm.labels import RequestClass
from hygen_vllm.ray_serving.app_config import AppConfig


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "model is missing"),
        ({"model": ""}, "model must have at least 1 character"),
        ({"model": "m", "num_replica": 2}, 'did you mean "num_replicas"'),
        (
            {"model": "m", "num_replicas": 0},
            "num_replicas must be greater than or equal to 1 or 'auto'",
        ),
        ({"model": "m", "num_replicas": None}, "autoscaling_config"),
        ({"model": "m", "num_replicas": "2"}, "num_replicas must be a valid integer or 'auto'"),
        ({"model": "m", "num_replicas": 1.5}, "num_replicas must be a valid integer or 'auto'"),
        ({"model": "m", "num_replicas": True}, "num_replicas must be a valid integer or 'auto'"),
        (
            {"model": "m", "tensor_parallel_size": "1"},
            "tensor_parallel_size must be a valid integer",
        ),
        ({"model": None}, r"model must be a valid string, got None \(NoneType\)$"),
        ({"model": 7}, "model must be a valid string, got 7"),
        ({"model": "m", "engine": ["a"]}, "engine must be a valid dictionary, got"),
        ({"model": "m", "deployment": "auto"}, "deployment must be a valid dictionary, got 'auto'"),
        ({"model": "m", "lease_s": "10"}, "lease_s must be a valid number, got '10'"),
        ({"model": "m", "lease_s": None}, "lease_s must be a valid number, got None"),
        ({"model": "m", "on_cpu": "yes"}, "on_cpu must be a valid boolean"),
        ({"model": "m", "env": {"A": True}}, r"env\['A'\] must be a valid string, got True"),
        ({"model": "m", "env": {"A": [1]}}, r"env\['A'\] must be a valid string"),
        ({"model": "m", "hygen": 5}, "hygen must be a valid dictionary or a valid string, got 5"),
        ({"model": "m", "hygen": {7: 1}}, r"hygen\[7\] must be a valid string, got 7|^hygen must"),
        ({"model": "m", "engine": {"additional_config": 5}}, "additional_config"),
        ([], "model is missing|key: value"),
        ({"model": "m", "tensor_parallel_size": 0}, "tensor_parallel_size"),
        ({"model": "m", "on_cpu": True, "accelerator_type": "H100"}, "accelerator_type"),
        ({"model": "m", "engine": {"scheduler_cls": "x"}}, "scheduler_cls"),
        ({"model": "m", "hygen": {"mod": "off"}}, "mode"),
        ({"model": "m", "hygen": {"mode": "fixed"}}, "latency_budget_s"),
        ({"model": "m", "lease_s": 0}, "lease_s"),
    ],
)
def test_what_cannot_be_used_is_refused(values, reason):
    """In one line that says why."""
    with pytest.raises(ConfigError, match=reason) as error:
        AppConfig.from_mapping(values)
    assert "\n" not in str(error.value)


def test_settings_of_a_file_travel(tmp_path):
    """Replicas elsewhere have neither the file nor the environment."""
    path = tmp_path / "hygen.yaml"
    path.write_text("hygen:\n  mode: off\n  offline_order: fcfs\n")
    config = AppConfig(
        model="org/model", hygen=str(path), engine={"additional_config": {"other": 1}}
    )
    expected = {"other": 1, "hygen": {"mode": "off", "offline_order": "fcfs"}}
    assert expected == config.engine_kwargs["additional_config"]


def test_settings_of_the_environment_travel(tmp_path, monkeypatch):
    """As if they had been given."""
    path = tmp_path / "hygen.yaml"
    path.write_text("min_chunk_tokens: 32\n")
    monkeypatch.setenv("HYGEN_CONFIG", str(path))
    arguments = AppConfig(model="m").engine_kwargs["additional_config"]
    assert {"hygen": {"min_chunk_tokens": 32}} == arguments


@pytest.mark.parametrize(
    ("policy", "expected"), [("fcfs", RequestClass.OFFLINE), ("priority", RequestClass.ONLINE)]
)
def test_priority_is_a_class_only_where_vllm_has_no_use_for_it(policy, expected):
    """The endpoint tells the classes as the schedulers behind it do."""
    config = AppConfig(model="m", engine={"scheduling_policy": policy})
    assert expected == config.class_rule.classify(None, priority=1)


def test_engine_arguments_are_passed_on():
    """With the scheduler and the GPUs of a replica."""
    given = AppConfig(
        model="m", engine={"max_model_len": 100}, tensor_parallel_size=4
    ).engine_kwargs
    assert (100, 4) == (given["max_model_len"], given["tensor_parallel_size"])
    assert "hygen_vllm.HyGenScheduler" == given["scheduler_cls"]


@pytest.mark.parametrize(
    ("model", "model_id", "name"), [("a/b", None, "b"), ("/x/y", None, "y"), ("a/b", "c", "c")]
)
def test_model_has_a_name(model, model_id, name):
    """The last part of where it is, unless it has one."""
    assert name == AppConfig(model=model, model_id=model_id).name


def test_replicas_may_be_left_to_serve():
    """Serve's own word for autoscaling with its defaults."""
    assert AppConfig.from_mapping({"model": "m", "num_replicas": "auto"}).num_replicas == "auto"


@pytest.mark.parametrize("name", ["engine", "deployment", "ingress", "env"])
def test_empty_section_is_as_if_it_was_left_out(name):
    """YAML reads a section without lines as null."""
    assert getattr(AppConfig.from_mapping({"model": "m", name: None}), name) == {}


def test_number_in_the_environment_is_text():
    """YAML reads one where an environment has text."""
    assert AppConfig(model="m", env={"OMP_NUM_THREADS": 1}).env == {"OMP_NUM_THREADS": "1"}
