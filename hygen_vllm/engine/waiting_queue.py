# SPDX-License-Identifier: Apache-2.0
"""One vLLM RequestQueue with two lanes: all online requests stand before all offline ones.

The online lane is vLLM's own queue, so that without offline requests nothing differs from stock.
While a step is built the scheduler closes the offline lane when offline may not be admitted: a
closed lane is not offered, but still counted by len(), iteration and indices.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from vllm.v1.core.sched.request_queue import RequestQueue, SchedulingPolicy, create_request_queue
from vllm.v1.request import Request

from hygen_vllm.config import HyGenConfig
from hygen_vllm.engine.requests import Follower
from hygen_vllm.engine.state import extra_args
from hygen_vllm.labels import tenant_of
from hygen_vllm.lane.admission_order import OrderRules
from hygen_vllm.lane.offline_queue import LaneKey, OfflineQueue, QueueRules
from hygen_vllm.lane.plain_queue import PlainQueue
from hygen_vllm.operate.faults import PolicyFaults


class TwoLaneQueue(RequestQueue, Sequence[Request]):
    """vLLM's waiting queue for the online class, an OfflineQueue behind it.

    Args:
        policy: vLLM's policy; orders the online lane.
        make_offline: makes an empty offline lane.
        is_offline: class of a request.
        clock: monotonic seconds.
        faults: of the offline lane. All that wait in one that failed go on waiting in a plain one,
            until that is empty.
    """

    def __init__(
        self,
        policy: SchedulingPolicy,
        make_offline: Callable[[], OfflineQueue[Request]],
        is_offline: Callable[[Request], bool],
        clock: Callable[[], float],
        faults: PolicyFaults,
    ) -> None:
        self._is_offline = is_offline
        self._clock = clock
        self._faults = faults
        self.online: RequestQueue = create_request_queue(policy)
        self._make_offline = make_offline
        self.offline: OfflineQueue[Request] | PlainQueue[Request] = make_offline()
        self.offline_is_open = True
        self.closes_after_one = False
        """The offline lane closes when one has been taken from it."""
        self.offered: Request | None = None
        """The offline request that was peeked last, None if it was an online one."""

    def start_step(self, offline_is_open: bool, now_s: float, *scan: Any) -> None:
        """Begin a new scan of the offline lane, open or closed; see `OfflineQueue.start_scan`."""
        self.offline_is_open = offline_is_open
        self.offered = None
        if isinstance(self.offline, PlainQueue) and not len(self.offline):
            self.offline = self._make_offline()
        try:
            self.offline.start_scan(now_s, *scan)
        except Exception:
            self._faults.note("offline lane")
            self._begin_anew()

    def add_request(self, request: Request) -> None:
        if self._is_offline(request):
            self._change(request, lambda: self.offline.add(request, self._clock()), is_in=True)
        else:
            self.online.add_request(request)

    def peek_request(self) -> Request:
        if self.online:
            self.offered = None
            return self.online.peek_request()
        self.offered = self.peek_offline()
        if self.offered is None:
            raise IndexError("peek from an empty queue")
        return self.offered

    def pop_request(self) -> Request:
        request, self.offered = self.offered, None
        if request is None and self.online:
            return self.online.pop_request()
        if request is not None and not self.offline_is_open:
            # The hook refused it: vLLM 0.33 pops it to prepend it again. It keeps its place.
            return request
        request = request or self.peek_offline()
        if request is None:
            raise IndexError("pop from an empty queue")
        self._change(request, partial(self.offline.take, request), is_in=False)
        if self.closes_after_one:
            self.offline_is_open = False
        return request

    def prepend_request(self, request: Request) -> None:
        if self._is_offline(request):
            self._change(request, lambda: self.offline.add_first(request), is_in=True)
        else:
            self.online.prepend_request(request)

    def prepend_requests(self, requests: Iterable[Request]) -> None:
        requests = list(requests)
        self.online.prepend_requests([r for r in requests if not self._is_offline(r)])
        for request in requests:
            if self._is_offline(request) and request not in self.offline:
                self._change(request, partial(self.offline.put_back, request), is_in=True)

    def remove_request(self, request: Request) -> None:
        if not self._discard(request):
            self.online.remove_request(request)

    def remove_requests(self, requests: Iterable[Request]) -> None:
        online = [r for r in requests if not self._discard(r)]
        if online:
            self.online.remove_requests(online)

    def _discard(self, request: Request) -> bool:
        is_here = request in self.offline
        if is_here:
            self._change(request, lambda: self.offline.discard(request), is_in=False)
        return is_here

    def _change(self, request: Request, change: Callable[[], object], is_in: bool) -> None:
        """Change the offline lane, after which a request is in it or not, whatever happens."""
        try:
            change()
        except Exception:
            self._faults.note("offline lane")
            self._begin_anew()
            self.offline.discard(request)
            if is_in:
                self.offline.add(request, self._clock())

    def _begin_anew(self) -> None:
        """Put all that wait into a plain lane."""
        self.offline = PlainQueue(self.offline)

    def __bool__(self) -> bool:
        return bool(self.online) or self.peek_offline() is not None

    def __len__(self) -> int:
        return len(self.online) + len(self.offline)

    def __iter__(self) -> Iterator[Request]:
        yield from self.online
        yield from self.offline

    def __reversed__(self) -> Iterator[Request]:
        return reversed([*self])

    def index(self, request: Any, start: int = 0, stop: int | None = None) -> int:
        """Return the place of a request. Raises ValueError if it is not there. O(len)."""
        return [*self].index(request, start, len(self) if stop is None else stop)

    def __getitem__(self, index: Any) -> Any:
        """Return a request by its place, as vLLM's queues do. Complexity: that of its place."""
        if not isinstance(index, int):
            raise TypeError("a queue of requests has no slices, only single places")
        place = index + len(self) if index < 0 else index
        found = next(islice(self, place, None), None) if place >= 0 else None
        if found is None:
            raise IndexError(f"queue of {len(self)} requests has no place {index}")
        return found

    def peek_offline(self) -> Request | None:
        """Return the offline request that is next, None if there is none for this step."""
        if not self.offline_is_open:
            return None
        try:
            return self.offline.next_candidate()
        except Exception:
            self._faults.note("offline lane")
            self._begin_anew()
            return self.offline.next_candidate()


