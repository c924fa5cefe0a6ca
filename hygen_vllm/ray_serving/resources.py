# SPDX-License-Identifier: Apache-2.0
"""Whether a cluster has what replicas ask for: else they would wait for ever, in silence. Pure."""

from collections.abc import Mapping, Sequence

Bundle = Mapping[str, float]


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


def _fits(wanted: Bundle, there: Bundle) -> bool:
    return all(there.get(name, 0.0) >= amount for name, amount in wanted.items())


def _text(bundle: Bundle) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in bundle.items())
