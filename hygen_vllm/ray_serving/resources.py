# SPDX-License-Identifier: Apache-2.0
"""Whether a Ray cluster has what replicas ask for: else they would wait for ever, in silence."""

from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.serve.llm import LLMConfig

from hygen_vllm.config import ConfigError

Bundle = Mapping[str, float]


def check_resources(llm_config: LLMConfig, num_replicas: int) -> None:
    """Raise ConfigError if the cluster could not hold the replicas even if it were empty.

    Does nothing where this process is not connected to a cluster.
    """
    if not ray.is_initialized():
        return
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    bundles = [_plain(bundle) for bundle in bundles_of(llm_config)]
    missing = missing_resources(bundles, num_replicas, nodes)
    if missing is not None:
        raise ConfigError(missing)


def bundles_of(llm_config: LLMConfig) -> Sequence[Bundle]:
    """Return what each worker of a replica asks for."""
    found: Sequence[Bundle] = llm_config.get_engine_config().placement_bundles
    return found


def missing_resources(
    bundles: Sequence[Bundle], num_replicas: int, nodes: Sequence[Bundle]
) -> str | None:
    """Return what nodes have not got for so many replicas, None if they have it.

    Args:
        bundles: of one replica; each fits on one node.
        nodes: all resources of each.
    """
    for bundle in bundles:
        if not any(_fits(bundle, node) for node in nodes):
            most = {name: max((n.get(name, 0.0) for n in nodes), default=0.0) for name in bundle}
            return (
                f"no node of the Ray cluster has what one worker of a replica asks for: "
                f"{_text(bundle)}; the largest have {_text(most)}"
            )
    names = {name: None for bundle in bundles for name in bundle}
    wanted = {n: num_replicas * sum(bundle.get(n, 0.0) for bundle in bundles) for n in names}
    total = {name: sum(node.get(name, 0.0) for node in nodes) for name in wanted}
    if not _fits(wanted, total):
        return (
            f"{num_replicas} replicas ask for {_text(wanted)}; the Ray cluster has {_text(total)}"
        )
    return None


def _plain(bundle: Bundle) -> dict[str, Any]:
    return {name: amount for name, amount in bundle.items() if amount > 0}


def _fits(wanted: Bundle, there: Bundle) -> bool:
    return all(there.get(name, 0.0) >= amount for name, amount in wanted.items())


def _text(bundle: Bundle) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in bundle.items())
