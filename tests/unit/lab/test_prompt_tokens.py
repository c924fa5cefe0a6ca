# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hygen_vllm.lab.workloads.prompt_tokens import (
    TRACE_BLOCK_TOKENS,
    VOCABULARY,
    SharedBlocks,
    UniqueTokens,
    made_tokens,
    text_tokens,
)

LAW = settings(derandomize=True, deadline=None, max_examples=60)
KV_BLOCK = 16
"""Tokens of the blocks in which vLLM shares prompts."""
LAST_NAME = (1 << 63) - 1
names = st.integers(0, LAST_NAME)
prompts = st.one_of(
    st.builds(UniqueTokens, st.integers(0, 1 << 40)),
    st.builds(SharedBlocks, st.lists(names, min_size=4, max_size=4).map(tuple)),
    st.builds(text_tokens, st.lists(st.integers(0, (1 << 32) - 1), max_size=50)),
)
sizes = st.integers(0, 4 * TRACE_BLOCK_TOKENS)
AS_ANOTHER_PROCESS_SEES_IT = """
from hygen_vllm.lab.workloads.prompt_tokens import SharedBlocks, UniqueTokens
from hygen_vllm.lab.workloads.tokenizers import HashTokenizer
print(
    SharedBlocks((3, 1)).token_ids(520, 32000)[-20:],
    UniqueTokens(9).token_ids(20, 32000),
    HashTokenizer(5).encode("The same text, word by word."),
)
"""


@LAW
@given(prompts, sizes, sizes, st.integers(1, 200_000))
def test_tokens_of_a_shorter_prompt_are_the_first_of_a_longer_one(prompt, one, two, vocabulary):
    """Cutting a prompt never changes what stays, so that it shares what it shared before."""
    fewer, more = sorted((one, two))
    longer = prompt.token_ids(more, vocabulary)
    assert longer[:fewer] == prompt.token_ids(fewer, vocabulary)


@LAW
@given(prompts, sizes, st.integers(1, 200_000))
def test_tokens_are_numbers_of_the_vocabulary(prompt, length, vocabulary):
    """Every token is a plain int that a model of so many tokens knows."""
    tokens = prompt.token_ids(length, vocabulary)
    assert {int} >= set(map(type, tokens))
    assert all(0 <= token < vocabulary for token in tokens)


@pytest.mark.parametrize("length", [0, 1, 511, 512, 513, 1000, 1024])
def test_made_prompts_are_as_long_as_asked(length):
    """A prompt that ends within a block has only the beginning of its tokens."""
    assert length == len(SharedBlocks((7, 8)).token_ids(length, VOCABULARY))
    assert length == len(UniqueTokens(7).token_ids(length, VOCABULARY))


@LAW
@given(*2 * (st.lists(st.integers(0, 3), min_size=1, max_size=4),))
def test_prompts_share_exactly_the_blocks_of_equal_names(one, two):
    """Of all their blocks of 16 tokens, two are equal only at one place of one name."""
    chunks = {chunk for of_prompt in (one, two) for chunk in _chunks(of_prompt)}
    assert TRACE_BLOCK_TOKENS // KV_BLOCK * len({*one, *two}) == len(chunks)
    for index, (name, other) in enumerate(zip(one, two, strict=False)):
        part = slice(index * 32, index * 32 + 32)
        assert (name == other) == (_chunks(one)[part] == _chunks(two)[part])


def _chunks(block_names: list[int]) -> list[tuple[int, ...]]:
    length = TRACE_BLOCK_TOKENS * len(block_names)
    tokens = SharedBlocks(tuple(block_names)).token_ids(length, VOCABULARY)
    return [tuple(tokens[start : start + KV_BLOCK]) for start in range(0, length, KV_BLOCK)]


def test_unique_prompts_differ_from_all_others_in_their_first_block():
    """Neither another number nor a shared block, of whatever name, begins alike."""
    unique = [UniqueTokens(number) for number in range(1000)]
    shared = [SharedBlocks((name,)) for name in [*range(999), LAST_NAME]]
    first = {tuple(prompt.token_ids(KV_BLOCK, VOCABULARY)) for prompt in [*unique, *shared]}
    assert 2000 == len(first)


def test_made_tokens_use_the_whole_vocabulary_evenly():
    """No token is much more frequent than another, so that none is shared by habit."""
    tokens = [token for name in range(100) for token in made_tokens(name, 320, 32)]
    counts = [tokens.count(token) for token in range(32)]
    assert counts == pytest.approx([1000] * 32, rel=0.15)


def test_tokens_of_a_text_are_kept_and_only_unknown_ones_are_replaced():
    """A tokenizer with more tokens than the model still gives tokens that the model knows."""
    assert [5, 31_999, 0] == text_tokens([5, 31_999, 0]).token_ids(3, 32_000)
    assert [5, 1, 0] == text_tokens([5, 32_001, 64_000]).token_ids(3, 32_000)
    assert [] == text_tokens([]).token_ids(3, 32_000)


def test_tokens_of_a_text_take_four_bytes_each():
    """A million requests of a thousand tokens fit a server's memory."""
    assert 4 == text_tokens([1, 2, 3]).tokens.itemsize


@pytest.mark.parametrize("token", [-1, 1 << 32])
def test_tokens_of_a_text_beyond_four_bytes_are_refused(token):
    """They are never stored as other tokens in silence."""
    with pytest.raises(OverflowError):
        text_tokens([1, token])


def test_made_tokens_are_the_same_in_every_process():
    """Python salts its own hash anew in each process; tokens must not depend on it."""
    seen = {
        subprocess.run(
            [sys.executable, "-c", AS_ANOTHER_PROCESS_SEES_IT],
            env={**os.environ, "PYTHONHASHSEED": salt},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for salt in ("1", "2")
    }
    assert 1 == len(seen)
    assert 40 < seen.pop().count(",")
