# SPDX-License-Identifier: Apache-2.0
"""The price of a step: a linear form with no negative coefficient, and its inverse. Pure.

seconds = base + sum over decodes (decode + decode_context * c)
        + sum over chunks (prefill + prefill_token * n + prefill_attention * n * (c + n / 2)
                           + prefill_context * (c + n))
        + sum over knees (hinge * max(0, total tokens - knee))

No coefficient is negative, so more work never costs less, and the largest chunk that fits a given
time is the root of a quadratic between two knees.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from hygen_vllm.latency.step_features import HINGE_TOKENS, NUM_FEATURES, StepComposition


@dataclass(frozen=True, slots=True)
class StepCost:
    """Coefficients in seconds per unit of each feature; all finite and >= 0 (else ValueError)."""

    base_s: float
    decode_token_s: float
    decode_context_token_s: float
    prefill_s: float
    prefill_token_s: float
    prefill_attention_s: float
    prefill_context_token_s: float
    hinge_token_s: tuple[float, ...]
    """Added seconds per token beyond each of HINGE_TOKENS."""
    _bends: tuple[tuple[int, float], ...] = field(init=False, repr=False, compare=False)
    """The hinges that are not 0, each with its knee."""

    def __post_init__(self) -> None:
        coefficients = self.coefficients()
        if len(coefficients) != NUM_FEATURES:
            raise ValueError(f"a step cost has {NUM_FEATURES} numbers, got {len(coefficients)}")
        for value in coefficients:
            if isinstance(value, bool) or not 0 <= value < math.inf:
                raise ValueError(f"step cost coefficients must be finite and >= 0, got {value}")
        bends = zip(HINGE_TOKENS, self.hinge_token_s, strict=True)
        object.__setattr__(self, "_bends", tuple(bend for bend in bends if bend[1]))

    @classmethod
    def from_coefficients(cls, values: Sequence[float]) -> "StepCost":
        """Return the cost whose coefficients are `values`, in the order of the features."""
        base, decode, context, prefill, token, attention, prefill_context, *hinges = values
        return cls(base, decode, context, prefill, token, attention, prefill_context, tuple(hinges))

    def coefficients(self) -> list[float]:
        """Return the coefficients in the order of the features."""
        return [
            self.base_s,
            self.decode_token_s,
            self.decode_context_token_s,
            self.prefill_s,
            self.prefill_token_s,
            self.prefill_attention_s,
            self.prefill_context_token_s,
            *self.hinge_token_s,
        ]

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
            + self._hinge_seconds(step.total_tokens)
        )

    def added_decode_seconds(
        self, total_tokens: int, new_tokens: int, computed_tokens: int
    ) -> float:
        """Return the seconds one more decode adds to a step of `total_tokens`."""
        if new_tokens > 1:
            return (
                self.decode_token_s * new_tokens
                + self.decode_context_token_s * computed_tokens
                + self._hinge_seconds(total_tokens + new_tokens)
                - self._hinge_seconds(total_tokens)
            )
        per_token_s = self.decode_token_s
        for knee, hinge_s in self._bends:
            if total_tokens < knee:
                break
            per_token_s += hinge_s
        return per_token_s + self.decode_context_token_s * computed_tokens

    def added_chunk_seconds(
        self, total_tokens: int, new_tokens: int, computed_tokens: int
    ) -> float:
        """Return the seconds a prefill chunk adds to a step of `total_tokens`."""
        return (
            self.prefill_s
            + self.prefill_token_s * new_tokens
            + self.prefill_attention_s * new_tokens * (computed_tokens + 0.5 * new_tokens)
            + self.prefill_context_token_s * (computed_tokens + new_tokens)
            + self._hinge_seconds(total_tokens + new_tokens)
            - self._hinge_seconds(total_tokens)
        )

    def largest_chunk(
        self, total_tokens: int, computed_tokens: int, max_tokens: int, seconds: float
    ) -> int:
        """Return the most prefill tokens, 0 to `max_tokens`, that add at most `seconds`.

        Args:
            total_tokens: tokens already in the step.
            computed_tokens: tokens of the request computed before.
        O(number of knees); exact up to rounding down to whole tokens.
        """
        square = 0.5 * self.prefill_attention_s
        slope = (
            self.prefill_token_s
            + self.prefill_context_token_s
            + self.prefill_attention_s * computed_tokens
        )
        fixed = self.prefill_s + self.prefill_context_token_s * computed_tokens
        spare = seconds - fixed
        if spare < 0:
            return 0
        for knee, hinge_s in self._bends:
            tokens_to_knee = knee - total_tokens
            if tokens_to_knee > 0:
                chunk = _root(square, slope, spare)
                if chunk <= tokens_to_knee or max_tokens <= tokens_to_knee:
                    return int(min(chunk, max_tokens))
                spare += hinge_s * tokens_to_knee
            slope += hinge_s
        return int(min(_root(square, slope, spare), max_tokens))

    def _hinge_seconds(self, total_tokens: int) -> float:
        seconds = 0.0
        for knee, hinge_s in self._bends:
            if total_tokens <= knee:
                break
            seconds += hinge_s * (total_tokens - knee)
        return seconds


def _root(square: float, slope: float, value: float) -> float:
    """Return the largest x >= 0 with square * x^2 + slope * x <= value, for value >= 0."""
    if value == math.inf:
        return math.inf
    discriminant = slope * slope + 4.0 * square * value
    divisor = slope + math.sqrt(discriminant)
    return 2.0 * value / divisor if divisor > 0 else math.inf
