# SPDX-License-Identifier: Apache-2.0
"""How fast offline fills the KV blocks that are left, and frees those it holds. Pure."""

from dataclasses import dataclass

MANY = 6.5
"""Offline requests for which there is room if KV blocks are plenty."""
NO_ROOM_PRICE = 1.3
"""Price of prefill without room: above 1 a chunk ends where tokens are no longer nearly free."""
NO_ROOM_WORTH = 3.0
"""What a decode is worth without room: it frees blocks for a request that is prefilled next."""
ENOUGH_RUNNING = 4
"""Offline requests from which the others use the blocks while one is prefilled slowly."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What the KV cache makes of offline work.

    Args:
        prefill_price: least price of a prefill second, >= 0.
        decode_worth: what a decode is worth, in its own part of a full step, >= 1.
    """

    prefill_price: float = 0.0
    decode_worth: float = 1.0


def pace_of(free_blocks: float, next_blocks: float, num_running: int) -> Pace:
    """Return the pace, given the room that is left.

    Where KV blocks are plenty, prefill brings in requests that decode: it is worth more than its
    seconds. Where there is no room for the next request, it only hastens the time at which nothing
    is left to prefill; spread over the steps until then it costs less, since every step has some
    tokens that are nearly free. But what is prefilled slowly holds its blocks in vain meanwhile:
    with few others that is most of the cache.

    A decode is the other way round: without room it brings nearer the end of a request, whose
    blocks the next one waits for.

    Args:
        free_blocks: KV blocks that offline may still take.
        next_blocks: those that the next waiting offline request needs, > 0.
        num_running: offline requests that run.
    """
    room = max(0.0, free_blocks / next_blocks) / MANY
    crowd = min(1.0, num_running / ENOUGH_RUNNING)
    return Pace(
        prefill_price=NO_ROOM_PRICE * max(0.0, crowd - room),
        decode_worth=1.0 + (NO_ROOM_WORTH - 1.0) * max(0.0, 1.0 - room),
    )
