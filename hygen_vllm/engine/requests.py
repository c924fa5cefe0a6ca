# SPDX-License-Identifier: Apache-2.0
"""The requests of an engine: their classes, and what becomes of them.

A request comes, starts to run, may be preempted and start again, and leaves. Each part of the
policy that follows requests is a Follower and is told here, in one place for each event.
"""

from collections.abc import Callable, Mapping, Sequence

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.request import Request

from hygen_vllm.engine.state import extra_args
from hygen_vllm.labels import ClassRule, RequestClass
from hygen_vllm.operate.faults import PolicyFaults
from hygen_vllm.operate.log import engine_logger

logger = engine_logger()


class Follower:
    """Follows the requests of an engine; overrides the events that it needs."""

    def came(self, request: Request, is_offline: bool) -> None:
        """Note a request that the engine has not seen before."""

    def started(self, request: Request, is_offline: bool, computed_tokens: int) -> None:
        """Note a request that is in a step for the first time, or again after a preemption.

        Args: computed_tokens: that were computed before or found in a cache.
        """

    def preempted(self, request: Request, is_offline: bool) -> None:
        """Note a request that lost its KV blocks and waits again."""

    def left(self, request: Request, is_offline: bool) -> None:
        """Note a request that finished or was aborted, before its KV blocks are freed."""


class Requests:
    """Keeps the class of each request, and tells followers what becomes of them.

    Args:
        rule: says which class a label or a priority means.
        faults: of followers. One that fails keeps no other from the event.
    """

    def __init__(self, rule: ClassRule, faults: PolicyFaults) -> None:
        self.offline_ids: set[str] = set()
        """Requests of the offline class in this engine."""
        self.followers: Sequence[Follower] = ()
        self.has_seen_online = False
        self.num_unknown_labels = 0
        self._rule = rule
        self._faults = faults

    def is_offline(self, request: Request) -> bool:
        """Whether a request of this engine belongs to the offline class."""
        return request.request_id in self.offline_ids

    def came(self, request: Request) -> None:
        """Tell that a request came; one whose class cannot be told is online."""
        try:
            is_offline = self._classify(request)
        except Exception:
            self._faults.note("intake of a request")
            is_offline = False
        if is_offline:
            self.offline_ids.add(request.request_id)
        else:
            self.has_seen_online = True
        self._tell("intake of a request", lambda each: each.came(request, is_offline))

    def _classify(self, request: Request) -> bool:
        """Return whether a new request is offline. Streaming-input sessions are interactive."""
        labels = extra_args(request)
        request_class = self._rule.classify(labels, request.priority)
        if request_class is None:
            self.num_unknown_labels += 1
            if self.num_unknown_labels == 1:
                label = labels["slo_class"] if labels else None
                logger.warning(
                    "Request %.100s has an unknown slo_class %.100s; treated as online. Valid: "
                    "online, offline. Further ones are only counted.",
                    request.request_id,
                    repr(label),
                )
        return request_class is RequestClass.OFFLINE and not request.resumable

    def step_made(self, output: SchedulerOutput, requests: Mapping[str, Request]) -> None:
        """Tell who started in a step.

        Args: requests: of the engine, by id.
        """
        for new in output.scheduled_new_reqs:
            self._started(requests[new.req_id], new.num_computed_tokens)
        cached = output.scheduled_cached_reqs
        if cached.resumed_req_ids:
            for request_id, computed in zip(
                cached.req_ids, cached.num_computed_tokens, strict=True
            ):
                if request_id in cached.resumed_req_ids:
                    self._started(requests[request_id], computed)

    def _started(self, request: Request, computed_tokens: int) -> None:
        is_offline = self.is_offline(request)
        self._tell(
            "start of a request", lambda each: each.started(request, is_offline, computed_tokens)
        )

    def preempted(self, request: Request) -> None:
        """Tell that a request was preempted."""
        is_offline = self.is_offline(request)
        self._tell("preemption of a request", lambda each: each.preempted(request, is_offline))

    def left(self, request: Request) -> None:
        """Tell that a request left."""
        is_offline = self.is_offline(request)
        self.offline_ids.discard(request.request_id)
        self._tell("farewell to a request", lambda each: each.left(request, is_offline))

    def _tell(self, event: str, tell: Callable[[Follower], None]) -> None:
        """Tell each follower, whatever happens to others. Args: event: as faults name it."""
        for follower in self.followers:
            try:
                tell(follower)
            except Exception:
                self._faults.note(event)
