# SPDX-License-Identifier: Apache-2.0
"""OfflineQueue: the offline requests that wait, as the scheduler sees them. Pure.

A request waits in one place at a time:

    inbox       it came; nobody has looked at its prefix yet
    in order    among those of its tenant, see `fair_share` and `admission_order`
    preempted   it ran before
    parked      it was taken and could not run: no LoRA slot, its grammar is not compiled
    set aside   it was next and found no room for NO_ROOM_S

From the inbox as many are put in order in each step as the scheduler has time for: the most urgent
first, and of those each tenant's in turn. Next is one of the most urgent requests (by vLLM's
priority policy): one set aside that has room now, then a few of those parked, each in its turn,
then one preempted, then one in order. It is offered, and taken for admission; then it runs, or is
put back and parked. No operation takes time in proportion to the queue.

Others go before one that is set aside as long as it has no room. Once it has waited longer than the
bound, all others wait until what runs has left it the room that it needs, if that can be (a
reservation, as in EASY backfilling, Lifka 1995). The same goes for one that is parked for want of a
LoRA slot.
"""

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice
from typing import Generic, NamedTuple, Protocol, TypeVar

from sortedcontainers import SortedDict

from hygen_vllm.lane.admission_order import AdmissionOrder, OrderRules, Waiting
from hygen_vllm.lane.fair_share import DEFAULT_TENANT, FairShare
from hygen_vllm.lane.inbox import Inbox
from hygen_vllm.lane.prefix_tree import Hashes

ORDERED_PER_SCAN = 128
"""Requests of the inbox that are put in order in a step at most: a millisecond or two."""
ORDER_S = 1.25e-5
"""Least that putting a request in order counts for; what it takes on a clock that stands still."""
SCANS_OWED = 50
"""Scans that may have to pay for a request that took long; the process may have slept meanwhile."""
TAKEN_PER_SCAN = 64
"""Requests that a step may take at most, of which some cannot run: it bounds their time."""
PARKED_PER_SCAN = 32
"""Requests that could not run which are offered again in a step; fewer than TAKEN_PER_SCAN."""
LEVELS_KEPT = 16
"""Urgencies without requests that are remembered."""
NO_ROOM_S = 5.0
"""A request that was first in turn and found no room for so long is set aside."""
STUCK_S = 30.0
"""Where none has started for so long, those that find no room are set aside at once."""
SET_ASIDE_SEEN = 4
"""Those that were set aside which are looked at in a scan: the first two, and two in turn."""
LEVELS_SEEN = 8
"""Urgencies whose blocked requests are looked at in a scan: the highest, and as many in turn."""
OFFERED_SCANS = 8
"""Scans for which the next request stays the same where only time passes."""
PAUSE_SHARE = 0.1
"""Of `offline_max_wait_s`: for so long nobody is held up after somebody was."""


class Start(Enum):
    """When a request could start."""

    NOW = "now"
    LATER = "later"
    """Once running offline requests have finished."""
    NOT = "not"
    """Not even after all offline work has ended: online requests have what it needs."""


class Queued(Protocol):
    """What the queue needs to know of a request."""

    @property
    def request_id(self) -> Hashable: ...


R = TypeVar("R", bound=Queued)


