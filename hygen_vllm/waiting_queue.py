# SPDX-License-Identifier: Apache-2.0
"""One vLLM RequestQueue with two lanes: all online requests stand before all offline ones.

The online lane is vLLM's own queue, so that without offline requests nothing differs from stock.
While a step is built the scheduler closes the offline lane when offline may not be admitted: a
closed lane is not offered, but still counted by len() and iteration.
"""

from collections.abc import Callable, Iterable, Iterator

from vllm.v1.core.sched.request_queue import RequestQueue, SchedulingPolicy, create_request_queue
from vllm.v1.request import Request

from hygen_vllm.offline_queue import OfflineQueue


class TwoLaneQueue(RequestQueue):
    """vLLM's waiting queue for the online class, an OfflineQueue behind it.

    Args:
        policy: vLLM's policy; orders each lane.
        is_offline: class of a request.
    """

    def __init__(self, policy: SchedulingPolicy, is_offline: Callable[[Request], bool]) -> None:
        self._is_offline = is_offline
        by_priority = policy == SchedulingPolicy.PRIORITY
        self.online: RequestQueue = create_request_queue(policy)
        self.offline: OfflineQueue[Request] = OfflineQueue(_priority_key if by_priority else None)
        self.offline_is_open = True
        self._offered: Request | None = None

    def start_step(self, offline_is_open: bool) -> None:
        """Begin a new scan of the offline lane, open or closed."""
        self.offline_is_open = offline_is_open
        self._offered = None
        self.offline.start_scan()

    def add_request(self, request: Request) -> None:
        if self._is_offline(request):
            self.offline.add(request)
        else:
            self.online.add_request(request)

    def peek_request(self) -> Request:
        if self.online:
            self._offered = None
            return self.online.peek_request()
        self._offered = self._offline_candidate()
        if self._offered is None:
            raise IndexError("peek from an empty queue")
        return self._offered

    def pop_request(self) -> Request:
        request, self._offered = self._offered, None
        if request is None and self.online:
            return self.online.pop_request()
        # vLLM 0.33 pops what it peeked even when the gate closed the lane in between.
        request = request or self._offline_candidate()
        if request is None:
            raise IndexError("pop from an empty queue")
        self.offline.take(request)
        return request

    def prepend_request(self, request: Request) -> None:
        if self._is_offline(request):
            self.offline.add_first(request)
        else:
            self.online.prepend_request(request)

    def prepend_requests(self, requests: Iterable[Request]) -> None:
        requests = list(requests)
        self.online.prepend_requests([r for r in requests if not self._is_offline(r)])
        for request in requests:
            if self._is_offline(request):
                self.offline.put_back(request)

    def remove_request(self, request: Request) -> None:
        if not self.offline.discard(request):
            self.online.remove_request(request)

    def remove_requests(self, requests: Iterable[Request]) -> None:
        online = [r for r in requests if not self.offline.discard(r)]
        if online:
            self.online.remove_requests(online)

    def __bool__(self) -> bool:
        return bool(self.online) or self._offline_candidate() is not None

    def __len__(self) -> int:
        return len(self.online) + len(self.offline)

    def __iter__(self) -> Iterator[Request]:
        yield from self.online
        yield from self.offline

    def _offline_candidate(self) -> Request | None:
        return self.offline.next_candidate() if self.offline_is_open else None


def _priority_key(request: Request) -> tuple[int, float, str]:
    return request.priority, request.arrival_time, request.request_id
