# SPDX-License-Identifier: Apache-2.0
"""Replicas on Ray Serve with HyGenScheduler in each, and one pool of offline work for all.

    from ray import serve
    from hygen_vllm.ray_serving import AppConfig, build_app
    serve.run(build_app(AppConfig(model="Qwen/Qwen3-8B", num_replicas=2, accelerator_type="H200")))

`app` puts it together from what `ray.serve.llm` has; then in the order a request travels: `ingress`
(OpenAI endpoint: online requests to a replica, offline ones to the pool), `router` (which replica),
`offline_pool` (offline work waits there until a replica wants it), `server` (a replica: serves,
pulls, says its load).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hygen_vllm.ray_serving.app import build_app
    from hygen_vllm.ray_serving.app_config import AppConfig

__all__ = ["AppConfig", "build_app"]

_HOME = {
    "AppConfig": "hygen_vllm.ray_serving.app_config",
    "build_app": "hygen_vllm.ray_serving.app",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
