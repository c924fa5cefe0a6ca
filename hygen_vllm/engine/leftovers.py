# SPDX-License-Identifier: Apache-2.0
"""What finished offline requests leave in the prefix cache: nothing that nobody is waiting for.

vLLM keeps the blocks of a finished request cached and evicts what was used longest ago, so a stream
of offline requests washes out what online requests would have hit. The blocks that an offline
request computed and no waiting one shares are therefore forgotten when it ends: they are the first
to be used again. What it found in the cache stays there, unless an offline request had left it.
Where later requests turn out to share what was forgotten (turns of a conversation, a stream with
one prompt in common), nothing is forgotten for a while.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

from vllm.v1.request import Request

from hygen_vllm.engine.requests import Follower
from hygen_vllm.engine.state import EngineState

REMEMBERED = 4096
"""Blocks: those of several hundred requests, one for each."""
REGRET_FADES = 1 / 256
"""A regret keeps what some 180 requests leave."""
MOST_REGRET = 0.5
"""Regrets above which all is kept: one that is some 180 requests old."""


class Leftovers(Follower):
    """What was found in the prefix cache, and what was left there.

    Args:
        is_on: requests wait in the order of their prefixes; another does not know who waits for
            what.
        prefix_of: the chained block hashes of a prompt. O(blocks).
        num_shared: of a chain of blocks, how many a waiting request begins with.
    """

    def __init__(
        self,
        state: EngineState,
        is_on: bool,
        prefix_of: Callable[[Request], Sequence[Hashable]],
        num_shared: Callable[[Sequence[Hashable]], int],
    ) -> None:
        self._state = state
        self._is_on = is_on
        self._prefix_of = prefix_of
        self._num_shared = num_shared
        self._made_from = _Remembered()
        """The first block that each offline request did not find in the cache."""
        self._first_left = _Remembered()
        """The first block of each that was, or would have been, forgotten."""
        self._regret = 0.0

    def came(self, request: Request, is_offline: bool) -> None:
        """Note what a new request wants of what was, or would have been, forgotten. O(blocks).

        What an online one wants is no longer forgotten.
        """
        if not (self._first_left or self._made_from):
            return
        for block_hash in self._prefix_of(request):
            if self._first_left.discard(block_hash):
                self._regret += 1.0
            if not is_offline:
                self._made_from.discard(block_hash)

    def started(self, request: Request, is_offline: bool, computed_tokens: int) -> None:
        hashes = request.block_hashes
        num_found = computed_tokens // self._state.hash_block_size
        if self._is_on and is_offline and num_found < len(hashes):
            self._made_from.add(hashes[num_found])

    def left(self, request: Request, is_offline: bool) -> None:
        """Forget the blocks of an offline request, before vLLM frees them. O(blocks)."""
        if not (self._is_on and is_offline and self._state.num_held(request)):
            return
        hashes = request.block_hashes
        made = (i for i, block_hash in enumerate(hashes) if block_hash in self._made_from)
        num_found = next(made, len(hashes))
        num_kept = max(num_found, self._num_shared(hashes))
        if num_kept >= len(hashes):
            return
        self._first_left.add(hashes[num_kept])
        self._regret *= 1.0 - REGRET_FADES
        if self._regret < MOST_REGRET:
            self._state.forget_unshared(request, num_kept * self._state.hash_block_size)


class _Remembered(OrderedDict[Hashable, None]):
    """The last REMEMBERED blocks."""

    def add(self, block_hash: Hashable) -> None:
        self[block_hash] = None
        self.move_to_end(block_hash)
        if len(self) > REMEMBERED:
            self.popitem(last=False)

    def discard(self, block_hash: Hashable) -> bool:
        """Forget a block; False if it is not here."""
        return self.pop(block_hash, self) is None