class LaneKey(NamedTuple):
    """What decides the place of a request."""

    urgency: int = 0
    """Lower is more urgent."""
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
    """

    order: OrderRules = field(default_factory=lambda: OrderRules(by_prefix=False))
    weights: Mapping[str, float] = field(default_factory=dict)


class _Charge(NamedTuple):
    """What a tenant was charged for a request when it was admitted."""

    urgency: int
    tenant: str
    tokens: float
    added_s: float


class _Level(Generic[R]):
    """Requests of equal urgency."""

    def __init__(self, rules: QueueRules) -> None:
        self.parked: OrderedDict[Hashable, Waiting[R]] = OrderedDict()
        """They could not run when they were taken."""
        self.parked_left = 0
        """Those that this scan may still offer."""
        self.preempted: dict[Hashable, Waiting[R]] = {}
        """The last one is next, unless the first has waited too long."""
        self.set_aside: OrderedDict[Hashable, Waiting[R]] = OrderedDict()
        """Others may go before them."""
        self.has_room: Waiting[R] | None = None
        """One of those set aside for which there is room now."""
        self._order = rules.order
        self.in_order: FairShare[R] = FairShare(rules.weights, lambda: AdmissionOrder(rules.order))

    def __bool__(self) -> bool:
        return bool(self.parked or self.preempted or self.set_aside or self.in_order)

    @property
    def is_blocked(self) -> bool:
        """Whether some could not run, or found no room."""
        return bool(self.parked or self.set_aside)

    def next(self, now_s: float) -> Waiting[R] | None:
        """Return the request that is next, None if no more are to be offered in this scan."""
        if self.has_room is not None:
            return self.has_room
        if self.parked_left > 0 and self.parked:
            return next(iter(self.parked.values()))
        if self.preempted:
            oldest = next(iter(self.preempted.values()))
            is_overdue = self._order.overdue_s(oldest.added_s, now_s) > 0
            return oldest if is_overdue else next(reversed(self.preempted.values()))
        return self.in_order.next(now_s)

    def look_at(self, held: Waiting[R] | None) -> list[Waiting[R]]:
        """Return those set aside whose turn it is in this scan, and the one that is held.

        Moves all but the first to the end of the turns.
        """
        names = [*islice(self.set_aside, SET_ASIDE_SEEN)]
        found = [self.set_aside[name] for name in names]
        if held is not None and held not in found and held.request.request_id in self.set_aside:
            found.append(held)
        for name in names[SET_ASIDE_SEEN // 2 :]:
            self.set_aside.move_to_end(name)
        return found


class OfflineQueue(Generic[R]):
    """See the module docstring.

    One scan per step: `start_scan`, then `next_candidate` and `take` in turn. A request that was
    taken but could not run (its grammar is not compiled yet, its LoRA adapter has no slot) is
    `put_back`; a scan takes at most TAKEN_PER_SCAN, so those cost bounded time and hide nobody.

    Args:
        key: asked for when a request is put in order, and when it is taken.
        clock: monotonic seconds, to see how long putting in order takes.
        place: urgency and tenant alone, asked for when a request comes; `key` is asked if not
            given.
    """

    def __init__(
        self,
        key: Callable[[R], LaneKey],
        rules: QueueRules | None = None,
        clock: Callable[[], float] = time.monotonic,
        place: Callable[[R], tuple[int, str]] | None = None,
    ) -> None:
        self._key = key
        self._place = place or (lambda request: key(request)[:2])
        self._clock = clock
        self._rules = rules or QueueRules()
        self._waiting: dict[Hashable, Waiting[R]] = {}
        self._inbox: Inbox[R] = Inbox(self._rules.weights)
        """Those not in order yet, and some that have left since."""
        self._levels: SortedDict[int, _Level[R]] = SortedDict()
        """By urgency: those with requests, and LEVELS_KEPT without."""
        self._blocked: SortedDict[int, _Level[R]] = SortedDict()
        """Those with requests that are parked or set aside, and some that had such."""
        self._num_scans = 0
        self._taken: dict[Hashable, Waiting[R]] = {}
        self._charged: dict[Hashable, _Charge] = {}
        """Of those that were admitted and are not finished."""
        self._held_for: Waiting[R] | None = None
        """The overdue request for which all others wait until it has room."""
        self._held_has_room = False
        self._paused_until_s = -math.inf
        """Until then nobody is held up."""
        self._no_room: tuple[Hashable, float] = (None, 0.0)
        """The request that found no room last, and since when."""
        self._stuck_since_s = math.inf
        """When one found no room first, since one started last."""
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
        """Add a request that came at `now_s`. Raises ValueError if present.

        Complexity: O(log urgencies).
        """
        self._inbox.add(self._new(request, now_s), *self._place(request))

    def add_first(self, request: R) -> None:
        """Add a request that ran before: it is next of its urgency. Raises as `add`. O(1)."""
        charge = self._charged.get(request.request_id)
        waiting = self._new(request, self._now_s if charge is None else charge.added_s)
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
        if waiting is self._held_for:
            self._pause()
        if len(self._inbox) > 2 * len(self._waiting) + ORDERED_PER_SCAN:
            self._inbox.keep(self._is_new)
        return True

    def start_scan(
        self,
        now_s: float,
        order_s: float = math.inf,
        least: int = 1,
        room: Callable[[R], Start] = lambda _: Start.NOW,
    ) -> None:
        """Begin the scan of a new step. Puts up to ORDERED_PER_SCAN new requests in order.

        Args:
            room: whether a request could start now.
            order_s: seconds that this may take. If one request takes longer the scans after it have
                as much less.
            least: requests that are to be in order, whatever the time.
        """
        self._now_s = now_s
        self._num_scans += 1
        if self._taken:
            self._stuck_since_s = math.inf
            self._taken.clear()
        if self._blocked:
            self._begin_blocked()
        if self._blocked or self._held_for is not None or self._num_scans % OFFERED_SCANS == 0:
            self._offered = None
        owed_s = min(0.0, self._order_left_s)
        self._order_left_s = order_s + max(owed_s, -SCANS_OWED * order_s)
        if self._inbox:
            self._order_inbox(least - self._num_in_order(least))
        if self._blocked or self._held_for is not None:
            self._look_for_room(room)

    def _begin_blocked(self) -> None:
        """Say how many parked requests each level may offer, evenly, each being the first in turn.

        What one has no use for, those after it have.
        """
        for urgency, level in [*self._blocked.items()]:
            level.has_room = None
            if not level.is_blocked:
                del self._blocked[urgency]
        levels = [*self._blocked.values()]
        first = self._num_scans % max(1, len(levels))
        left = PARKED_PER_SCAN
        for number, level in enumerate([*levels[first:], *levels[:first]]):
            level.parked_left = min(math.ceil(left / (len(levels) - number)), len(level.parked))
            left -= level.parked_left

    def _look_for_room(self, room: Callable[[R], Start]) -> None:
        """Say who of those set aside has room now, and for whom all others have to wait."""
        held_before, self._held_for = self._held_for, None
        for level in self._levels_seen(held_before):
            for waiting in level.look_at(held_before):
                found = room(waiting.request)
                if found is Start.NOW and level.has_room is None:
                    level.has_room = waiting
                self._hold_for(waiting, found, held_before)
            for waiting in islice(level.parked.values(), SET_ASIDE_SEEN):
                if self._is_overdue(waiting):
                    self._hold_for(waiting, room(waiting.request), held_before)
        if held_before is not None and self._held_for is None:
            self._pause()

    def _levels_seen(self, held: Waiting[R] | None) -> list[_Level[R]]:
        """Return the levels that are looked at in this scan, that of the one that is held too."""
        levels = [*self._blocked.values()]
        rest = levels[LEVELS_SEEN:]
        seen = levels[:LEVELS_SEEN]
        if rest:
            first = self._num_scans * LEVELS_SEEN % len(rest)
            seen += rest[first : first + LEVELS_SEEN]
            held_level = None if held is None else self._blocked.get(held.urgency)
            if held_level is not None and held_level not in seen:
                seen.append(held_level)
        return seen

    def _hold_for(self, waiting: Waiting[R], found: Start, held_before: Waiting[R] | None) -> None:
        """Let all others wait for one that is overdue, if that helps it."""
        goes_on = waiting is held_before and found is not Start.NOT
        begins = found is Start.LATER and self._is_overdue(waiting)
        if self._held_for is None and (
            goes_on or (begins and held_before is None and self._now_s >= self._paused_until_s)
        ):
            self._held_for, self._held_has_room = waiting, found is Start.NOW

    def _is_overdue(self, waiting: Waiting[R]) -> bool:
        return self._rules.order.overdue_s(waiting.added_s, self._now_s) > 0

    def _pause(self) -> None:
        """Hold up nobody for a while."""
        max_wait_s = self._rules.order.max_wait_s or 0.0
        self._held_for = None
        self._paused_until_s = self._now_s + PAUSE_SHARE * max_wait_s

    def no_room(self, request: R) -> None:
        """Note that there was no room for a request that was offered; see the module docstring."""
        if self._no_room[0] != request.request_id:
            self._no_room = request.request_id, self._now_s
        waiting = self._waiting.get(request.request_id)
        if waiting is None or waiting is self._held_for:
            return
        self._stuck_since_s = min(self._stuck_since_s, self._now_s)
        is_stuck = self._now_s - self._stuck_since_s >= STUCK_S
        if self._now_s - self._no_room[1] < NO_ROOM_S and not is_stuck:
            return
        level = self._level(waiting.urgency)
        self._leave_place(waiting, level)
        level.set_aside[request.request_id] = waiting
        self._blocked[waiting.urgency] = level
        self._offered = None

    def next_candidate(self) -> R | None:
        """Return the request this scan offers next, None at its end. Does not change the order."""
        if self._offered is None and self._waiting and len(self._taken) < TAKEN_PER_SCAN:
            self._offered = self._choose()
        return None if self._offered is None else self._offered.request

    def take(self, request: R) -> None:
        """Remove a request for admission. Raises KeyError if it is not here."""
        waiting = self._waiting.pop(request.request_id)
        level = self._level(waiting.urgency)
        if request.request_id in level.parked:
            level.parked_left -= 1
        if waiting.is_here:
            level.in_order.take(waiting, self._now_s)
        else:
            self._leave_place(waiting, level)
        self._taken[request.request_id] = waiting
        self._offered = None
        if waiting is self._held_for:
            self._pause()
        if request.request_id not in self._charged:
            self._charge(waiting, self._key(request).tokens)
        self._forget_if_empty(waiting.urgency, level)

    def put_back(self, request: R) -> None:
        """Return a request taken in this scan, which could not run; any other as `add_first`."""
        waiting = self._taken.pop(request.request_id, None)
        if waiting is None:
            self.add_first(request)
            return
        self._waiting[request.request_id] = waiting
        if not waiting.has_run:
            self.settle(request, 0.0)
        level = self._blocked[waiting.urgency] = self._level(waiting.urgency)
        level.parked[request.request_id] = waiting
        self._offered = None

    def settle(self, request: R, tokens: float) -> None:
        """Correct what a request was charged to what it had, in tokens. No matter if unknown."""
        charge = self._charged.pop(request.request_id, None)
        if charge is not None and charge.urgency in self._levels:
            self._offered = None
            self._levels[charge.urgency].in_order.charge(charge.tenant, tokens - charge.tokens)

    def num_shared(self, hashes: Hashes) -> int:
        """Return how many leading blocks of a prefix a request in order shares.

        Only those of some tenants are looked at. Complexity: that of `PrefixTree.match`.
        """
        levels = self._levels.values()
        return max((level.in_order.num_shared(hashes) for level in levels), default=0)

    def check_invariants(self) -> None:
        """Raise AssertionError if a request is not in exactly one place."""
        places = Counter(w.request.request_id for w in self._inbox if self._is_new(w))
        for level in self._levels.values():
            level.in_order.check_invariants()
            places.update([*level.parked, *level.preempted, *level.set_aside])
        blocked = {key for key, level in self._levels.items() if level.is_blocked}
        assert blocked <= self._blocked.keys(), blocked
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

    def _num_in_order(self, enough: int) -> int:
        """Return how many requests that are not blocked can be offered, if not enough; or more."""
        total = 0
        for level in self._levels.values():
            total += len(level.preempted) + len(level.in_order)
            if total >= enough:
                break
        return total

    def _order_inbox(self, least: int) -> None:
        started_s = self._clock()
        for _ in range(min(len(self._inbox), ORDERED_PER_SCAN)):
            if self._order_left_s <= 0.0 and least <= 0:
                return
            waiting = self._inbox.pop()
            if not self._is_new(waiting):
                continue
            self._put_in_order(waiting)
            least -= 1
            now_s = self._clock()
            self._order_left_s -= max(now_s - started_s, ORDER_S)
            started_s = now_s

    def _put_in_order(self, waiting: Waiting[R]) -> None:
        level, key = self._find_level(waiting)
        level.in_order.add(waiting, key.hashes)
        self._offered = None

    def _find_level(self, waiting: Waiting[R]) -> tuple[_Level[R], LaneKey]:
        """Label a request and return its level."""
        key = self._key(waiting.request)
        level = self._level(key.urgency)
        waiting.urgency, waiting.tenant = key.urgency, level.in_order.tenant_named(key.tenant)
        return level, key

    def _level(self, urgency: int) -> _Level[R]:
        level: _Level[R] | None = self._levels.get(urgency)
        if level is None:
            level = self._levels[urgency] = _Level(self._rules)
        return level

    def _choose(self) -> Waiting[R] | None:
        if self._held_for is not None:
            return self._held_for if self._held_has_room else None
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
        self._leave_place(waiting, level)
        self._forget_if_empty(waiting.urgency, level)

    def _forget_if_empty(self, urgency: int, level: _Level[R]) -> None:
        if not level and len(self._levels) > LEVELS_KEPT:
            del self._levels[urgency]
            self._blocked.pop(urgency, None)

    @staticmethod
    def _leave_place(waiting: Waiting[R], level: _Level[R]) -> None:
        if waiting.is_here:
            level.in_order.remove(waiting)
            return
        for place in (level.parked, level.preempted, level.set_aside):
            place.pop(waiting.request.request_id, None)
        if waiting is level.has_room:
            level.has_room = None

    def _charge(self, waiting: Waiting[R], tokens: float) -> None:
        charge = _Charge(waiting.urgency, waiting.tenant, tokens, waiting.added_s)
        self._charged[waiting.request.request_id] = charge
        self._level(waiting.urgency).in_order.charge(waiting.tenant, tokens)
