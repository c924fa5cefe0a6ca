# SPDX-License-Identifier: Apache-2.0
"""WorkPool: offline work that waits for whichever engine has room for it. Pure.

Work is not pushed: a worker (an engine) takes as much as it wants. What it took is lent to it until
it says that it is done; the work of a worker that is not heard of for `lease_s` waits again, before
all other. So work survives the workers, is given to one at a time, and only its holder can say that
it is done.

What a worker had when it was lost may be what ended it. It is suspected, and lent alone, to a
worker that has nothing else: so it takes nobody with it, and is given up if that one is lost, too.
Whoever is heard of again was only silent, and suspects nobody. Whoever leaves blames nobody.

The order in which work is given away is that of the offline lane of an engine: tenants, prefixes,
age. What a worker takes at once are neighbours in that order, which share most.
"""

from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from hygen_vllm.lane.offline_queue import LaneKey, OfflineQueue, QueueRules

W = TypeVar("W")
MOST_DEATHS = 2
"""Workers that may be lost with a request before it is given up."""
MOST_FAILURES = 3
"""Times that workers may give it back before it is given up."""


@dataclass(eq=False)
class Work(Generic[W]):
    """One request that somebody waits for.

    Args:
        request_id: unique in the pool.
        key: what decides its place.
    """

    request_id: Hashable
    content: W
    key: LaneKey = field(default_factory=LaneKey)
    num_deaths: int = 0
    """Workers that were lost while they had it."""
    num_failures: int = 0

    @property
    def is_suspect(self) -> bool:
        return self.num_deaths > 0


@dataclass
class _Worker(Generic[W]):
    heard_s: float
    lent: dict[Hashable, Work[W]] = field(default_factory=dict)


