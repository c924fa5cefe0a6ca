# SPDX-License-Identifier: Apache-2.0
"""Order of the offline requests that wait. Pure: no vLLM, no clock, no classes of requests.

First come, first served, or by a given key. Requests put back at the front (preempted ones) come
before all others. Every operation is O(log n), so the length of the queue never shows in a step.
"""

from collections.abc import Callable, Hashable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from sortedcontainers import SortedDict


class Queued(Protocol):
    """What the queue needs to know of a request."""

    @property
    def request_id(self) -> Hashable: ...


R = TypeVar("R", bound=Queued)


class OfflineQueue(Generic[R]):
    """Waiting offline requests in the order in which they are offered.

    One scan per step: `start_scan`, then `next_candidate` and `take` in turn. A request that was
    taken but could not run (its grammar is not compiled yet, its LoRA adapter has no slot) is
    `put_back` where it stood. A scan takes at most `max_taken_per_scan` requests, so those that
    cannot run cost bounded time in a step, and `start_scan` sees to it that they hide nobody.

    Args:
        sort_key: request -> sortable key, or None for first come, first served.
        max_taken_per_scan: bound on the requests taken in one scan, >= 1.
    """

    def __init__(
        self, sort_key: Callable[[R], Any] | None = None, max_taken_per_scan: int = 64
    ) -> None:
        self._sort_key = sort_key
        self._max_taken = max_taken_per_scan
        self._by_place: SortedDict[Any, R] = SortedDict()
        self._place_of: dict[Hashable, Any] = {}
        self._taken: dict[Hashable, Any] = {}
        self._scan_after: Any = None
        self._behind: Any = None
        self._next_number = 1
        self._front_number = 0

    def __len__(self) -> int:
        return len(self._by_place)

    def __iter__(self) -> Iterator[R]:
        return iter(self._by_place.values())

    def __contains__(self, request: R) -> bool:
        return request.request_id in self._place_of

    def add(self, request: R) -> None:
        """Put a request at the back, or where the sort key says. Raises ValueError if present."""
        self._insert(request, self._place(request, self._next_number))
        self._next_number += 1

    def add_first(self, request: R) -> None:
        """Put a request before all others, or where the sort key says. Raises as `add`."""
        self._insert(request, self._place(request, self._front_number))
        self._front_number -= 1

    def discard(self, request: R) -> bool:
        """Remove a request wherever it stands; False if it is not here."""
        place = self._place_of.pop(request.request_id, None)
        if place is None:
            return False
        del self._by_place[place]
        return True

    def start_scan(self) -> None:
        """Begin the scan of a new step.

        Once a scan ran into its bound, scans take turns: one at the front, one behind those that
        could not run, until one at the front gets past them or one behind them gets nowhere.
        """
        if not self._taken and self._scan_after is None and self._behind is None:
            return  # nothing was taken in the scan before: this one is the same
        put_back = [p for r, p in self._taken.items() if self._place_of.get(r) == p]
        is_at_front = self._scan_after is None
        got_past = is_at_front and len(self._taken) > 0
        got_nowhere = not is_at_front and len(put_back) == len(self._taken)
        if len(self._taken) >= self._max_taken and put_back:
            last = max(put_back)
            self._behind = last if self._behind is None else max(last, self._behind)
        elif got_past or got_nowhere:
            self._behind = None
        self._scan_after = self._behind if is_at_front else None
        self._taken.clear()

    def next_candidate(self) -> R | None:
        """Return the request this scan offers next, None at its end. Does not change the queue."""
        if len(self._taken) >= self._max_taken:
            return None
        start = 0
        if self._scan_after is not None:
            start = self._by_place.bisect_right(self._scan_after)
        return self._by_place.peekitem(start)[1] if start < len(self._by_place) else None

    def take(self, request: R) -> None:
        """Remove a request for admission, remembering its place for `put_back`."""
        self._taken[request.request_id] = self._place_of[request.request_id]
        self.discard(request)

    def put_back(self, request: R) -> None:
        """Return a request taken in this scan to its place; any other one goes to the front."""
        place = self._taken.get(request.request_id)
        if place is None:
            self.add_first(request)
        else:
            self._insert(request, place)

    def check_invariants(self) -> None:
        """Raise AssertionError if the two indexes disagree."""
        sizes = len(self._by_place), len(self._place_of)
        assert sizes[0] == sizes[1], sizes
        for request_id, place in self._place_of.items():
            assert self._by_place[place].request_id == request_id, (request_id, place)

    def _place(self, request: R, number: int) -> Any:
        return number if self._sort_key is None else (self._sort_key(request), number)

    def _insert(self, request: R, place: Any) -> None:
        if request.request_id in self._place_of:
            raise ValueError(f"request {request.request_id} is already in the queue")
        self._place_of[request.request_id] = place
        self._by_place[place] = request
