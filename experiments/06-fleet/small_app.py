# SPDX-License-Identifier: Apache-2.0
"""Two replicas of the small model on two CPU cores, for what runs on real engines here."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hygen_vllm.lab.small_model import prepare_small_model

HOST = "127.0.0.1"
MODEL = "small"
ENGINE: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 512,
    "max_num_seqs": 16,
    "max_num_batched_tokens": 256,
}
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # Ray says how many
    "VLLM_LOGGING_LEVEL": "WARNING",
}


@contextmanager
def ray_cluster(port: int) -> Iterator[str]:
    """Yield the address of a Ray cluster of this process, with Serve's endpoint at a port."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    os.environ.update(token, RAY_USAGE_STATS_ENABLED="0")
    import ray
    from ray import serve

    with tempfile.TemporaryDirectory(prefix="hygen", ignore_cleanup_errors=True) as folder:
        ray.init(
            num_cpus=6, num_gpus=0, include_dashboard=False, log_to_driver=False, _temp_dir=folder
        )
        try:
            serve.start(http_options={"host": HOST, "port": port})
            yield ray.get_runtime_context().gcs_address
        finally:
            ray.shutdown()


def our_application() -> Any:
    """Return it for `serve.run`."""
    from hygen_vllm.ray_serving import AppConfig, build_app

    model = str(prepare_small_model())
    return build_app(
        AppConfig(
            model=model, model_id=MODEL, num_replicas=2, engine=ENGINE, on_cpu=True, env=ENVIRONMENT
        )
    )


def rays_application() -> Any:
    """Return what ray.serve.llm builds by itself, with the health checks of ours."""
    from ray.serve.llm import LLMConfig, build_openai_app

    from hygen_vllm.ray_serving.app import HEALTH_CHECK_PERIOD_S

    llm = LLMConfig(
        model_loading_config={"model_id": MODEL, "model_source": str(prepare_small_model())},
        engine_kwargs=ENGINE,
        deployment_config={"num_replicas": 2, "health_check_period_s": HEALTH_CHECK_PERIOD_S},
        runtime_env={"env_vars": ENVIRONMENT},
        accelerator_config={"kind": "cpu"},
    )
    one = {"num_replicas": 1, "autoscaling_config": None, "ray_actor_options": {"num_cpus": 0}}
    return build_openai_app({"llm_configs": [llm], "ingress_deployment_config": one})
