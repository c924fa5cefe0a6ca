# SPDX-License-Identifier: Apache-2.0
"""Requests that are not in order yet, since putting one in order takes time. Pure.

More urgent ones leave first; of equal ones each tenant in turn, its own in the order they came. So
whoever sends thousands at once makes others wait no longer than its own.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterator
from typing import Generic, TypeVar

from sortedcontainers import SortedDict

from hygen_vllm.labels import OTHERS
from hygen_vllm.lane.admission_order import Waiting
from hygen_vllm.lane.fair_share import DEFAULT_TENANT, MOST_TENANTS

R = TypeVar("R")


class Inbox(Generic[R]):
    """See the module docstring. All operations but `keep` take O(log urgencies).

    Args: named: tenants that have a turn of their own always. Of others as many as FairShare tells
        apart have one at a time, and the rest share one.
    """

    def __init__(self, named: Collection[str] = ()) -> None:
        self._named = {DEFAULT_TENANT, *named}
        self._levels: SortedDict[int, OrderedDict[str, deque[Waiting[R]]]] = SortedDict()
        """By urgency, then by tenant, whose turn it is first."""
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Waiting[R]]:
        """Yield all requests."""
        for tenants in self._levels.values():
            for queue in tenants.values():
                yield from queue

    def add(self, waiting: Waiting[R], urgency: int, tenant: str) -> None:
        """Add a request; lower urgencies leave first."""
        tenants = self._levels.get(urgency)
        if tenants is None:
            tenants = self._levels[urgency] = OrderedDict()
        is_known = tenant in tenants or tenant in self._named
        if not is_known and len(tenants) >= MOST_TENANTS + len(self._named):
            tenant = OTHERS
        tenants.setdefault(tenant, deque()).append(waiting)
        self._length += 1

    def pop(self) -> Waiting[R]:
        """Remove the next request. Raises IndexError if there is none."""
        urgency, tenants = self._levels.peekitem(0)
        tenant, queue = next(iter(tenants.items()))
        waiting: Waiting[R] = queue.popleft()
        self._length -= 1
        if queue:
            tenants.move_to_end(tenant)
        else:
            del tenants[tenant]
        if not tenants:
            del self._levels[urgency]
        return waiting

    def keep(self, is_kept: Callable[[Waiting[R]], bool]) -> None:
        """Remove all requests but some. Takes O(len)."""
        for urgency, tenants in [*self._levels.items()]:
            for tenant, queue in [*tenants.items()]:
                tenants[tenant] = deque(filter(is_kept, queue))
                if not tenants[tenant]:
                    del tenants[tenant]
            if not tenants:
                del self._levels[urgency]
        self._length = sum(1 for _ in self)
