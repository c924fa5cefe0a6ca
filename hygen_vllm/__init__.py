# SPDX-License-Identifier: Apache-2.0
"""HyGen on vLLM: online and offline requests in one engine, online first.

    vllm serve MODEL --scheduler-cls hygen_vllm.HyGenScheduler

`engine.scheduler` is the class that vLLM calls, and `engine.policy` makes the parts and leads each
step through them. DESIGN.md, "One offline request", follows a request from there through the
modules, in order.

    engine/         all that knows vLLM's scheduler
    step/           one step: what online takes, what offline may
    lane/           which offline request is next
    kv/             who will want how many KV blocks
    cost/           what a step costs
    targets/        what the latency targets still allow
    operate/        what an operator sees
    fleet/          several engines as one; `ray_serving/` and `batch/` are that on Ray
    lab/            profiles, simulates and draws; nothing that serves imports it

Importing this package imports neither vLLM nor torch; the names below load on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hygen_vllm.config import ConfigError, HyGenConfig
    from hygen_vllm.engine.scheduler import HyGenAsyncScheduler, HyGenScheduler
    from hygen_vllm.labels import RequestClass

__version__ = "0.1.0"
__all__ = ["ConfigError", "HyGenAsyncScheduler", "HyGenConfig", "HyGenScheduler", "RequestClass"]

_HOME = {
    "ConfigError": "hygen_vllm.config",
    "HyGenConfig": "hygen_vllm.config",
    "RequestClass": "hygen_vllm.labels",
    "HyGenAsyncScheduler": "hygen_vllm.engine.scheduler",
    "HyGenScheduler": "hygen_vllm.engine.scheduler",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
