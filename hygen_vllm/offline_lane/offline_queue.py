# SPDX-License-Identifier: Apache-2.0
"""OfflineQueue: the offline requests that wait, as the scheduler sees them. Pure.

A request comes into an inbox, from which as many are put in order in each step as the scheduler
has time for. It is offered, taken for admission, and either runs or is put back. More urgent ones
(vLLM's priority policy) come before all others; of equal ones come first those that could not run
when they were taken, a few of them in a step and each in its turn; then those that were preempted;
then whoever is next by `fair_share` and `admission_order`. No operation takes time in proportion to
the queue.
"""

import math
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from sortedcontainers import SortedDict

from hygen_vllm.offline_lane.admission_order import (
    AdmissionOrder,
    NumCached,
    OrderRules,
    Waiting,
)
from hygen_vllm.offline_lane.fair_share import FairShare
from hygen_vllm.offline_lane.prefix_tree import Hashes

DEFAULT_TENANT = ""
ORDERED_PER_SCAN = 128
"""Requests of the inbox that are put in order in a step at most: a millisecond or two."""
ORDER_S = 1.25e-5
"""Least that putting a request in order counts for; what it takes on a clock that stands still."""
SCANS_OWED = 50
"""Scans that may have to pay for a request that took long; the process may have slept meanwhile."""
TAKEN_PER_SCAN = 64
PARKED_PER_SCAN = 32
"""Requests that could not run which are offered again in a step; fewer than TAKEN_PER_SCAN."""
LEVELS_KEPT = 16
"""Urgencies without requests that are remembered."""


class Queued(Protocol):
    """What the queue needs to know of a request."""

    @property
    def request_id(self) -> Hashable: ...


R = TypeVar("R", bound=Queued)


class Labels(NamedTuple):
    """What decides the place of a request."""

    urgency: Any = 0
    """Sortable; lower is more urgent."""
    tenant: str = DEFAULT_TENANT
    hashes: Hashes = ()
    tokens: float = 0.0
    """Prompt tokens and the output tokens that are expected."""


@dataclass(frozen=True)
class QueueRules:
    """How an OfflineQueue orders its requests.

    Args:
        order: of the requests of one tenant.
        weights: of tenants; 1 for those not named.
        num_cached: how many of the first n blocks of a prefix the KV cache holds now.
    """

    order: OrderRules = field(default_factory=lambda: OrderRules(by_prefix=False))
    weights: Mapping[str, float] = field(default_factory=dict)
    num_cached: NumCached = lambda _, num_blocks: num_blocks


class _Level(Generic[R]):
    """Requests of equal urgency."""

    def __init__(self, rules: QueueRules) -> None:
        self.parked: OrderedDict[Hashable, Waiting[R]] = OrderedDict()
        """They could not run when they were taken."""
        self.parked_left = 0
        """Those that this scan may still offer."""
        self.preempted: dict[Hashable, Waiting[R]] = {}
        """The last one is next."""
        self.fresh: FairShare[R] = FairShare(
            rules.weights, lambda: AdmissionOrder(rules.order, rules.num_cached)
        )

    def __bool__(self) -> bool:
        return bool(self.parked or self.preempted or self.fresh)

    def next(self, now_s: float) -> Waiting[R] | None:
        """Return the request that is next, None if no more are to be offered in this scan."""
        if self.parked_left > 0 and self.parked:
            return next(iter(self.parked.values()))
        if self.preempted:
            return next(reversed(self.preempted.values()))
        return self.fresh.next(now_s)


