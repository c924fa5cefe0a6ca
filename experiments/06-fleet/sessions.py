# SPDX-License-Identifier: Apache-2.0
"""Conversations with assistants of unequal popularity, as a trace in Mooncake's format.

Each assistant has a system prompt; a conversation is some turns with one of them, each with all
that was said before. What turns share are whole blocks of 512 tokens, as in Mooncake's own trace.
"""

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path

BLOCK = 512
ASSISTANTS = 64
"""Their popularity is Zipf's: the k-th has 1/k of the first one's conversations."""
SYSTEM_BLOCKS = (2, 8)
MEAN_TURNS = 5
QUESTION_TOKENS = 150
"""Median; lognormal, as answers are."""
ANSWER_TOKENS = 220
SPREAD = 0.7
LONGEST_ANSWER = 1000
PAUSE_S = 15.0
"""Mean of what a user reads and writes between an answer and the next turn, beyond SHORTEST_S."""
SHORTEST_S = 6.0
TOKEN_S = 0.04
"""What a token of an answer is thought to take."""


def write_sessions(path: Path, turns_per_s: float, seconds: float, seed: int) -> None:
    """Write the turns of so many seconds, from a system in which conversations already go on."""
    rng = random.Random(seed)
    names = itertools.count()
    systems = [[next(names) for _ in range(rng.randint(*SYSTEM_BLOCKS))] for _ in range(ASSISTANTS)]
    weights = [1.0 / (k + 1) for k in range(ASSISTANTS)]
    lead_s = 4 * MEAN_TURNS * PAUSE_S
    rows = []
    at_s = -lead_s
    while at_s < seconds:
        at_s += rng.expovariate(turns_per_s / MEAN_TURNS)
        (system,) = rng.choices(systems, weights)
        rows += [row for row in _turns(system, at_s, names, rng) if row["timestamp"] >= 0]
    rows = [row for row in rows if row["timestamp"] < 1e3 * seconds]
    rows.sort(key=lambda row: row["timestamp"])
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def _turns(
    system: list[int], at_s: float, names: Iterator[int], rng: random.Random
) -> Iterator[dict[str, int | list[int]]]:
    """Yield the turns of one conversation."""
    whole, tokens = [*system], BLOCK * len(system)
    while True:
        tokens += round(rng.lognormvariate(0.0, SPREAD) * QUESTION_TOKENS) + 1
        answer = min(LONGEST_ANSWER, round(rng.lognormvariate(0.0, SPREAD) * ANSWER_TOKENS) + 1)
        while len(whole) < tokens // BLOCK:
            whole.append(next(names))
        rest = [next(names)] if tokens % BLOCK else []
        yield {
            "timestamp": round(1e3 * at_s),
            "input_length": tokens,
            "output_length": answer,
            "hash_ids": [*whole, *rest],
        }
        if rng.random() < 1.0 / MEAN_TURNS:
            return
        tokens += answer
        at_s += answer * TOKEN_S + SHORTEST_S + rng.expovariate(1.0 / PAUSE_S)
