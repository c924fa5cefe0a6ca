# SPDX-License-Identifier: Apache-2.0
"""KvForecast beside a simulation, token by token, of requests that grow and end."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hygen_vllm.kv.forecast import KvForecast

REQUESTS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=8)


def forecast(*requests: tuple[float, float], prompt_blocks: float = 0.0) -> KvForecast:
    """Return that of (remaining tokens, blocks freed) with blocks of one token."""
    remaining, freed = zip(*requests, strict=True) if requests else ((), ())
    return KvForecast(remaining, freed, prompt_blocks, block_size=1)


def test_requests_that_end_together_need_all_they_grow_by() -> None:
    """Nobody gives anything back in time."""
    assert 30 == forecast((10, 100), (10, 100), (10, 100)).most_blocks()


def test_request_that_ends_sooner_gives_its_blocks_to_the_others() -> None:
    """2 x 4 at the end of the first; 16 less 4 + 5 at the end of the second."""
    assert 8 == forecast((4, 5), (12, 5)).most_blocks()
    assert 12 - 1 == forecast((4, 1), (12, 5)).most_blocks()


def test_nobody_running_needs_what_the_new_one_makes() -> None:
    """And nothing if it makes nothing."""
    assert 0 == forecast().most_blocks()
    assert 7 == forecast().most_blocks(7)
    assert 0 == forecast().num_running
    assert 2 == forecast((1, 1), (2, 2)).num_running


def test_prompts_that_are_not_in_memory_yet_are_always_needed() -> None:
    """They come before anything is given back."""
    assert 5 + 8 == forecast((4, 5), (12, 5), prompt_blocks=5).most_blocks()


def test_blocks_hold_as_many_tokens_as_they_hold() -> None:
    """32 tokens are two blocks of 16."""
    assert 2 == KvForecast([32.0], [9.0], 0.0, block_size=16).most_blocks()


@settings(derandomize=True, deadline=None, max_examples=300)
@given(requests=REQUESTS, output=st.integers(0, 60))
def test_forecast_is_the_worst_moment_of_a_run(
    requests: list[tuple[int, int]], output: int
) -> None:
    """A token a step each; whoever has made its tokens is gone with all it held."""
    running = [*requests, (output, 0)]
    worst = 0.0
    for step in range(1, 61):
        grown = sum(step for remaining, _ in running if remaining >= step)
        freed = sum(freed for remaining, freed in running if remaining < step)
        worst = max(worst, grown - freed)
    assert worst == pytest.approx(forecast(*requests).most_blocks(output))


@given(requests=REQUESTS, output=st.integers(0, 60))
def test_more_output_never_needs_less(requests: list[tuple[int, int]], output: int) -> None:
    """Nor does one more request."""
    of_these = forecast(*requests)
    assert of_these.most_blocks(output) <= of_these.most_blocks(output + 1) + 1e-9
    assert of_these.most_blocks(output) <= forecast(*requests, (output, 0)).most_blocks(output)
    assert math.isfinite(of_these.most_blocks(output))
