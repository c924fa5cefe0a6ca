# SPDX-License-Identifier: Apache-2.0
"""PlainQueue: what an OfflineQueue that failed is replaced by. Pure.

First come, first served; no tenants, prefixes, priorities or bounds of waiting. It shares no code
with what it stands in for.
"""

from collections.abc import Hashable, Iterable, Iterator
from typing import Any, Generic, TypeVar

R = TypeVar("R", bound=Any)


class PlainQueue(Generic[R]):
    """The methods of an OfflineQueue, with the same meaning. Holds `requests` to start with."""

    def __init__(self, requests: Iterable[R]) -> None:
        self._waiting: dict[Hashable, R] = {request.request_id: request for request in requests}
        self._first: dict[Hashable, R] = {}
        """Those that ran before; the last one is next."""
        self._seen: set[Hashable] = set()
        """Taken in this scan."""

    def __len__(self) -> int:
        return len(self._waiting) + len(self._first)

    def __iter__(self) -> Iterator[R]:
        yield from reversed([*self._first.values()])
        yield from self._waiting.values()

    def __contains__(self, request: R) -> bool:
        return request.request_id in self._waiting or request.request_id in self._first

    @property
    def num_new(self) -> int:
        return 0

    def add(self, request: R, _: float) -> None:
        self._waiting[request.request_id] = request

    def add_first(self, request: R) -> None:
        self._first[request.request_id] = request

    put_back = add_first

    def discard(self, request: R) -> bool:
        is_here = request in self
        self._waiting.pop(request.request_id, None)
        self._first.pop(request.request_id, None)
        return is_here

    def start_scan(self, *_: object) -> None:
        self._seen.clear()

    def next_candidate(self) -> R | None:
        return next((each for each in self if each.request_id not in self._seen), None)

    def take(self, request: R) -> None:
        self._seen.add(request.request_id)
        self.discard(request)

    def no_room(self, _: R) -> None:
        """Let it wait, and the others behind it."""

    def settle(self, _: R, __: float) -> None:
        """Charge nobody."""

    def num_shared(self, _: object) -> int:
        return 0

    def check_invariants(self) -> None:
        """Raise AssertionError if a request is in two places."""
        assert self._waiting.keys().isdisjoint(self._first), (self._waiting, self._first)
