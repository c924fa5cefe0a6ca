# SPDX-License-Identifier: Apache-2.0
"""The design of a profile: everything an engine can do, nothing that it cannot, nothing twice."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import qmc

from hygen_vllm.cost.engine_info import EngineInfo
from hygen_vllm.lab.profile import batch_shapes
from hygen_vllm.lab.profile.batch_shapes import NUM_STEPS, BatchShape, Limits, design
from tests.support.step_traces import ENGINE

LAW = settings(derandomize=True, deadline=None, max_examples=60)
MOST_POINTS = 2**12


class BoundedSobol(qmc.Sobol):
    """Gives up where a design would go on for ever."""

    def random(self, *args: Any, **kwargs: Any) -> Any:
        assert self.num_generated < MOST_POINTS, f"no mix among {self.num_generated} fits"
        return super().random(*args, **kwargs)


@pytest.fixture(scope="module", autouse=True)
def _design_ends() -> Iterator[None]:
    """A design that finds no mix fails a test instead of never ending."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_shapes.qmc, "Sobol", BoundedSobol)
        yield


def _depth(engine: EngineInfo) -> int:
    return engine.pipeline_parallel + int(engine.is_async)


def _blocks(engine: EngineInfo, tokens: int) -> int:
    return -(-tokens // engine.block_size)


def _assert_fits(engine: EngineInfo, shape: BatchShape) -> None:
    """Check one visit to a shape against the engine's limits, as `ShapeRunner` makes it."""
    depth = _depth(engine)
    lengths = [context + 1 + NUM_STEPS + 2 * depth for context in shape.contexts]
    lengths += depth * [new + computed + 1 for new, computed in shape.chunks]
    assert 0 < shape.total_tokens <= engine.max_num_batched_tokens, shape
    assert len(lengths) <= engine.max_num_seqs, shape
    assert max(lengths) <= engine.max_model_len, shape
    # the last token of a request is never written, and one block is vLLM's own
    blocks = sum(_blocks(engine, length - 1) for length in lengths)
    assert blocks <= engine.num_kv_blocks - 1, shape
    assert all(context >= 0 for context in shape.contexts), shape
    assert all(new >= 2 and computed >= 0 for new, computed in shape.chunks), shape


@st.composite
def _engines(draw: st.DrawFn) -> EngineInfo:
    """Engines down to tiny ones; their KV blocks hold at least two of the longest requests."""
    max_num_seqs = draw(st.integers(4, 20))
    max_model_len = draw(st.integers(24, 300))
    block_size = draw(st.sampled_from([4, 16, 32]))
    blocks_of_one = -(-max_model_len // block_size)
    return replace(
        ENGINE,
        pipeline_parallel=draw(st.integers(1, 2)),
        is_async=draw(st.booleans()),
        max_num_batched_tokens=draw(st.integers(max(8, max_num_seqs), 100)),
        max_num_seqs=max_num_seqs,
        max_model_len=max_model_len,
        block_size=block_size,
        num_kv_blocks=4 + blocks_of_one * draw(st.integers(3, 20)),
    )


@LAW
@given(_engines(), st.integers(1, 6), st.integers(0, 99))
def test_design_for_any_engine_has_only_shapes_that_fit_each_once(
    engine: EngineInfo, num_mixes: int, seed: int
) -> None:
    """No visit needs more tokens, requests, length or KV blocks than there are."""
    shapes = design(engine, num_mixes, seed)
    assert shapes
    for shape in shapes:
        _assert_fits(engine, shape)
    assert len(set(shapes)) == len(shapes)


@pytest.mark.parametrize(
    "limits",
    [
        {"max_num_seqs": 1},
        {"max_num_seqs": 2, "is_async": True},
        {"max_num_seqs": 1, "max_num_batched_tokens": 2},
        {"max_model_len": 12},
        {"max_model_len": 16, "is_async": True, "max_num_batched_tokens": 8},
        {"num_kv_blocks": 40},
    ],
    ids=str,
)
def test_design_for_a_tiny_engine_ends_with_what_fits(limits: dict[str, Any]) -> None:
    """Where no mix fits, decodes and prefills by themselves are still measured."""
    engine = replace(ENGINE, **limits)
    shapes = design(engine, num_mixes=4, seed=0)
    assert any(shape.contexts for shape in shapes)
    assert any(shape.chunks for shape in shapes)
    for shape in shapes:
        _assert_fits(engine, shape)


def test_design_with_the_same_seed_is_the_same() -> None:
    """A second start makes the same visits; another seed makes others, in another order."""
    expected = design(ENGINE, num_mixes=6, seed=3)
    other = design(ENGINE, num_mixes=6, seed=4)
    assert expected == design(ENGINE, num_mixes=6, seed=3)
    assert set(expected) != set(other)
    both = [[shape for shape in shapes if not _is_mix(shape)] for shapes in (expected, other)]
    assert set(both[0]) == set(both[1])
    assert both[0] != both[1]


def test_design_has_decodes_up_to_all_requests_at_short_and_long_contexts() -> None:
    """Counts double up to max_num_seqs; contexts go from 16 tokens to the longest."""
    limits = Limits.of(ENGINE)
    decodes = [shape for shape in design(ENGINE, num_mixes=1, seed=0) if not shape.chunks]
    assert {1, 2, 4, 8} == {len(shape.contexts) for shape in decodes}
    for count in (1, 2, 4, 8):
        contexts = {shape.contexts[0] for shape in decodes if len(shape.contexts) == count}
        assert {16, limits.length // 4, limits.length} <= contexts
        assert limits.length == ENGINE.max_model_len - 1 - NUM_STEPS - 2


def test_design_has_chunks_up_to_all_tokens_with_and_without_computed_ones() -> None:
    """Sizes double up to max_num_batched_tokens; each is a prompt's first chunk and a later one."""
    prefills = [shape for shape in design(ENGINE, num_mixes=1, seed=0) if not shape.contexts]
    alone = {shape.chunks[0] for shape in prefills if len(shape.chunks) == 1}
    room = Limits.of(ENGINE).length - 64
    assert {(16, 0), (32, 0), (64, 0)} <= alone
    assert {(64, room // 4), (64, room // 2), (64, room)} <= alone
    assert {1, 2, 4} == {len(shape.chunks) for shape in prefills}
    assert {(32, 0)} == {
        chunk
        for shape in prefills
        if len(shape.chunks) == 2
        for chunk in shape.chunks
        if chunk[0] == 32
    }


def test_design_has_the_sizes_at_which_a_curve_may_jump() -> None:
    """A chunk of each size just before and just after an edge of tiles is measured."""
    engine = replace(ENGINE, max_num_batched_tokens=160, max_model_len=256)
    chunks = {shape.chunks for shape in design(engine, num_mixes=1, seed=0)}
    for size in (8, 64, 72, 128, 136):
        assert ((size, 0),) in chunks


def test_design_has_as_many_mixes_as_asked_spread_over_their_ranges() -> None:
    """Few and many decodes, one and several chunks, first chunks and later ones, all together."""
    mixes = [shape for shape in design(ENGINE, num_mixes=32, seed=0) if _is_mix(shape)]
    assert 32 == len(mixes)
    assert {1, 2, 3, 4} <= {len(shape.contexts) for shape in mixes}
    assert {1, 2, 3, 4} == {len(shape.chunks) for shape in mixes}
    assert {True, False} == {shape.chunks[0][1] > 0 for shape in mixes}
    sizes = [shape.total_tokens for shape in mixes]
    assert min(sizes) < 8
    assert max(sizes) > 48


def test_shape_counts_what_it_needs_with_steps_in_flight() -> None:
    """Decodes stay for the whole visit; each step in flight has chunks of its own."""
    shape = BatchShape(contexts=(3, 8), chunks=((5, 0), (2, 4)))
    assert 2 + 5 + 2 == shape.total_tokens
    assert (4, 6) == (shape.num_requests(depth=1), shape.num_requests(depth=2))
    # 3 + 4 + 2, 8 + 4 + 2, 5 + 1 and 2 + 4 + 1 tokens in blocks of 4
    assert 3 + 4 + 2 + 2 == shape.num_blocks(depth=1, block_size=4)


def _is_mix(shape: BatchShape) -> bool:
    return bool(shape.contexts and shape.chunks)
