# SPDX-License-Identifier: Apache-2.0
"""PlainQueue: stands in for an OfflineQueue, in the order in which requests came."""

import inspect
from dataclasses import dataclass

from hygen_vllm.lane.offline_queue import OfflineQueue
from hygen_vllm.lane.plain_queue import PlainQueue


@dataclass(eq=False)
class Request:
    request_id: int


def taken(queue: PlainQueue[Request]) -> list[int]:
    """Take all that one scan offers."""
    queue.start_scan(0.0)
    ids = []
    while (request := queue.next_candidate()) is not None:
        queue.take(request)
        ids.append(request.request_id)
    queue.check_invariants()
    return ids


def test_plain_queue_has_all_that_others_use_of_an_offline_queue() -> None:
    """Else what replaces a part that failed would fail, too."""
    public = {name for name, _ in inspect.getmembers(OfflineQueue) if not name.startswith("_")}
    assert public <= {name for name, _ in inspect.getmembers(PlainQueue)}


def test_requests_come_in_order_those_that_ran_before_first() -> None:
    """Whatever it begins with, and whatever is put back; each once in a scan."""
    requests = [Request(number) for number in range(5)]
    queue = PlainQueue(requests[:2])
    queue.add(requests[2], 0.0)
    queue.add_first(requests[3])
    queue.add_first(requests[4])
    assert [4, 3, 0, 1, 2] == [request.request_id for request in queue] == taken(queue)
    assert not queue
    queue.start_scan(0.0)
    queue.put_back(requests[1])
    assert [1] == taken(queue)


def test_request_that_is_put_back_is_not_offered_again_in_the_scan() -> None:
    """vLLM would go on for ever."""
    queue = PlainQueue([Request(0), Request(1)])
    queue.start_scan(0.0)
    first = queue.next_candidate()
    assert first is not None
    queue.take(first)
    queue.put_back(first)
    second = queue.next_candidate()
    assert second is not None
    assert 1 == second.request_id


def test_request_that_leaves_is_gone_wherever_it_was() -> None:
    """And is not found a second time."""
    requests = [Request(0), Request(1)]
    queue = PlainQueue(requests[:1])
    queue.add_first(requests[1])
    assert [True, True, False] == [queue.discard(r) for r in (*requests, requests[0])]
    assert 0 == len(queue)
