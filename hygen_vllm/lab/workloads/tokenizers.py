# SPDX-License-Identifier: Apache-2.0
"""From text to tokens: a model's own tokenizer, or one that needs no model."""

import re
import zlib
from pathlib import Path
from typing import Any, Protocol

from hygen_vllm.lab.workloads.prompt_tokens import VOCABULARY

_PIECE = re.compile(r" ?[^\W\d]{1,6}|\d|[^\w\s]|\s")


class Tokenizer(Protocol):
    """The part of a model's tokenizer that is needed here."""

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""


class HashTokenizer:
    """Turns pieces of up to six letters into numbers: equal beginnings of texts, equal tokens.

    English text becomes about as many tokens as with a model's tokenizer, some four letters each.

    Args: seed: chooses the numbers.
    """

    def __init__(self, seed: int = 0, vocabulary: int = VOCABULARY) -> None:
        self._start = zlib.crc32((seed % (1 << 64)).to_bytes(8, "little"))
        self._vocabulary = vocabulary

    def encode(self, text: str) -> list[int]:
        start, vocabulary = self._start, self._vocabulary
        return [
            zlib.crc32(piece.encode(errors="replace"), start) % vocabulary
            for piece in _PIECE.findall(text)
        ]


def load_tokenizer(model: Path) -> Any:
    """Return the tokenizer in the folder of a model. Needs transformers, which vLLM brings."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(model))
