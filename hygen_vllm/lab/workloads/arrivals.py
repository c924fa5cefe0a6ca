# SPDX-License-Identifier: Apache-2.0
"""The request of a workload, and what makes other lists of requests out of one. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from hygen_vllm.lab.workloads.prompt_tokens import VOCABULARY, Prompt, UniqueTokens


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request; `time_s` counts from the start of the workload.

    Args:
        prompt: which tokens its prompt has; None if it shares them with no other request.
        tenant: whose it is, "" if nobody said.
    """

    time_s: float
    prompt_tokens: int
    output_tokens: int
    prompt: Prompt | None = None
    tenant: str = ""

    def token_ids(self, number: int, vocabulary: int = VOCABULARY) -> list[int]:
        """Return the tokens of its prompt; `number` makes those of a prompt that shares nothing."""
        prompt = UniqueTokens(number) if self.prompt is None else self.prompt
        return prompt.token_ids(self.prompt_tokens, vocabulary)


def cut(arrivals: list[Arrival], start_s: float, duration_s: float) -> list[Arrival]:
    """Return the arrivals in [start_s, start_s + duration_s), their times counted from start_s."""
    end_s = start_s + duration_s
    return [
        replace(arrival, time_s=arrival.time_s - start_s)
        for arrival in arrivals
        if start_s <= arrival.time_s < end_s
    ]


def thin(arrivals: list[Arrival], rate_per_s: float, duration_s: float, seed: int) -> list[Arrival]:
    """Keep rate_per_s * duration_s arrivals, each equally likely, at their own times.

    Bursts and lulls stay where they are, only fewer requests make them.
    Raises: ValueError if the trace holds fewer than that.
    """
    num_kept = round(rate_per_s * duration_s)
    highest = round(len(arrivals) / duration_s, 2)
    if num_kept > len(arrivals) and rate_per_s > highest:
        raise ValueError(
            f"rate_per_s must be <= {highest:.2f}, the rate of this part of the trace, got "
            f"{rate_per_s}"
        )
    num_kept = min(num_kept, len(arrivals))
    kept = np.random.default_rng(seed).choice(len(arrivals), size=num_kept, replace=False)
    return [arrivals[index] for index in sorted(kept)]


@dataclass(frozen=True)
class LengthScale:
    """Divides the lengths of a trace for a small machine, then caps them; all stay >= 1."""

    prompt_divisor: float
    max_prompt_tokens: int
    output_divisor: float
    max_output_tokens: int

    def apply(self, arrival: Arrival) -> Arrival:
        """Return the arrival with shorter lengths, at the same time."""
        prompt_tokens = round(arrival.prompt_tokens / self.prompt_divisor)
        output_tokens = round(arrival.output_tokens / self.output_divisor)
        return replace(
            arrival,
            prompt_tokens=max(1, min(prompt_tokens, self.max_prompt_tokens)),
            output_tokens=max(1, min(output_tokens, self.max_output_tokens)),
        )

    def __str__(self) -> str:
        return (
            f"prompts divided by {self.prompt_divisor:g} (at most {self.max_prompt_tokens} tokens),"
            f" outputs divided by {self.output_divisor:g} (at most {self.max_output_tokens})"
        )


def fit_length(arrival: Arrival, max_model_len: int) -> Arrival:
    """Return an arrival that a model of so many tokens, at least 2, can serve.

    What is longer than half of that gives way to what is not: a long prompt loses its end, a long
    output its last tokens.
    """
    room = max(max_model_len - arrival.prompt_tokens, max_model_len // 2)
    output_tokens = min(arrival.output_tokens, room)
    prompt_tokens = min(arrival.prompt_tokens, max_model_len - output_tokens)
    if (prompt_tokens, output_tokens) == (arrival.prompt_tokens, arrival.output_tokens):
        return arrival
    return replace(arrival, prompt_tokens=prompt_tokens, output_tokens=output_tokens)


def at_times(arrivals: Iterable[Arrival], times_s: Iterable[float]) -> list[Arrival]:
    """Return the arrivals with other times, as many as there are of both."""
    return [
        replace(arrival, time_s=time_s) for arrival, time_s in zip(arrivals, times_s, strict=False)
    ]
