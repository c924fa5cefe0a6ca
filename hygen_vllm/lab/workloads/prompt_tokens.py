# SPDX-License-Identifier: Apache-2.0
"""Which tokens a prompt has: those of a text, or made from numbers when first needed. Pure.

A trace says how long a prompt is and at most which other prompts it begins like. The tokens made
here share exactly that: equal names of blocks give equal tokens, everything else differs. They are
made on demand, so that a backlog of 100,000 prompts is only their lengths.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

TRACE_BLOCK_TOKENS = 512
"""Tokens that one hash id of a Mooncake trace stands for."""
VOCABULARY = 32_000
_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9))
_UNIQUE = 1 << 63
"""Names of prompts that share nothing; those of shared blocks are below."""


class Prompt(Protocol):
    """Where the tokens of a prompt come from."""

    def token_ids(self, num_tokens: int, vocabulary: int) -> list[int]:
        """Return the first `num_tokens` tokens, each in [0, vocabulary)."""


@dataclass(frozen=True, slots=True)
class TextTokens:
    """Tokens of a text."""

    tokens: "array[int]"

    def token_ids(self, num_tokens: int, vocabulary: int) -> list[int]:
        tokens = self.tokens[:num_tokens].tolist()
        if max(tokens, default=0) < vocabulary:
            return tokens
        return [token % vocabulary for token in tokens]


@dataclass(frozen=True, slots=True)
class SharedBlocks:
    """Blocks of TRACE_BLOCK_TOKENS tokens by name; prompts share those of equal names."""

    names: tuple[int, ...]

    def token_ids(self, num_tokens: int, vocabulary: int) -> list[int]:
        tokens: list[int] = []
        for name in self.names:
            tokens += made_tokens(
                name, min(TRACE_BLOCK_TOKENS, num_tokens - len(tokens)), vocabulary
            )
        return tokens


@dataclass(frozen=True, slots=True)
class UniqueTokens:
    """Tokens that no prompt of another number shares."""

    number: int

    def token_ids(self, num_tokens: int, vocabulary: int) -> list[int]:
        return made_tokens(_UNIQUE + self.number, num_tokens, vocabulary)


def made_tokens(name: int, num_tokens: int, vocabulary: int) -> list[int]:
    """Return tokens that look random and depend on `name`, 0 <= name < 2**64, and position only."""
    with np.errstate(over="ignore"):
        numbers = np.arange(1, num_tokens + 1, dtype=np.uint64) * _MIX[0]
        numbers += np.uint64(name) * _MIX[1]
        numbers ^= numbers >> np.uint64(30)
        numbers *= _MIX[1]
        numbers ^= numbers >> np.uint64(27)
    tokens: list[int] = (numbers % np.uint64(vocabulary)).tolist()
    return tokens


def text_tokens(tokens: Sequence[int]) -> TextTokens:
    """Keep the tokens of a text, four bytes each."""
    return TextTokens(array("I", tokens))
