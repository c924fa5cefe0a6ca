# SPDX-License-Identifier: Apache-2.0
"""A trace in slots of time, how full each makes an engine, and which ones stand for all. Pure."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hygen_vllm.cost.composition import StepComposition
from hygen_vllm.cost.engine_info import EngineInfo
from hygen_vllm.cost.step_cost import StepCost
from hygen_vllm.lab.workloads.arrivals import Arrival

USUAL_S = 120.0
"""Of a slot: the bursts of a load are in it, its simulation takes a few seconds."""
FEWEST_SLOTS = 12
SHORTEST_S = 20.0
AROUND_S, ENOUGH = 150.0, 300
"""What online has alone is that of a slot and of what is before and behind it, until it has enough
requests, but not further away than so many seconds: a percentile of few requests says little."""


@dataclass(frozen=True)
class Slot:
    """A piece of a trace.

    Args:
        requests: their times count from start_s.
        load: seconds of a full engine's work that they bring in a second.
        around: its own and those before and behind it; times count from their beginning.
        around_s: how long that is.
    """

    start_s: float
    requests: Sequence[Arrival]
    load: float
    around: Sequence[Arrival]
    around_s: float


@dataclass(frozen=True)
class TokenPrices:
    """Seconds that a token takes in a full engine."""

    prompt_s: float
    output_s: float

    @classmethod
    def of(cls, cost: StepCost, engine: EngineInfo) -> "TokenPrices":
        """Return those of an engine: of a step full of prefill, and of one full of decodes."""
        tokens, requests = engine.max_num_batched_tokens, engine.max_num_seqs
        kv_tokens = engine.num_kv_blocks * engine.block_size
        context = min(kv_tokens // requests, engine.max_model_len // 2)
        prefill, decodes = StepComposition(), StepComposition(requests, requests * context)
        prefill.add_prefill(tokens, 0)
        return cls(cost.seconds(prefill) / tokens, cost.seconds(decodes) / requests)

    def seconds(self, request: Arrival) -> float:
        """Return what a request takes."""
        return self.prompt_s * request.prompt_tokens + self.output_s * request.output_tokens


def slot_seconds(duration_s: float) -> float:
    """Return how long the slots of a trace are."""
    return max(min(SHORTEST_S, duration_s), min(USUAL_S, duration_s / FEWEST_SLOTS))


def slots_of(requests: Sequence[Arrival], duration_s: float, prices: TokenPrices) -> list[Slot]:
    """Return a trace, in order of time, in slots of equal length; an incomplete last one is left
    out.
    """
    slot_s = slot_seconds(duration_s)
    times_s = [request.time_s for request in requests]

    def between(start_s: float, end_s: float) -> list[Arrival]:
        some = requests[bisect_left(times_s, start_s) : bisect_left(times_s, end_s)]
        return [replace(request, time_s=request.time_s - start_s) for request in some]

    slots = []
    for number in range(max(1, int(duration_s / slot_s + 1e-6))):
        start_s = number * slot_s
        some = between(start_s, start_s + slot_s)
        missing = max(0, ENOUGH - len(some)) / max(1, len(some))
        side_s = min(AROUND_S, missing * slot_s / 2)
        from_s, to_s = max(0.0, start_s - side_s), min(duration_s, start_s + slot_s + side_s)
        load = sum(map(prices.seconds, some)) / slot_s
        slots.append(Slot(start_s, some, load, between(from_s, to_s), to_s - from_s))
    return slots


def choose(slots: Sequence[Slot], count: int) -> list[Slot]:
    """Return at most `count` slots that stand for all: at equal distances in the order of load."""
    in_order = sorted(slots, key=lambda slot: slot.load)
    places = np.linspace(0, len(slots) - 1, min(count, len(slots))).round().astype(int)
    return [in_order[place] for place in dict.fromkeys(places.tolist())]
