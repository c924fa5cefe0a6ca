# SPDX-License-Identifier: Apache-2.0
"""The batches a profile is measured on: a designed grid up to the engine's limits. Pure.

Axes one at a time (how many decodes at which context, chunks of which size after how many computed
tokens), every size at which tiled matrix products may jump, then mixes of all of it spread evenly
over their ranges by a Sobol sequence, on logarithmic scales.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import qmc

from hygen_vllm.cost.curve import fine_knees
from hygen_vllm.cost.engine_info import EngineInfo

NUM_STEPS = 4
"""Steps measured in a row of each batch."""
MOST_CHUNKS = 4
MOST_DRAWS = 32
FULL_SHARE = 0.25
"""Share of the mixes that fill a step to the engine's limit, as a backlog does."""
FRESH_SHARE = 0.4
"""Share of the mixes in which chunks are the first of their requests."""
SMALLEST_CHUNK = 2
"""One token of a prompt, its last, is a decode."""


@dataclass(frozen=True)
class BatchShape:
    """What one step holds.

    Args:
        contexts: computed tokens of each decode.
        chunks: (new tokens, tokens computed before) of each prefill chunk.
    """

    contexts: tuple[int, ...] = ()
    chunks: tuple[tuple[int, int], ...] = ()

    @property
    def total_tokens(self) -> int:
        return len(self.contexts) + sum(new for new, _ in self.chunks)

    def num_requests(self, depth: int) -> int:
        """Return the requests in the engine at most, with `depth` steps in flight.

        Decodes stay over all steps; chunks are new in each and gone when it is done.
        """
        return len(self.contexts) + depth * len(self.chunks)

    def num_blocks(self, depth: int, block_size: int) -> int:
        """Return the KV blocks it needs at most, with `depth` steps in flight."""
        lengths = [context + NUM_STEPS + 3 * depth - 1 for context in self.contexts]
        lengths += depth * [new + computed + 1 for new, computed in self.chunks]
        return sum(-(-length // block_size) for length in lengths)


@dataclass(frozen=True)
class Limits:
    """What fits into one step of an engine."""

    tokens: int
    requests: int
    length: int
    block_size: int
    blocks: int
    depth: int
    """Steps in flight."""

    @classmethod
    def of(cls, engine: EngineInfo) -> "Limits":
        depth = engine.pipeline_parallel + int(engine.is_async)
        # a request's last token, and one output token a step, still have to fit
        length = engine.max_model_len - NUM_STEPS - 3 * depth
        if min(length, engine.max_num_batched_tokens) < SMALLEST_CHUNK:
            raise ValueError(
                f"max_model_len {engine.max_model_len} and max_num_batched_tokens "
                f"{engine.max_num_batched_tokens} leave no room for a chunk to measure"
            )
        return cls(
            tokens=engine.max_num_batched_tokens,
            requests=engine.max_num_seqs,
            length=length,
            block_size=engine.block_size,
            # one block is vLLM's own null block; some are kept free by its admission
            blocks=int(0.9 * engine.num_kv_blocks) - 1,
            depth=depth,
        )

    def hold(self, shape: BatchShape) -> bool:
        """Return whether the engine can run a shape in one step, again and again."""
        lengths = [*shape.contexts, *(new + computed for new, computed in shape.chunks)]
        return (
            0 < shape.total_tokens <= self.tokens
            and shape.num_requests(self.depth) <= self.requests
            and max(lengths) <= self.length
            and shape.num_blocks(self.depth, self.block_size) <= self.blocks
        )


def design(engine: EngineInfo, num_mixes: int, seed: int) -> list[BatchShape]:
    """Return the shapes to measure on an engine, each once, in a random order.

    Args:
        num_mixes: how many mixes of decodes and chunks.
        seed: decides the mixes and the order.
    """
    limits = Limits.of(engine)
    rng = np.random.default_rng(seed)
    shapes = [*_decodes(limits), *_prefills(limits), *_sizes(limits)]
    shapes += _mixes(limits, num_mixes, rng)
    held = list(dict.fromkeys(shape for shape in shapes if limits.hold(shape)))
    order = rng.permutation(len(held))
    return [held[i] for i in order]


def _doublings(first: int, last: int) -> list[int]:
    """Return first, 2 first, 4 first, ... and last."""
    values = []
    while first < last:
        values.append(first)
        first *= 2
    return [*values, last]


def _decodes(limits: Limits) -> Iterator[BatchShape]:
    contexts = [16, *(limits.length // part for part in (8, 4, 2, 1))]
    for count in _doublings(1, min(limits.requests, limits.tokens)):
        for context in contexts:
            yield BatchShape(contexts=(context,) * count)


def _prefills(limits: Limits) -> Iterator[BatchShape]:
    for new in _doublings(16, min(limits.tokens, limits.length)):
        room = limits.length - new
        for computed in sorted({0, room // 4, room // 2, room}):
            yield BatchShape(chunks=((new, computed),))
        for count in (2, MOST_CHUNKS):
            yield BatchShape(chunks=((max(SMALLEST_CHUNK, new // count), 0),) * count)


def _sizes(limits: Limits) -> Iterator[BatchShape]:
    """Steps just before and just after each size at which a curve in total tokens may jump."""
    for knee in fine_knees(min(limits.tokens, limits.length)):
        if knee > 1:
            yield BatchShape(chunks=((knee, 0),))


def _mixes(limits: Limits, count: int, rng: np.random.Generator) -> list[BatchShape]:
    """Return mixes of decodes and chunks that the engine can hold; fewer where few can."""
    sampler = qmc.Sobol(d=6, seed=rng)
    shapes: list[BatchShape] = []
    for _ in range(MOST_DRAWS):
        if len(shapes) >= count:
            break
        points = sampler.random(2 ** math.ceil(math.log2(max(2, count))))
        mixes = [_mix(limits, point, rng) for point in points]
        shapes += [shape for shape in mixes if limits.hold(shape)]
    return shapes[:count]


def _mix(limits: Limits, point: np.ndarray, rng: np.random.Generator) -> BatchShape:
    """Return the mix at a point of the unit cube; contexts within it vary."""
    at_count, at_context, at_tokens, at_chunks, at_computed, at_fresh = point
    num_decodes = round(_log_between(1, min(limits.requests, limits.tokens) - 1, at_count))
    mean = _log_between(8, limits.length, at_context)
    contexts = np.clip(rng.gamma(4.0, mean / 4.0, num_decodes), 1, limits.length).astype(int)
    room = min(limits.tokens - num_decodes, limits.length)
    if room < SMALLEST_CHUNK:
        return BatchShape(contexts=tuple(contexts.tolist()))
    tokens = round(_log_between(SMALLEST_CHUNK, room, min(1.0, at_tokens / (1.0 - FULL_SHARE))))
    num_chunks = min(1 + int(at_chunks * MOST_CHUNKS), tokens // SMALLEST_CHUNK)
    sizes = np.full(num_chunks, tokens // num_chunks)
    sizes[: tokens % num_chunks] += 1
    computed = 0 if at_fresh < FRESH_SHARE else round(_log_between(1, limits.length, at_computed))
    chunks = [(int(size), int(min(computed, limits.length - size))) for size in sizes]
    return BatchShape(contexts=tuple(contexts.tolist()), chunks=tuple(chunks))


def _log_between(low: float, high: float, at: float) -> float:
    return float(low * (max(high, low) / low) ** at)
