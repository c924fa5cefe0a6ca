# SPDX-License-Identifier: Apache-2.0
"""The cost of a step: a form that is additive over requests, and its inverse. Pure.

seconds = base + sum over decodes (decode + decode_context * c)
        + sum over chunks (prefill + prefill_token * n + prefill_attention * n * (c + n / 2)
                           + prefill_context * (c + n))
        + first_prefill if there is a chunk
        + curve(total tokens)

A step of decodes alone is one CUDA graph; with a chunk it is launched in pieces, which takes longer
however small the chunk.

No coefficient is negative and the curve never falls, so more work never costs less, and the largest
chunk that fits a given time is the root of a quadratic between two knees of the curve.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hygen_vllm.cost.composition import StepComposition
from hygen_vllm.cost.curve import TokenCurve

NUM_COEFFICIENTS = 7
"""Of the sums: the base, and one for each of FEATURES."""
FLAT = TokenCurve()


class StepSoFar(Protocol):
    """A step that more is added to."""

    @property
    def total_tokens(self) -> int:
        """Tokens that it has."""

    @property
    def has_prefill(self) -> bool:
        """Whether one of its requests is a prefill chunk."""


@dataclass(frozen=True, slots=True)
class StepCost:
    """Coefficients in seconds per unit of each sum; all finite and >= 0 (else ValueError).

    Args: first_prefill_s: added once to a step with prefill.
    """

    base_s: float
    decode_token_s: float
    decode_context_token_s: float
    prefill_s: float
    prefill_token_s: float
    prefill_attention_s: float
    prefill_context_token_s: float
    curve: TokenCurve = FLAT
    first_prefill_s: float = 0.0

    def __post_init__(self) -> None:
        for value in (*self.coefficients(), self.first_prefill_s):
            if isinstance(value, bool) or not 0 <= value < math.inf:
                raise ValueError(f"step cost coefficients must be finite and >= 0, got {value}")

    @classmethod
    def from_coefficients(
        cls, values: Sequence[float], curve: TokenCurve, first_prefill_s: float = 0.0
    ) -> "StepCost":
        """Return the cost with NUM_COEFFICIENTS `values`: the base, then one a feature."""
        base, decode, context, prefill, token, attention, prefill_context = values
        sums = base, decode, context, prefill, token, attention, prefill_context
        return cls(*sums, curve, first_prefill_s)

    def coefficients(self) -> list[float]:
        """Return the base and the coefficients in the order of FEATURES."""
        return [
            self.base_s,
            self.decode_token_s,
            self.decode_context_token_s,
            self.prefill_s,
            self.prefill_token_s,
            self.prefill_attention_s,
            self.prefill_context_token_s,
        ]

    def scaled(self, factor: float) -> "StepCost":
        """Return the cost of a device on which everything takes `factor` times as long."""
        values = [factor * value for value in self.coefficients()]
        first_prefill_s = factor * self.first_prefill_s
        return StepCost.from_coefficients(values, self.curve.scaled(factor), first_prefill_s)

    def seconds(self, step: StepComposition) -> float:
        """Return the predicted seconds of a step."""
        return (
            self.base_s
            + self.decode_token_s * step.decode_tokens
            + self.decode_context_token_s * step.decode_context_tokens
            + self.prefill_s * step.num_prefills
            + self.prefill_token_s * step.prefill_tokens
            + self.prefill_attention_s * step.prefill_attention
            + self.prefill_context_token_s * step.prefill_context_tokens
            + (self.first_prefill_s if step.num_prefills else 0.0)
            + self.curve.seconds(step.total_tokens)
        )

    def added_decode_seconds(self, step: StepSoFar, new_tokens: int, computed_tokens: int) -> float:
        """Return the seconds one more decode adds to a step."""
        curve, total_tokens = self.curve, step.total_tokens
        if new_tokens == 1:  # knees are whole: one token lies on one piece
            return (
                self.decode_token_s
                + self.decode_context_token_s * computed_tokens
                + curve.slopes_before_s[bisect_right(curve.knees, total_tokens)]
            )
        return (
            self.decode_token_s * new_tokens
            + self.decode_context_token_s * computed_tokens
            + curve.seconds(total_tokens + new_tokens)
            - curve.seconds(total_tokens)
        )

    def added_chunk_seconds(self, step: StepSoFar, new_tokens: int, computed_tokens: int) -> float:
        """Return the seconds a prefill chunk, the first or another, adds to a step."""
        total_tokens = step.total_tokens
        square, slope, chunk_s = self._chunk_terms(computed_tokens)
        return (
            chunk_s
            + new_tokens * (slope + square * new_tokens)
            + (0.0 if step.has_prefill else self.first_prefill_s)
            + self.curve.seconds(total_tokens + new_tokens)
            - self.curve.seconds(total_tokens)
        )

    def token_worth_s(self, full_tokens: int) -> float:
        """Return the part of one token in the curve of a full step."""
        return (self.curve.seconds(full_tokens) - self.curve.seconds(0)) / full_tokens

    def decode_worth_s(self, new_tokens: int, computed_tokens: int, token_worth_s: float) -> float:
        """Return the seconds a decode takes as a part of a full step."""
        return (
            self.decode_token_s + token_worth_s
        ) * new_tokens + self.decode_context_token_s * computed_tokens

    def best_chunk(
        self,
        step: StepSoFar,
        computed_tokens: int,
        max_tokens: int,
        *,
        price: float,
        token_worth_s: float,
    ) -> int:
        """Return the chunk, 0 to `max_tokens`, that is worth most more than it costs.

        A chunk is worth the seconds that it takes as a part of a full step, and costs `price` times
        those that it adds to this one. They differ where the curve bends: up to the first knees a
        token may be nearly free. Looks at the knees only, O(number of knees): what else could be
        best by the curvature of attention is so by next to nothing.

        Args:
            price: of a second added to the step.
            token_worth_s: see `token_worth_s`.
        """
        curve, total_tokens = self.curve, step.total_tokens
        first_s = 0.0 if step.has_prefill else self.first_prefill_s
        square, slope, chunk_s = self._chunk_terms(computed_tokens)
        after = bisect_right(curve.knees, total_tokens)
        until = bisect_left(curve.knees, total_tokens + max_tokens)
        ends = (*curve.knees[after:until], total_tokens + max_tokens)
        at_ends_s = (*curve.at_knees_s[after:until], curve.seconds(ends[-1]))
        here_s = curve.seconds(total_tokens)
        best, most = 0, 0.0
        for end, at_end_s in zip(ends, at_ends_s, strict=True):
            tokens = end - total_tokens
            other_s = chunk_s + tokens * (slope + square * tokens)
            added_s = at_end_s - here_s + other_s + first_s
            net = token_worth_s * tokens + other_s - price * added_s
            if net > most:
                best, most = tokens, net
        return best

    def _chunk_terms(self, computed_tokens: int) -> tuple[float, float, float]:
        """Return a, b, c of the seconds a*n*n + b*n + c of a chunk of n tokens off the curve."""
        slope = (
            self.prefill_token_s
            + self.prefill_context_token_s
            + self.prefill_attention_s * computed_tokens
        )
        chunk_s = self.prefill_s + self.prefill_context_token_s * computed_tokens
        return 0.5 * self.prefill_attention_s, slope, chunk_s

    def largest_chunk(
        self, step: StepSoFar, computed_tokens: int, max_tokens: int, seconds: float
    ) -> int:
        """Return the most prefill tokens, 0 to `max_tokens`, that add at most `seconds`.

        O(log(number of knees)); exact up to rounding down to whole tokens.

        Args: computed_tokens: tokens of the request computed before.
        """
        curve, total_tokens = self.curve, step.total_tokens
        square, slope, chunk_s = self._chunk_terms(computed_tokens)
        spare = seconds - chunk_s
        if not step.has_prefill:
            spare -= self.first_prefill_s
        if spare < 0:
            return 0
        knees = curve.knees
        if not knees:
            return int(min(_root(square, slope, spare), max_tokens))
        spare += curve.seconds(total_tokens)

        def seconds_to(knee: int) -> float:
            n = knee - total_tokens
            return n * (slope + square * n) + curve.seconds(knee)

        first = bisect_right(knees, total_tokens)
        i = bisect_right(knees, spare, lo=first, key=seconds_to) - 1
        end = knees[i + 1] - total_tokens if i + 1 < len(knees) else math.inf
        chunk = _root_after(square, slope, spare, curve, i, total_tokens)
        return int(min(chunk, end, max_tokens))


def _root_after(
    square: float, slope: float, spare: float, curve: TokenCurve, i: int, total_tokens: int
) -> float:
    """Return the largest chunk that costs at most `spare` on the straight piece after knee i."""
    if i < 0:
        return _root(square, slope, spare)
    piece = curve.slopes_s[i]
    spare -= curve.at_knees_s[i] + piece * (total_tokens - curve.knees[i])
    return _root(square, slope + piece, spare)


def _root(square: float, slope: float, value: float) -> float:
    """Return the largest x >= 0 with square * x^2 + slope * x <= value; 0 if value < 0."""
    if slope == 0 and square == 0:
        return math.inf
    if value == math.inf:
        return math.inf
    value = max(0.0, value)
    discriminant = slope * slope + 4.0 * square * value
    divisor = slope + math.sqrt(discriminant)
    return 2.0 * value / divisor if divisor > 0 else 0.0
