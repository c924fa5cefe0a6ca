# SPDX-License-Identifier: Apache-2.0
"""How fast offline fills the KV blocks that are left. Pure."""

NO_ROOM_PRICE = 1.3
CHEAPER_PER_REQUEST = 0.2


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
