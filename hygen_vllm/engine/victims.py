# SPDX-License-Identifier: Apache-2.0
"""The offline requests whose KV blocks online may take in a step, in order."""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Iterable

from vllm.v1.request import Request

from hygen_vllm.engine.state import EngineState


class BlockVictims:
    """Those first that lose least.

    Each is looked at once, and again only where it is left alone with a block: a burst may take the
    blocks of hundreds one by one.

    Args:
        loss: of a request; where it is the same, order is kept.
    """

    def __init__(
        self,
        state: EngineState,
        requests: Iterable[Request],
        loss: Callable[[Request], tuple[float, int]],
    ) -> None:
        self._state = state
        self._requests = [*requests]
        self._loss = loss
        self._places: dict[Request, tuple[float, int, int]] = {}
        """Loss of each that was not taken, and its number in `requests`."""
        self._sharers: defaultdict[int, list[int]] = defaultdict(list)
        """Numbers of those that hold a block with others, and none behind it, by block id."""
        for number in range(len(self._requests)):
            self._look_at(number)
        self._order = sorted(self._places.values())

    def __bool__(self) -> bool:
        return bool(self._order)

    def first(self) -> Request:
        """Return the one that loses least."""
        return self._requests[self._order[0][-1]]

    def taken(self, victim: Request, block_ids: Iterable[int]) -> None:
        """Note that a request let go of its blocks."""
        self._remove(victim)
        blocks = self._state.blocks
        for block_id in block_ids:
            if blocks[block_id].ref_cnt == 1:
                for number in self._sharers.pop(block_id, ()):
                    if self._requests[number] in self._places:
                        self._remove(self._requests[number])
                        insort(self._order, self._look_at(number))

    def _look_at(self, number: int) -> tuple[float, int, int]:
        request = self._requests[number]
        for block_id in self._state.last_shared(request):
            self._sharers[block_id].append(number)
        place = self._places[request] = *self._loss(request), number
        return place

    def _remove(self, request: Request) -> None:
        del self._order[bisect_left(self._order, self._places.pop(request))]
