# SPDX-License-Identifier: Apache-2.0
"""HyGen on vLLM: online and offline requests in one engine, online first.

    vllm serve MODEL --scheduler-cls hygen_vllm.HyGenScheduler

Reading guide, in the order a request travels:

1. `engine.scheduler`       vLLM's calls come in; `engine.policy` makes the parts below and leads a
                            step through them
2. `engine.requests`        a request came, started, was preempted, left; `labels` says its class
3. `engine.waiting_queue`   vLLM's two waiting queues, each with an online and an offline lane;
                            `lane` is the offline one: tenants, prefixes, age
4. `engine.step_builder`    opens a step; `engine.arrivals` says which waiting online requests could
                            start in it
5. `engine.make_room`       what is preempted for them, in the order of `engine.victims`
6. `engine.kv_reserve`      the KV blocks that have to be free for an offline request to start,
                            by `kv`
7. `step.plan`              made by the builder, with the `step.online_share`;
                            `engine.slo_control` may shorten online prefills in it
8. `engine.hook`            asked for each request while vLLM builds the step. The first offline one
                            closes online's share into a `step.budget`, with the limit that
                            `targets.controller` sets, or a `step.gate`, as `step.terms`;
                            `step.grant` says how many tokens each offline one gets of it, by the
                            prices of `price.cost`
9. `engine.step_meter`      what is in the step; `step.feedback` says how long it took
10. `price.learner`         learns the seconds of a step from that
11. `targets`               learns what online requests had, and would have had alone; `steered_slo`
                            has one class for each kind of target

`operate` is what an operator sees. `fleet` is several engines as one, `ray_serving` and `batch` are
that on Ray. `engine.state` is what all ask about vLLM's scheduler. `lab` measures profiles,
simulates and draws; nothing that serves imports it.

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
