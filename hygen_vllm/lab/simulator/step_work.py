# SPDX-License-Identifier: Apache-2.0
"""What a step computes, as a device sees it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from hygen_vllm.cost.composition import StepComposition
from hygen_vllm.lab.profile.batch_shapes import BatchShape


@dataclass(slots=True)
class StepWork:
    """What a step computes.

    Args:
        num_decodes: requests that get one token.
        context_tokens: tokens computed before, summed over the decodes.
        chunks: (new tokens, tokens computed before) of each prefill chunk.
    """

    num_decodes: int
    context_tokens: int
    chunks: Sequence[tuple[int, int]]

    @classmethod
    def of(cls, shape: BatchShape) -> "StepWork":
        """Return the work of one of the profiler's batches."""
        return cls(len(shape.contexts), sum(shape.contexts), shape.chunks)

    @property
    def total_tokens(self) -> int:
        return self.num_decodes + sum(new for new, _ in self.chunks)

    def composition(self) -> StepComposition:
        """Return the sums that prices are for."""
        step = StepComposition()
        step.decode_tokens = self.num_decodes
        step.decode_context_tokens = self.context_tokens
        for new_tokens, computed_tokens in self.chunks:
            step.add_prefill(new_tokens, computed_tokens)
        return step