@dataclass(frozen=True)
class WaitingQueues(Follower):
    """Both of vLLM's waiting queues: of requests that wait, and that hold KV blocks meanwhile."""

    waiting: TwoLaneQueue
    holding: TwoLaneQueue

    def num_online(self) -> int:
        """Online requests in both."""
        return len(self.waiting.online) + len(self.holding.online)

    def num_offline(self) -> int:
        """Offline requests in both."""
        return len(self.waiting.offline) + len(self.holding.offline)

    def left(self, request: Request, is_offline: bool) -> None:
        """Charge its tenant for what it really was."""
        if is_offline:
            self.waiting.offline.settle(request, request.num_tokens)
            self.holding.offline.settle(request, 0.0)


def make_queues(  # noqa: PLR0913 - made in one place
    config: HyGenConfig,
    *,
    policy: SchedulingPolicy,
    is_offline: Callable[[Request], bool],
    prefix_of: Callable[[Request], Sequence[Any]],
    remaining_tokens: Callable[[Request], float],
    clock: Callable[[], float],
    faults: PolicyFaults,
) -> WaitingQueues:
    """Return the waiting queues of an engine, empty.

    Args:
        policy: vLLM's; orders the online lane, and by urgency the offline one.
        prefix_of: the chained block hashes of a prompt.
        remaining_tokens: how many tokens an offline request is expected to go on to make.
    """
    by_priority = policy == SchedulingPolicy.PRIORITY
    rules = QueueRules(OrderRules.of(config), config.tenant_weights or {})

    def place(request: Request) -> tuple[int, str]:
        return request.priority if by_priority else 0, tenant_of(extra_args(request))

    def key(request: Request) -> LaneKey:
        urgency, tenant = place(request)
        tokens = request.num_prompt_tokens + remaining_tokens(request)
        return LaneKey(urgency, tenant, prefix_of(request), tokens)

    def queue(make_offline: Callable[[], OfflineQueue[Request]]) -> TwoLaneQueue:
        return TwoLaneQueue(policy, make_offline, is_offline, clock, faults)

    return WaitingQueues(
        queue(lambda: OfflineQueue(key, rules, clock, place)),
        queue(lambda: OfflineQueue(lambda _: LaneKey())),
    )
