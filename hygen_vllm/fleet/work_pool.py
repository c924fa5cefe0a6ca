# SPDX-License-Identifier: Apache-2.0
"""WorkPool: offline work that waits for whichever engine has room for it. Pure.

Work is not pushed: a worker (an engine) takes as much as it wants. What it took is lent to it until
it says that it is done; the work of a worker that is not heard of for `lease_s` waits again, before
all other. So work survives the workers, is given to one at a time, and its first result counts.

The order in which it is given away is that of the offline lane of an engine: tenants, prefixes,
age. What a worker takes at once are neighbours in that order, which share most.
"""

from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from hygen_vllm.offline_lane.offline_queue import Labels, OfflineQueue, QueueRules

W = TypeVar("W")


@dataclass(eq=False)
class Work(Generic[W]):
    """One request that somebody waits for.

    Args:
        request_id: unique in the pool.
        labels: what decides its place.
    """

    request_id: Hashable
    content: W
    labels: Labels = field(default_factory=Labels)
    num_lent: int = 0
    """How many workers got it so far."""


@dataclass
class _Worker(Generic[W]):
    heard_s: float
    lent: dict[Hashable, Work[W]] = field(default_factory=dict)


class WorkPool(Generic[W]):
    """See the module docstring. Times are seconds of one monotonic clock.

    Args:
        lease_s: a worker that is not heard of for so long has lost what it took.
        most_lent: work that so many workers lost is given up; it may be what ends them.
    """

    def __init__(self, lease_s: float, most_lent: int, rules: QueueRules | None = None) -> None:
        self._lease_s = lease_s
        self._most_lent = most_lent
        self._queue: OfflineQueue[Work[W]] = OfflineQueue(lambda work: work.labels, rules)
        self._workers: dict[Hashable, _Worker[W]] = {}
        self._known: dict[Hashable, Work[W]] = {}

    def __len__(self) -> int:
        """Work that waits or is lent."""
        return len(self._known)

    @property
    def num_waiting(self) -> int:
        """Work that no worker has."""
        return len(self._queue)

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
        self._queue.add(work, now_s)

    def take(self, worker: Hashable, most: int, now_s: float) -> list[Work[W]]:
        """Return work that a worker is to do, at most so much; also tells that it lives."""
        lent = self._heard(worker, now_s).lent
        taken: list[Work[W]] = []
        while self._queue.num_new:
            self._queue.start_scan(now_s)
        while len(taken) < most and self._queue:
            work = self._queue.next_candidate()
            if work is None:  # a scan offers a bounded number
                self._queue.start_scan(now_s)
                continue
            self._queue.take(work)
            work.num_lent += 1
            lent[work.request_id] = work
            taken.append(work)
        return taken

    def reconcile(self, worker: Hashable, doing: Collection[Hashable]) -> list[Work[W]]:
        """Let work wait again that a worker was lent and does not have; what it took got lost.

        Args: doing: ids of all that it has, those among them that it has not said it is done with.
        Returns: work that is given up.
        """
        known = self._workers.get(worker)
        if known is None:
            return []
        lost = [known.lent.pop(name) for name in [*known.lent] if name not in doing]
        return [work for work in lost if not self._wait_again(work)]

    def done(self, request_id: Hashable, tokens: float) -> bool:
        """Note a result, which counts only once; return whether it does.

        Args: tokens: of prompt and output, for the shares of tenants.
        """
        work = self._known.pop(request_id, None)
        if work is None:
            return False
        self._queue.discard(work)
        self._queue.finished(work, tokens)
        for worker in self._workers.values():
            worker.lent.pop(request_id, None)
        return True

    def give_back(self, worker: Hashable, request_id: Hashable) -> bool:
        """Let work that a worker could not do wait again; False if it is to be given up."""
        known = self._workers.get(worker)
        work = known.lent.pop(request_id, None) if known is not None else None
        if work is None:
            return request_id in self._known
        return self._wait_again(work)

    def leave(self, worker: Hashable) -> list[Work[W]]:
        """Forget a worker; what it had waits again. Return the work that is given up.

        Raises: KeyError if it is not known.
        """
        lent = self._workers.pop(worker).lent
        return [work for work in reversed(lent.values()) if not self._wait_again(work)]

    def expire(self, now_s: float) -> list[Work[W]]:
        """Forget the workers that were not heard of; return the work that is given up."""
        silent = [n for n, each in self._workers.items() if now_s - each.heard_s > self._lease_s]
        return [work for name in silent for work in self.leave(name)]

    def check_invariants(self) -> None:
        """Raise AssertionError if work is not in exactly one place."""
        self._queue.check_invariants()
        places: list[Any] = [work.request_id for work in self._queue]
        for worker in self._workers.values():
            places += worker.lent
        assert sorted(map(repr, places)) == sorted(map(repr, self._known)), places

    def _heard(self, name: Hashable, now_s: float) -> _Worker[W]:
        worker = self._workers.setdefault(name, _Worker(now_s))
        worker.heard_s = now_s
        return worker

    def _wait_again(self, work: Work[W]) -> bool:
        if work.num_lent >= self._most_lent:
            self._known.pop(work.request_id, None)
            self._queue.finished(work, 0.0)
            return False
        self._queue.add_first(work)
        return True
