# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is: weighted fair queueing over the tenants of the offline class. Pure.

Every tenant has a clock that its served tokens move on, divided by its weight; the one whose clock
is behind is next. So tenants that have work get tokens in proportion to their weights, whatever the
number of their requests, and nothing is kept for one that has none: its clock is set to the present
when it comes back (start-time fair queueing, Goyal et al., SIGCOMM 1996).

A request is charged when it is admitted, for its prompt and the output that it is expected to have,
and corrected when it is finished.
"""

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Generic, TypeVar

from sortedcontainers import SortedDict

from hygen_vllm.labels import OTHERS
from hygen_vllm.lane.admission_order import AdmissionOrder, Waiting
from hygen_vllm.lane.prefix_tree import Hashes

R = TypeVar("R")
DEFAULT_TENANT = ""
"""Of requests without a label."""
TENANTS_SEARCHED = 8
"""Tenants whose requests are asked what they share, so that it takes bounded time."""
MOST_TENANTS = 64
"""Tenants without a weight that are told apart at a time; those that come then share OTHERS."""
OLDEST_EVERY = 7
"""After so many admissions by share one goes to whoever has waited longest beyond the bound."""


class Tenant(Generic[R]):
    """One tenant: its requests that wait, and its clock."""

    __slots__ = ("clock", "name", "number", "order", "weight")

    def __init__(self, name: str, number: int, weight: float, order: AdmissionOrder[R]) -> None:
        self.name = name
        self.number = number
        self.weight = weight
        self.order = order
        self.clock = 0.0
        """Served tokens / weight, never behind those that have work when it comes back."""

    @property
    def turn(self) -> tuple[float, int]:
        """Its place among the tenants that have work."""
        return self.clock, self.number


class FairShare(Generic[R]):
    """The requests of all tenants.

    Args:
        weights: by tenant; 1 for those not named.
        make_order: makes the order of a new tenant's requests.
    """

    def __init__(
        self, weights: Mapping[str, float], make_order: Callable[[], AdmissionOrder[R]]
    ) -> None:
        self._weights = weights
        self._make_order = make_order
        self._tenants: dict[str, Tenant[R]] = {}
        self._turns: SortedDict[tuple[float, int], Tenant[R]] = SortedDict()
        """Tenants that have work, by clock."""
        self._now = 0.0
        """Clock of the tenant whose turn it was last."""
        self._latest = 0.0
        """Latest clock of any tenant."""
        self._num_made = 0
        self._num_waiting = 0
        self._since_oldest = 0
        """Admissions since that of the tenant that had waited longest."""

    def __bool__(self) -> bool:
        return bool(self._turns)

    def __len__(self) -> int:
        return self._num_waiting

    def tenant_named(self, name: str) -> str:
        """Return the tenant that requests with a label belong to. Complexity: O(1).

        A client may give every request another label. It must neither crowd out tenants that have
        one each, nor be remembered for ever.
        """
        if name in self._tenants or name in self._weights or name == DEFAULT_TENANT:
            return name
        most = MOST_TENANTS + len(self._weights)
        if len(self._tenants) >= most:
            self._forget_idle()
        return name if len(self._tenants) < most else OTHERS

    def add(self, waiting: Waiting[R], hashes: Hashes) -> None:
        """Add a request of `waiting.tenant`. Complexity: O(log tenants + AdmissionOrder.add)."""
        if not self._turns:
            self._now = self._latest  # nobody was kept waiting by what others had
        tenant = self._tenants.get(waiting.tenant) or self._new_tenant(waiting.tenant)
        if not tenant.order:
            tenant.clock = max(tenant.clock, self._now)
            self._turns[tenant.turn] = tenant
        tenant.order.add(waiting, hashes)
        self._num_waiting += 1

    def remove(self, waiting: Waiting[R]) -> None:
        """Remove a request that waits here. Complexity: as `add`."""
        tenant = self._tenants[waiting.tenant]
        tenant.order.remove(waiting)
        self._num_waiting -= 1
        if not tenant.order:
            del self._turns[tenant.turn]

    def next(self, now_s: float) -> Waiting[R] | None:
        """Return the request to admit next, None if none waits.

        Complexity: O(tenants that have work), and that of AdmissionOrder.
        """
        if not self._turns:
            return None
        if self._since_oldest >= OLDEST_EVERY:
            longest: Tenant[R] = max(
                self._turns.values(), key=lambda tenant: tenant.order.overdue_s(now_s)
            )
            if longest.order.overdue_s(now_s) > 0:
                return longest.order.next(now_s)
        tenant: Tenant[R] = self._turns.peekitem(0)[1]
        return tenant.order.next(now_s)

    def take(self, waiting: Waiting[R], now_s: float) -> None:
        """Remove a request for admission. Complexity: as `remove`."""
        tenant = self._tenants[waiting.tenant]
        has_waited_longest = tenant.order.overdue_s(now_s) == max(
            each.order.overdue_s(now_s) for each in self._turns.values()
        )
        self._since_oldest = 0 if has_waited_longest else self._since_oldest + 1
        self._now = max(self._now, tenant.clock)
        tenant.order.took(waiting, now_s)
        self.remove(waiting)

    def num_shared(self, hashes: Hashes) -> int:
        """Return how many leading blocks of a prefix a request shares, of the next few tenants."""
        tenants = islice(self._turns.values(), TENANTS_SEARCHED)
        return max((tenant.order.num_shared(hashes) for tenant in tenants), default=0)

    def charge(self, name: str, tokens: float) -> None:
        """Move a tenant's clock by served tokens, back if negative. Complexity: O(log tenants)."""
        tenant = self._tenants.get(name)
        if tenant is None:
            return  # it had no work for long
        has_work = self._turns.pop(tenant.turn, None) is not None
        tenant.clock += tokens / tenant.weight
        self._latest = max(self._latest, tenant.clock)
        if has_work:
            self._turns[tenant.turn] = tenant

    def check_invariants(self) -> None:
        """Raise AssertionError if turns and tenants disagree."""
        busy = {tenant.turn: tenant for tenant in self._tenants.values() if tenant.order}
        assert dict(self._turns) == busy, (self._turns, busy)
        assert self._num_waiting == sum(len(tenant.order) for tenant in busy.values())
        for tenant in busy.values():
            tenant.order.check_invariants()

    def _new_tenant(self, name: str) -> Tenant[R]:
        self._num_made += 1
        weight = self._weights.get(name, 1.0)
        tenant = Tenant(name, self._num_made, weight, self._make_order())
        self._tenants[name] = tenant
        return tenant

    def _forget_idle(self) -> None:
        """Forget tenants without work whose clocks would be set to the present anyway."""
        for name, tenant in [*self._tenants.items()]:
            if not tenant.order and tenant.clock <= self._now:
                del self._tenants[name]