class OfflineQueue(Generic[R]):
    """See the module docstring.

    One scan per step: `start_scan`, then `next_candidate` and `take` in turn. A request that was
    taken but could not run (its grammar is not compiled yet, its LoRA adapter has no slot) is
    `put_back`; a scan takes at most TAKEN_PER_SCAN, so those cost bounded time and hide nobody.

    Args:
        label: asked for when a request is put in order, and when it is taken.
        clock: monotonic seconds, to see how long putting in order takes.
    """

    def __init__(
        self,
        label: Callable[[R], Labels],
        rules: QueueRules | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label = label
        self._clock = clock
        self._rules = rules or QueueRules()
        self._waiting: dict[Hashable, Waiting[R]] = {}
        self._inbox: deque[Waiting[R]] = deque()
        """Those not in order yet, and some that have left since."""
        self._levels: SortedDict[Any, _Level[R]] = SortedDict()
        self._taken: dict[Hashable, Waiting[R]] = {}
        self._charged: dict[Hashable, tuple[Any, str, float]] = {}
        """Urgency, tenant and tokens of those that were admitted and are not finished."""
        self._offered: Waiting[R] | None = None
        self._now_s = 0.0
        self._order_left_s = 0.0
        """Seconds that are left for putting in order; negative if overspent."""

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def num_new(self) -> int:
        """Requests of the inbox, some of which may have left since."""
        return len(self._inbox)

    def __iter__(self) -> Iterator[R]:
        """Yield all requests, those that came first before others. Takes O(len)."""
        return (waiting.request for waiting in self._waiting.values())

    def __contains__(self, request: R) -> bool:
        return request.request_id in self._waiting

    def add(self, request: R, now_s: float) -> None:
        """Add a request that came at `now_s`. Raises ValueError if present. Complexity: O(1)."""
        self._inbox.append(self._new(request, now_s))

    def add_first(self, request: R) -> None:
        """Add a request that ran before: it is next of its urgency. Raises as `add`. O(1)."""
        waiting = self._new(request, self._now_s)
        waiting.has_run = True
        self._find_level(waiting)[0].preempted[request.request_id] = waiting
        self._offered = None

    def discard(self, request: R) -> bool:
        """Remove a request wherever it is; False if it is not here.

        Complexity: that of `PrefixTree.remove`.
        """
        waiting = self._waiting.pop(request.request_id, None)
        if waiting is None:
            return False
        self._remove(waiting)
        self._offered = None
        return True

    def start_scan(self, now_s: float, order_s: float = math.inf, least: int = 1) -> None:
        """Begin the scan of a new step. Puts up to ORDERED_PER_SCAN new requests in order.

        Args:
            order_s: seconds that this may take. If one request takes longer the scans after it have
                as much less.
            least: requests that are to be in order, whatever the time.
        """
        self._now_s = now_s
        self._taken.clear()
        self._offered = None
        for level in self._levels.values():
            level.parked_left = min(PARKED_PER_SCAN, len(level.parked))
        owed_s = min(0.0, self._order_left_s)
        self._order_left_s = order_s + max(owed_s, -SCANS_OWED * order_s)
        if self._inbox:
            self._order_inbox(least - self._num_in_order())

    def next_candidate(self) -> R | None:
        """Return the request this scan offers next, None at its end. Does not change the order."""
        if self._offered is None and len(self._taken) < TAKEN_PER_SCAN:
            self._offered = self._choose()
        return None if self._offered is None else self._offered.request

    def take(self, request: R) -> None:
        """Remove a request for admission. Raises KeyError if it is not here."""
        waiting = self._waiting.pop(request.request_id)
        level = self._levels[waiting.urgency]
        if request.request_id in level.parked:
            level.parked_left -= 1
        if waiting.is_here:
            level.fresh.take(waiting, self._now_s)
        else:
            self._remove(waiting)
        self._taken[request.request_id] = waiting
        self._offered = None
        if request.request_id not in self._charged:
            self._charge(waiting, self._label(request).tokens)

    def put_back(self, request: R) -> None:
        """Return a request taken in this scan, which could not run; any other as `add_first`."""
        waiting = self._taken.pop(request.request_id, None)
        if waiting is None:
            self.add_first(request)
            return
        self._waiting[request.request_id] = waiting
        if not waiting.has_run:
            self.finished(request, 0.0)
        self._levels[waiting.urgency].parked[request.request_id] = waiting
        self._offered = None

    def finished(self, request: R, tokens: float) -> None:
        """Correct what a request was charged to what it had, in tokens. No matter if unknown."""
        urgency, tenant, charged = self._charged.pop(request.request_id, (None, "", 0.0))
        if urgency in self._levels:
            self._levels[urgency].fresh.charge(tenant, tokens - charged)

    def num_shared(self, hashes: Hashes) -> int:
        """Return how many leading blocks of a prefix a request in order shares.

        Only those of some tenants are looked at. Complexity: that of `PrefixTree.match`.
        """
        levels = self._levels.values()
        return max((level.fresh.num_shared(hashes) for level in levels), default=0)

    def check_invariants(self) -> None:
        """Raise AssertionError if a request is not in exactly one place."""
        places = Counter(w.request.request_id for w in self._inbox if self._is_new(w))
        for level in self._levels.values():
            level.fresh.check_invariants()
            places.update([*level.parked, *level.preempted])
        here = [w.request.request_id for w in self._waiting.values() if w.is_here]
        places.update(here)
        assert places == Counter(self._waiting.keys()), (places, self._waiting.keys())

    def _new(self, request: R, now_s: float) -> Waiting[R]:
        if request.request_id in self._waiting:
            raise ValueError(f"request {request.request_id} is already in the queue")
        waiting = self._waiting[request.request_id] = Waiting(request, now_s)
        return waiting

    def _is_new(self, waiting: Waiting[R]) -> bool:
        """Whether a request of the inbox is still there."""
        return self._waiting.get(waiting.request.request_id) is waiting

    def _num_in_order(self) -> int:
        """Return how many requests that are not blocked can be offered."""
        return sum(len(level.preempted) + len(level.fresh) for level in self._levels.values())

    def _order_inbox(self, least: int) -> None:
        started_s = self._clock()
        for _ in range(min(len(self._inbox), ORDERED_PER_SCAN)):
            if self._order_left_s <= 0.0 and least <= 0:
                return
            waiting = self._inbox.popleft()
            if not self._is_new(waiting):
                continue
            self._put_in_order(waiting)
            least -= 1
            now_s = self._clock()
            self._order_left_s -= max(now_s - started_s, ORDER_S)
            started_s = now_s

    def _put_in_order(self, waiting: Waiting[R]) -> None:
        level, labels = self._find_level(waiting)
        level.fresh.add(waiting, labels.hashes)

    def _find_level(self, waiting: Waiting[R]) -> tuple[_Level[R], Labels]:
        """Label a request and return its level."""
        labels = self._label(waiting.request)
        waiting.urgency, waiting.tenant = labels.urgency, labels.tenant
        level = self._levels.get(labels.urgency)
        if level is None:
            level = self._levels[labels.urgency] = _Level(self._rules)
        return level, labels

    def _choose(self) -> Waiting[R] | None:
        for level in self._levels.values():
            waiting: Waiting[R] | None = level.next(self._now_s)
            if waiting is not None:
                return waiting
        return None

    def _remove(self, waiting: Waiting[R]) -> None:
        """Remove a request from where it is; one in the inbox is passed over later."""
        level = self._levels.get(waiting.urgency)
        if level is None or waiting.urgency is None:
            return
        if waiting.is_here:
            level.fresh.remove(waiting)
        else:
            level.parked.pop(waiting.request.request_id, None)
            level.preempted.pop(waiting.request.request_id, None)
        if not level and len(self._levels) > LEVELS_KEPT:
            del self._levels[waiting.urgency]

    def _charge(self, waiting: Waiting[R], tokens: float) -> None:
        self._charged[waiting.request.request_id] = waiting.urgency, waiting.tenant, tokens
        self._levels[waiting.urgency].fresh.charge(waiting.tenant, tokens)
