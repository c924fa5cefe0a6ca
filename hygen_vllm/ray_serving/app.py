# SPDX-License-Identifier: Apache-2.0
"""build_app: an application for `serve.run`, or for `serve deploy` with a config file.

applications:
  - name: default
    import_path: hygen_vllm.ray_serving:build_app
    args: {model: Qwen/Qwen3-8B, num_replicas: 2, accelerator_type: H200}
"""

import math

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig
from ray.serve.deployment import Application
from ray.serve.llm import LLMConfig, build_openai_app

from hygen_vllm.config import ConfigError
from hygen_vllm.json_types import Json, JsonView
from hygen_vllm.lane.admission_order import OrderRules
from hygen_vllm.ray_serving import offline_pool
from hygen_vllm.ray_serving.app_config import AppConfig
from hygen_vllm.ray_serving.ingress import HyGenIngress
from hygen_vllm.ray_serving.resources import missing_resources
from hygen_vllm.ray_serving.server import HyGenServer

HEALTH_CHECK_PERIOD_S = 5.0
ROUTER = "hygen_vllm.ray_serving.router.HyGenRouter"
LOAD_EVERY_S = 1.0
"""How often Serve asks the replicas for their load."""


def build_app(config: AppConfig | JsonView) -> Application:
    """Return the application: an OpenAI endpoint, replicas, a pool of offline work.

    Raises: ConfigError, one line, for a setting that cannot be used, or where the Ray cluster of
        this process has not got what the replicas ask for.
    """
    if not isinstance(config, AppConfig):
        config = AppConfig.from_mapping(config)
    llm_config = _llm_config(config)
    if config.check_resources:
        given = config.num_replicas
        _check_resources(llm_config, given if isinstance(given, int) else 1)
    scheduler_config = config.scheduler_config
    pool = serve.deployment(
        offline_pool.OfflinePool,
        name=offline_pool.NAME,
        num_replicas=1,
        max_ongoing_requests=offline_pool.MOST_WAITING,
        ray_actor_options={"num_cpus": 0},
        logging_config={"enable_access_log": False},
    ).bind(
        config.lease_s,
        OrderRules.of(scheduler_config),
        scheduler_config.tenant_weights or {},
        f"{HyGenServer.__name__}:{llm_config.deployment_config['name']}",
        _most_counted(config),
    )
    return build_openai_app(
        {
            "llm_configs": [llm_config],
            "ingress_cls_config": {
                "ingress_cls": HyGenIngress,
                "ingress_extra_kwargs": {
                    "offline_pool": pool,
                    "class_rule": config.class_rule,
                },
            },
            "ingress_deployment_config": {
                "num_replicas": 1,
                "autoscaling_config": None,
                "ray_actor_options": {"num_cpus": 0},
                **config.ingress,
            },
        }
    )


def _most_counted(config: AppConfig) -> int:
    """Return how many offline requests count for Serve's autoscaling."""
    scaling = config.deployment.get("autoscaling_config")
    if isinstance(scaling, AutoscalingConfig):
        scaling = scaling.model_dump(exclude_unset=True)
    if config.deployment.get("num_replicas", config.num_replicas) == "auto":
        scaling = {**AutoscalingConfig.default().model_dump(), **(scaling or {})}
    if scaling is None:
        return 0
    filled = AutoscalingConfig(**{"target_ongoing_requests": offline_pool.MOST_COUNTED, **scaling})
    enough: float = filled.target_ongoing_requests * filled.max_replicas
    most = min(offline_pool.MOST_COUNTED, math.ceil(enough))
    most_queued: int = config.deployment.get("max_queued_requests", -1)
    return most if most_queued < 0 else min(most, most_queued)


def _llm_config(config: AppConfig) -> LLMConfig:
    on_cpu: Json = {"accelerator_config": {"kind": "cpu"}} if config.on_cpu else {}
    deployment = {
        "name": config.name.replace("/", "--").replace(".", "_"),
        "health_check_period_s": HEALTH_CHECK_PERIOD_S,
        **({} if config.num_replicas is None else {"num_replicas": config.num_replicas}),
        "request_router_config": {
            "request_router_class": ROUTER,
            "request_routing_stats_period_s": LOAD_EVERY_S,
        },
        **config.deployment,
    }
    return LLMConfig(
        model_loading_config={"model_id": config.name, "model_source": config.model},
        engine_kwargs=config.engine_kwargs,
        accelerator_type=config.accelerator_type,
        placement_group_config=config.placement_group_config,
        deployment_config=deployment,
        runtime_env={"env_vars": dict(config.env)},
        server_cls=HyGenServer,
        **on_cpu,
    )


def _check_resources(llm_config: LLMConfig, num_replicas: int) -> None:
    """Raise ConfigError if the cluster of this process, were it empty, could not hold replicas."""
    if not ray.is_initialized():
        return
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    bundles = llm_config.get_engine_config().placement_bundles
    wanted = [{name: n for name, n in bundle.items() if n > 0} for bundle in bundles]
    missing = missing_resources(wanted, num_replicas, nodes)
    if missing is not None:
        raise ConfigError(missing)
