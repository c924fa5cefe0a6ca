# SPDX-License-Identifier: Apache-2.0
"""The order in which one tenant's offline requests are admitted. Pure.

Prefix sharing maximisation (HyGen, arXiv 2501.14808, section 4.3): requests are admitted depth
first in the tree of their prefixes, so that those which share a prefix run together and compute it
once. The next one is the one that shares most with the one before; so a request that arrives while
its siblings run joins them. Where nothing is left that shares, the order goes on where most is to
be saved.

A request that has waited longer than `max_wait_s` is next, whatever its prefix. With it come up to
SHARERS of those that share its prefix and have waited as long: were they left behind where
everything has waited too long, each would compute the prefix again.
"""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sortedcontainers import SortedList

from hygen_vllm.config import HyGenConfig
from hygen_vllm.lane.prefix_tree import Hashes, Leaf, PrefixTree

R = TypeVar("R")
SHARERS = 16
"""Requests that an overdue one may bring along: a prefix is computed for one in so many."""


@dataclass(frozen=True, slots=True)
class OrderRules:
    """How offline requests are ordered.

    Args:
        by_prefix: by shared prefixes; False for first come, first served.
        max_wait_s: a request that has waited longer is next; None for no bound.
    """

    by_prefix: bool = True
    max_wait_s: float | None = None

    def overdue_s(self, added_s: float, now_s: float) -> float:
        """Return for how long a request has waited beyond the bound, 0 if it has not."""
        return 0.0 if self.max_wait_s is None else max(0.0, now_s - added_s - self.max_wait_s)

    @classmethod
    def of(cls, config: HyGenConfig) -> "OrderRules":
        """Return the rules that settings ask for."""
        return cls(
            by_prefix=config.offline_order == "prefix",
            max_wait_s=config.offline_max_wait_s,
        )


class Waiting(Generic[R]):
    """A request that waits, wherever it is in the lane; known by itself, not by its contents."""

    __slots__ = (
        "added_s",
        "has_run",
        "hashes",
        "is_here",
        "leaf",
        "number",
        "request",
        "tenant",
        "urgency",
    )

    def __init__(self, request: R, added_s: float, tenant: str = "") -> None:
        self.request = request
        self.added_s = added_s
        self.tenant = tenant
        self.urgency: Any = None
        """None until it is put in order."""
        self.has_run = False
        """It was preempted."""
        self.hashes: Hashes = ()
        self.leaf: Leaf[Waiting[R]] | None = None
        self.is_here = False
        """Whether it is in an AdmissionOrder."""
        self.number = 0
        """Those that were put in order later have higher ones."""


class AdmissionOrder(Generic[R]):
    """Offline requests of one tenant; see the module docstring. Args: rules: how to order them."""

    def __init__(self, rules: OrderRules) -> None:
        self._rules = rules
        self._tree: PrefixTree[Waiting[R]] = PrefixTree()
        self._by_age: SortedList[tuple[float, int, Waiting[R]]] = SortedList()
        """(when it came, number, request), oldest first."""
        self._last_number = 0
        self._last: Hashes = ()
        """The prefix that was admitted last."""
        self._sharers_left = 0

    def __len__(self) -> int:
        return len(self._by_age)

    def add(self, waiting: Waiting[R], hashes: Hashes) -> None:
        """Add a request. Complexity: that of `PrefixTree.add`."""
        waiting.is_here = True
        self._last_number += 1
        waiting.number = self._last_number
        self._by_age.add((waiting.added_s, waiting.number, waiting))
        if self._rules.by_prefix:
            waiting.hashes = hashes
            waiting.leaf = self._tree.add(waiting, hashes)

    def remove(self, waiting: Waiting[R]) -> None:
        """Remove a request that is here. Complexity: that of `PrefixTree.remove`."""
        waiting.is_here = False
        self._by_age.remove((waiting.added_s, waiting.number, waiting))
        if waiting.leaf is not None:
            self._tree.remove(waiting.leaf)
            waiting.leaf = None

    def next(self, now_s: float) -> Waiting[R] | None:
        """Return the request to admit next, None if there is none. Complexity: see PrefixTree."""
        if not self._by_age:
            return None
        oldest = self._oldest()
        if not self._rules.by_prefix:
            return oldest
        if self._is_overdue(oldest, now_s):
            sharer = self._sharer()
            return sharer if sharer is not None and self._is_overdue(sharer, now_s) else oldest
        return self._nearest()

    def overdue_s(self, now_s: float) -> float:
        """Return for how long the oldest request here has waited beyond the bound, 0 if it has not.

        The order must not be empty.
        """
        return self._rules.overdue_s(self._oldest().added_s, now_s)

    def took(self, waiting: Waiting[R], now_s: float) -> None:
        """Note that the request which `next` returned is admitted, before it is removed."""
        if not self._rules.by_prefix:
            return
        if self._is_overdue(waiting, now_s):
            is_oldest = waiting is self._oldest()
            self._sharers_left = SHARERS if is_oldest else self._sharers_left - 1
        self._last = waiting.hashes

    def num_shared(self, hashes: Hashes) -> int:
        """Return how many leading blocks of a prefix a request here shares."""
        return self._tree.match(hashes)[1]

    def check_invariants(self) -> None:
        """Raise AssertionError if the two orders do not hold the same requests."""
        here = [each for *_, each in self._by_age]
        assert all(each.is_here for each in here), len(here)
        assert [each.added_s for each in here] == sorted(each.added_s for each in here)
        if self._rules.by_prefix:
            self._tree.check_invariants()
            assert {leaf.item for leaf in self._tree} == set(here), len(here)

    def _oldest(self) -> Waiting[R]:
        oldest: Waiting[R] = self._by_age[0][2]
        return oldest

    def _is_overdue(self, waiting: Waiting[R], now_s: float) -> bool:
        return self._rules.overdue_s(waiting.added_s, now_s) > 0

    def _sharer(self) -> Waiting[R] | None:
        """Return a request that shares a prefix with the last one, while some may come along."""
        if self._sharers_left <= 0:
            return None
        node, depth = self._tree.match(self._last)
        return self._tree.first(node).item if depth else None

    def _nearest(self) -> Waiting[R]:
        """Return the request that shares most with the last one."""
        return self._tree.first(self._tree.match(self._last)[0]).item
