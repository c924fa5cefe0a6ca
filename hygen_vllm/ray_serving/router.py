# SPDX-License-Identifier: Apache-2.0
"""HyGenRouter: Serve's request router that asks `fleet.routing.SloRouter`.

Each process that sends requests to the replicas has one; all see the same loads, which Serve asks
the replicas for once a second, and each what it sent itself. Requests for a LoRA adapter go to
replicas that have it, as with Serve's own router.
"""

from ray.serve.request_router import (
    MultiplexMixin,
    PendingRequest,
    ReplicaID,
    RequestRouter,
    RunningReplica,
)

from hygen_vllm.fleet.engine_load import EngineLoad
from hygen_vllm.fleet.routing import RoutedRequest, SloRouter
from hygen_vllm.json_types import Json
from hygen_vllm.openai_request import (
    CHARACTERS_PER_TOKEN,
    CHUNK_CHARACTERS,
    IDENTITY,
    OpenAiRequest,
)
from hygen_vllm.ray_serving.offline_pool import COUNTED_METHOD

STATS = "hygen"
"""Name of the load among the routing stats of a replica."""


class HyGenRouter(MultiplexMixin, RequestRouter):
    """See the module docstring."""

    def initialize_state(self, seed: int = 0) -> None:
        """Serve's hook, called once."""
        self._router = SloRouter(seed)
        self._reports: dict[ReplicaID, tuple[object, EngineLoad]] = {}

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Return the replica that is to get a request, then all that may if it does not take it.

        None for a call that only counts.
        """
        if pending_request is not None:
            # Else Serve asks again without a pause while no replica takes it.
            pending_request.routing_context.should_backoff = True
            if pending_request.metadata.call_method == COUNTED_METHOD:
                return []
        replicas = {replica.replica_id: replica for replica in candidate_replicas}
        for name in [name for name in self._reports if name not in replicas]:
            del self._reports[name]
        if pending_request is not None and pending_request.metadata.multiplexed_model_id:
            having = self.apply_multiplex_routing(pending_request=pending_request)
            replicas = {name: each for name, each in replicas.items() if name in having}
        if not replicas:
            return []
        loads = {name: self._load(replica) for name, replica in replicas.items()}
        chosen = self._router.choose(routed_request(pending_request), loads)
        return [[replicas[chosen]], list(replicas.values())]

    def _load(self, replica: RunningReplica) -> EngineLoad:
        """Return what a replica told last: the same object until it tells something else."""
        report = replica.routing_stats.get(STATS, {})
        known = self._reports.get(replica.replica_id)
        if known is None or known[0] != report:
            known = report, EngineLoad.from_dict(report)
            self._reports[replica.replica_id] = known
        return known[1]


def routed_request(pending: PendingRequest | None) -> RoutedRequest:
    """Return what is known of a call of a replica; nothing if it is no request with a prompt."""
    body = body_of(pending.args[0]) if pending is not None and pending.args else {}
    if not body:
        return RoutedRequest(0.0)
    request = OpenAiRequest("", body)
    return RoutedRequest(
        len(request.text) / CHARACTERS_PER_TOKEN,
        request.prefix_hashes(),
        CHUNK_CHARACTERS / CHARACTERS_PER_TOKEN,
    )


def body_of(request: object) -> Json:
    """Return what decides the prompt of a parsed request."""
    names = ("prompt", "messages", *IDENTITY)
    found = {name: getattr(request, name, None) for name in names}
    return {name: value for name, value in found.items() if value is not None}
