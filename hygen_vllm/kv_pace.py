# SPDX-License-Identifier: Apache-2.0
"""KV blocks that offline leaves free for online, and how fast it fills the others. Pure."""

import math

PEAK_FADES_S = 20.0
NO_ROOM_PRICE = 1.3
CHEAPER_PER_REQUEST = 0.2


class OnlineHeadroom:
    """KV blocks that online may want back soon: its latest peak above what it holds now.

    Without it offline prefills are preempted by the next arrivals, and computed again. Times are
    monotonic seconds; the peak falls by a factor of e in PEAK_FADES_S.
    """

    def __init__(self) -> None:
        self._peak = 0.0
        self._now_s = 0.0

    def blocks(self, held: float, now_s: float) -> int:
        """Return the headroom, given the blocks that online holds or waits for."""
        fade = math.exp(-max(0.0, now_s - self._now_s) / PEAK_FADES_S)
        self._peak = max(held, self._peak * fade)
        self._now_s = now_s
        return math.ceil(self._peak - held)


def prefill_price(free_blocks: int, next_blocks: float) -> float:
    """Return the price of an offline prefill second, >= 0, given the room that is left.

    Where KV blocks are plenty, prefill brings in requests that decode: it is worth more than its
    seconds. Where there is no room for the next request, it only hastens the time at which nothing
    is left to prefill; spread over the steps until then it costs less, since every step has some
    tokens that are nearly free.

    Args:
        free_blocks: KV blocks that offline may still take.
        next_blocks: those that the next waiting offline request needs, > 0.
    """
    room = max(0.0, free_blocks / next_blocks)
    return max(0.0, NO_ROOM_PRICE - CHEAPER_PER_REQUEST * room)