class WorkPool(Generic[W]):
    """See the module docstring. Times are seconds of one monotonic clock.

    Args: lease_s: a worker that is not heard of for so long has lost what it took.
    """

    def __init__(self, lease_s: float, rules: QueueRules | None = None) -> None:
        self._lease_s = lease_s
        self._queue: OfflineQueue[Work[W]] = OfflineQueue(lambda work: work.key, rules)
        self._suspects: dict[Hashable, Work[W]] = {}
        """Those that wait, in order."""
        self._alone: Hashable = None
        """The worker that gets nothing more until it is free for a suspect."""
        self._workers: dict[Hashable, _Worker[W]] = {}
        self._silent: dict[Hashable, list[Work[W]]] = {}
        """What the workers had that were lost; they may only have been silent."""
        self._known: dict[Hashable, Work[W]] = {}

    def __len__(self) -> int:
        """Work that waits or is lent."""
        return len(self._known)

    @property
    def num_waiting(self) -> int:
        """Work that no worker has."""
        return len(self._queue) + len(self._suspects)

    @property
    def workers(self) -> dict[Hashable, int]:
        """Work that each worker has."""
        return {name: len(worker.lent) for name, worker in self._workers.items()}

    def lent(self, worker: Hashable) -> Collection[Hashable]:
        """Ids of the work that a worker has."""
        known = self._workers.get(worker)
        return known.lent.keys() if known is not None else ()

    def add(self, work: Work[W], now_s: float) -> None:
        """Add work. Raises ValueError if its id is known."""
        if work.request_id in self._known:
            raise ValueError(f"work {work.request_id!r} is already in the pool")
        self._known[work.request_id] = work
        if work.is_suspect:
            self._suspects[work.request_id] = work
        else:
            self._queue.add(work, now_s)

    def take(self, worker: Hashable, most: int, now_s: float) -> list[Work[W]]:
        """Return work that a worker is to do, at most so much; also tells that it lives."""
        lent = self._heard(worker, now_s).lent
        if any(work.is_suspect for work in lent.values()):
            return []
        taken = self._next_suspect(worker, most)
        if taken is None:
            taken = self._next(most, now_s)
        lent.update((work.request_id, work) for work in taken)
        return taken

    def _next_suspect(self, worker: Hashable, most: int) -> list[Work[W]] | None:
        """Return a suspect for a worker that has nothing; None if it is to get other work.

        Where all have something one of them gets no more until it is free.
        """
        if not self._suspects:
            return None
        is_free = not self._workers[worker].lent
        if self._alone not in self._workers:
            self._alone = worker
        if is_free and most > 0:
            self._alone = None
            return [self._suspects.pop(next(iter(self._suspects)))]
        if self._alone != worker:
            return None
        if is_free:  # it has no room: let another one try
            self._alone = None
        return []

    def _next(self, most: int, now_s: float) -> list[Work[W]]:
        """Take the next work out of the queue."""
        taken: list[Work[W]] = []
        while self._queue.num_new:
            self._queue.start_scan(now_s)
        while len(taken) < most and self._queue:
            work = self._queue.next_candidate()
            if work is None:  # a scan offers a bounded number
                self._queue.start_scan(now_s)
                continue
            self._queue.take(work)
            taken.append(work)
        return taken

    def reconcile(self, worker: Hashable, doing: Collection[Hashable]) -> None:
        """Let work wait again that a worker was lent and does not have; what it took got lost.

        Args: doing: ids of all that it has, those among them that it has not said it is done with.
        """
        known = self._workers.get(worker)
        if known is not None:
            lost = [known.lent.pop(name) for name in [*known.lent] if name not in doing]
            self._wait_again(lost)

    def done(self, worker: Hashable, request_id: Hashable, tokens: float) -> bool:
        """Note that a worker has a result; return whether it counts: the worker holds the work.

        Args: tokens: of prompt and output, for the shares of tenants.
        """
        if request_id not in self.lent(worker):
            return False
        return self.cancel(request_id, tokens)

    def cancel(self, request_id: Hashable, tokens: float = 0.0) -> bool:
        """Forget work, wherever it is; False if it is not known."""
        work = self._known.pop(request_id, None)
        if work is None:
            return False
        self._queue.discard(work)
        self._queue.settle(work, tokens)
        self._suspects.pop(request_id, None)
        for worker in self._workers.values():
            worker.lent.pop(request_id, None)
        return True

    def give_back(self, worker: Hashable, request_id: Hashable) -> bool:
        """Let work that a worker could not do wait again; False if it is to be given up."""
        known = self._workers.get(worker)
        work = known.lent.pop(request_id, None) if known is not None else None
        if work is None:  # others have it, or nobody wants it any more
            return True
        work.num_failures += 1
        if work.num_failures >= MOST_FAILURES:
            self.cancel(request_id)
            return False
        self._wait_again([work])
        return True

    def leave(self, worker: Hashable) -> None:
        """Forget a worker that ends as it should; what it had waits again."""
        known = self._workers.pop(worker, None)
        if known is not None:
            self._wait_again(known.lent.values())

    def expire(self, now_s: float) -> list[Work[W]]:
        """Forget the workers that were not heard of; return the work that is given up."""
        for name, lost in [*self._silent.items()]:
            if not any(work.request_id in self._known for work in lost):
                del self._silent[name]
        silent = [n for n, each in self._workers.items() if now_s - each.heard_s > self._lease_s]
        return [work for name in silent for work in self._lose(name)]

    def _lose(self, worker: Hashable) -> list[Work[W]]:
        lost = [*self._workers.pop(worker).lent.values()]
        self._silent[worker] = lost
        for work in lost:
            work.num_deaths += 1
        given_up = [work for work in lost if work.num_deaths >= MOST_DEATHS]
        for work in given_up:
            self.cancel(work.request_id)
        self._wait_again(work for work in lost if work.num_deaths < MOST_DEATHS)
        return given_up

    def check_invariants(self) -> None:
        """Raise AssertionError if work is not in exactly one place."""
        self._queue.check_invariants()
        places: list[Hashable] = [*(work.request_id for work in self._queue), *self._suspects]
        for worker in self._workers.values():
            places += worker.lent
            has_suspect = any(work.is_suspect for work in worker.lent.values())
            assert not has_suspect or len(worker.lent) == 1, worker.lent
        assert sorted(map(repr, places)) == sorted(map(repr, self._known)), places

    def _heard(self, name: Hashable, now_s: float) -> _Worker[W]:
        for work in self._silent.pop(name, ()):
            work.num_deaths = max(0, work.num_deaths - 1)
            if not work.num_deaths and self._suspects.pop(work.request_id, None) is not None:
                self._queue.add_first(work)
        worker = self._workers.setdefault(name, _Worker(now_s))
        worker.heard_s = now_s
        return worker

    def _wait_again(self, works: Iterable[Work[W]]) -> None:
        works = [*works]
        self._suspects |= {work.request_id: work for work in works if work.is_suspect}
        for work in reversed(works):
            if not work.is_suspect:
                self._queue.add_first(work)
