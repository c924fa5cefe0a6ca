# SPDX-License-Identifier: Apache-2.0
"""How fast offline fills the KV blocks that are left. Pure."""

NO_ROOM_PRICE = 1.3
CHEAPER_PER_REQUEST = 0.2
ENOUGH_RUNNING = 4
"""Offline requests from which the others use the blocks while one is prefilled slowly."""


def prefill_price(free_blocks: int, next_blocks: float, num_running: int) -> float:
    """Return the price of an offline prefill second, >= 0, given the room that is left.

    Where KV blocks are plenty, prefill brings in requests that decode: it is worth more than its
    seconds. Where there is no room for the next request, it only hastens the time at which nothing
    is left to prefill; spread over the steps until then it costs less, since every step has some
    tokens that are nearly free. But what is prefilled slowly holds its blocks in vain meanwhile:
    with few others that is most of the cache.

    Args:
        free_blocks: KV blocks that offline may still take.
        next_blocks: those that the next waiting offline request needs, > 0.
        num_running: offline requests that run.
    """
    room = max(0.0, free_blocks / next_blocks)
    crowd = min(1.0, num_running / ENOUGH_RUNNING)
    return max(0.0, NO_ROOM_PRICE * crowd - CHEAPER_PER_REQUEST * room)
