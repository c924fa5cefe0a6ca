# SPDX-License-Identifier: Apache-2.0
"""What finished offline requests leave in the prefix cache: nothing that nobody is waiting for.

vLLM keeps the blocks of a finished request cached and evicts what was used longest ago, so a stream
of offline requests washes out what online requests would have hit. The blocks of an offline request
that no waiting one shares are therefore forgotten when it ends: they are the first to be used
again. Where later offline requests turn out to share them after all (turns of a conversation, a
stream with one prompt in common), nothing is forgotten for a while.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

from vllm.v1.request import Request

from hygen_vllm import vllm_view as view

REMEMBERED = 4096
REGRET_FADES = 1 / 256
"""A regret keeps what some 180 requests leave."""
MOST_REGRET = 0.5


class Leftovers:
    """Of a HyGenScheduler."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._first_left: OrderedDict[Hashable, None] = OrderedDict()
        """Hash of the first block of each request that nobody waited for, forgotten or not."""
        self._regret = 0.0

    def added(self, request: Request) -> None:
        """Note an offline request that came: it may want what others left. O(blocks)."""
        for block_hash in self._scheduler.prefix_of(request) if self._first_left else ():
            if block_hash in self._first_left:
                del self._first_left[block_hash]
                self._regret += 1.0

    def ends(self, request: Request) -> None:
        """Forget the blocks of an offline request that ends, before vLLM frees them. O(blocks)."""
        if not view.num_held(self._scheduler, request):
            return
        hashes = request.block_hashes
        num_wanted = self._scheduler.waiting.offline.num_shared(hashes)
        if num_wanted >= len(hashes):
            return
        self._first_left[hashes[num_wanted]] = None
        if len(self._first_left) > REMEMBERED:
            self._first_left.popitem(last=False)
        self._regret *= 1.0 - REGRET_FADES
        if self._regret < MOST_REGRET:
            view.forget_unshared(self._scheduler, request, num_wanted)
