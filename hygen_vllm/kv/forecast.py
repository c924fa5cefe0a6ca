# SPDX-License-Identifier: Apache-2.0
"""KV blocks that running requests will still take before they give some back. Pure.

Every decode grows by a token a step until it ends, and then its blocks come free. So the blocks
that are short are most just before one of the running requests ends; which one is found by going
through them in the order in which they are expected to end (after "Past-Future scheduler", Gong et
al., ASPLOS 2025, which samples the lengths that we take the mean of).
"""

from collections.abc import Sequence

import numpy as np


class KvForecast:
    """The requests that run, as they are expected to end.

    Args:
        remaining_tokens: that each is expected to make, float64 (n,).
        freed_blocks: that come free when it ends, of those it holds now, float64 (n,).
        prompt_blocks: that their prompts still lack.
        block_size: tokens of context for a block.
    """

    def __init__(
        self,
        remaining_tokens: Sequence[float],
        freed_blocks: Sequence[float],
        prompt_blocks: float,
        block_size: float,
    ) -> None:
        remaining = np.asarray(remaining_tokens, dtype=np.float64)
        order = np.argsort(remaining, kind="stable")
        freed = np.asarray(freed_blocks, dtype=np.float64)[order]
        self._grown = remaining[order] / block_size
        """Blocks that each takes until it ends, soonest first, (n,)."""
        self._freed = np.concatenate(([0.0], np.cumsum(freed)))
        """Blocks come free when so many have ended, (n + 1,)."""
        self._prompt_blocks = prompt_blocks
        self._block_size = block_size
        self._most_blocks: dict[float, float] = {}
        """What was answered before: the first in the queue asks in each step."""

    @property
    def num_running(self) -> int:
        return len(self._grown)

    def most_blocks(self, output_tokens: float = 0.0) -> float:
        """Return the blocks that will be short at the worst time, >= 0.

        Those that one more request takes while it makes `output_tokens` are counted, the blocks of
        its prompt are not. Complexity: O(n), vectorized, and O(1) when asked again.
        """
        if output_tokens not in self._most_blocks:
            self._most_blocks[output_tokens] = self._count_most_blocks(output_tokens)
        return self._most_blocks[output_tokens]

    def _count_most_blocks(self, output_tokens: float) -> float:
        grown, num_running = self._grown, self.num_running
        own = output_tokens / self._block_size
        taken = (num_running - np.arange(num_running)) * grown - self._freed[:-1]
        taken += np.where(grown <= own, grown, 0.0)
        num_ended = int(np.searchsorted(grown, own))
        at_its_end = (num_running - num_ended + 1) * own - self._freed[num_ended]
        most = max(0.0, at_its_end, taken.max(initial=0.0))
        return float(most) + self._prompt_blocks
