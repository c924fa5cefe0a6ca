# SPDX-License-Identifier: Apache-2.0
"""What is in a step, as the sums on which its seconds depend. Pure.

The sums add over requests (HyGen, arXiv 2501.14808, section 4.1, uses S_p, S_d, S_p^2, N_p, N_d;
here the square is replaced by each chunk's own attention area), so one more request is one more
addition.
"""

from dataclasses import dataclass, fields


@dataclass(slots=True)
class StepComposition:
    """Sums over the requests of one step."""

    decode_tokens: int = 0
    """Tokens of decodes; one each, more with speculative decoding."""
    decode_context_tokens: int = 0
    """Tokens already computed, summed over decodes."""
    num_prefills: int = 0
    prefill_tokens: int = 0
    prefill_attention: float = 0.0
    """Sum of n * (c + n / 2) for chunks of n tokens after c computed ones."""
    prefill_context_tokens: int = 0
    """Sum of c + n over chunks."""

    def add_decode(self, new_tokens: int, computed_tokens: int) -> None:
        self.decode_tokens += new_tokens
        self.decode_context_tokens += computed_tokens

    def add_prefill(self, new_tokens: int, computed_tokens: int) -> None:
        self.num_prefills += 1
        self.prefill_tokens += new_tokens
        self.prefill_attention += new_tokens * (computed_tokens + 0.5 * new_tokens)
        self.prefill_context_tokens += computed_tokens + new_tokens

    @property
    def total_tokens(self) -> int:
        return self.decode_tokens + self.prefill_tokens

    @property
    def has_prefill(self) -> bool:
        return self.num_prefills > 0

    def features(self) -> list[float]:
        """Return the sums in the order of FEATURES."""
        return [
            self.decode_tokens,
            self.decode_context_tokens,
            self.num_prefills,
            self.prefill_tokens,
            self.prefill_attention,
            self.prefill_context_tokens,
        ]


FEATURES = tuple(field.name for field in fields(StepComposition))
"""Names of the sums: columns of a step trace and of the matrix X that a model is fitted to."""
