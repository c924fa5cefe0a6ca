# SPDX-License-Identifier: Apache-2.0
"""HyGen on vLLM: online and offline requests in one engine, online first.

    vllm serve MODEL --scheduler-cls hygen_vllm.HyGenScheduler

Reading guide, in the order a request travels:

1. `request_class`   labels -> RequestClass.ONLINE or OFFLINE
2. `offline_lane`    order of the waiting offline requests: tenants, prefixes, age;
                     `waiting_queue` puts it behind the online lane as one vLLM RequestQueue
3. `step_plan`       what online needs in this step and what is left: seconds, tokens, blocks
4. `offline_grant`   how many tokens one offline request gets of what is left
5. `scheduler`       the only file on vLLM's private scheduler: plan, make room, one call
6. `step_feedback`   pairs schedule() with update_from_output(): how long the step took
7. `latency`         learns the seconds of a step from those pairs, or has them from a profile

`fleet` is several engines as one, `ray_serving` and `batch_job` are that on Ray.

`profiler` measures profiles, `simulator` runs the same scheduler in virtual time on devices that
are not here, with requests from `workloads`; `results` shows what came of it.

Importing this package imports neither vLLM nor torch; the names below load on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hygen_vllm.config import ConfigError, HyGenConfig
    from hygen_vllm.request_class import RequestClass
    from hygen_vllm.scheduler import HyGenAsyncScheduler, HyGenScheduler

__version__ = "0.1.0"
__all__ = ["ConfigError", "HyGenAsyncScheduler", "HyGenConfig", "HyGenScheduler", "RequestClass"]

_HOME = {
    "ConfigError": "hygen_vllm.config",
    "HyGenConfig": "hygen_vllm.config",
    "RequestClass": "hygen_vllm.request_class",
    "HyGenAsyncScheduler": "hygen_vllm.scheduler",
    "HyGenScheduler": "hygen_vllm.scheduler",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
