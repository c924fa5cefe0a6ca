# SPDX-License-Identifier: Apache-2.0
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hygen_vllm.lab.workloads.arrival_processes import generate_azure_like
from hygen_vllm.lab.workloads.arrivals import (
    Arrival,
    LengthScale,
    at_times,
    cut,
    fit_length,
    thin,
)
from hygen_vllm.lab.workloads.prompt_tokens import SharedBlocks, text_tokens
from tests.support.workload_files import refusal

LAW = settings(derandomize=True, deadline=None, max_examples=200)
SCALE = LengthScale(
    prompt_divisor=16, max_prompt_tokens=128, output_divisor=2, max_output_tokens=64
)
SHARED = SharedBlocks((4, 5))
counts = st.integers(1, 3000)


def test_cut_counts_times_from_its_start_and_leaves_out_its_end():
    arrivals = [Arrival(float(time_s), 1, 1) for time_s in range(10)]
    assert [arrival.time_s for arrival in cut(arrivals, 4.0, 3.0)] == [0.0, 1.0, 2.0]


def test_cut_keeps_lengths_and_prompts():
    """Only the time changes."""
    kept = cut([Arrival(1.0, 2, 3), Arrival(5.0, 600, 7, SHARED)], 4.0, 2.0)
    assert [Arrival(1.0, 600, 7, SHARED)] == kept


def test_thin_reaches_the_rate_with_arrivals_of_the_trace_in_their_order():
    trace = generate_azure_like(5.0, 600.0, seed=1)
    thinned = thin(trace, 0.5, 600.0, seed=1)
    assert len(thinned) == 300
    assert set(thinned) <= set(trace)
    assert thinned == sorted(thinned, key=lambda arrival: arrival.time_s)


def test_thin_keeps_the_pattern_of_busy_and_quiet_times():
    """A tenth of the trace still has nine tenths of its requests in its busy half."""
    busy = [Arrival(0.01 * number, 1, 1) for number in range(9000)]
    quiet = [Arrival(90 + 0.09 * number, 1, 1) for number in range(1000)]
    thinned = thin(busy + quiet, 5.0, 180.0, seed=3)
    share = sum(arrival.time_s < 90 for arrival in thinned) / len(thinned)
    assert share == pytest.approx(0.9, abs=0.03)


def test_thin_keeps_each_arrival_once_and_at_most_all_of_them():
    """At the trace's own rate nothing is lost, and a request is never served twice."""
    trace = [Arrival(float(number), 1, 1) for number in range(10)]
    assert trace == thin(trace, 1.0, 10.0, seed=0)
    assert 5 == len({arrival.time_s for arrival in thin(trace, 0.5, 10.0, seed=0)})
    assert [] == thin(trace, 0.01, 10.0, seed=0)


def test_thin_above_the_rate_of_the_trace_is_refused_with_that_rate():
    trace = [Arrival(float(time_s), 1, 1) for time_s in range(10)]
    with pytest.raises(ValueError, match=r"must be <= 1\.00, .* got 2"):
        thin(trace, 2.0, 10.0, seed=0)


@pytest.mark.parametrize(("num_arrivals", "named"), [(5534, "5.53"), (5536, "5.54"), (3, "0.00")])
def test_thin_to_the_rate_that_a_refusal_names_is_accepted(num_arrivals, named):
    """The named rate has two digits: rounded up, it still means all requests of the trace."""
    trace = [Arrival(0.1 * number, 1, 1) for number in range(num_arrivals)]
    assert f"<= {named}, " in refusal(lambda: thin(trace, 9.0, 1000.0, seed=0))
    num_kept = min(num_arrivals, round(1000 * float(named)))
    assert num_kept == len(thin(trace, float(named), 1000.0, seed=0))
    assert "got 5.55" in refusal(lambda: thin(trace, 5.55, 1000.0, seed=0))
    assert 2 == len(thin(trace, 0.002, 1000.0, seed=0))


@pytest.mark.parametrize("seed", [0, 7])
def test_same_seed_same_arrivals(seed):
    first, again, other = (generate_azure_like(1.0, 60.0, number) for number in (seed, seed, 99))
    assert first == again
    assert first != other
    assert thin(first, 0.3, 60.0, seed) == thin(again, 0.3, 60.0, seed)
    assert thin(first, 0.3, 60.0, seed) != thin(first, 0.3, 60.0, seed + 1)


def test_length_scale_divides_then_caps_and_never_reaches_zero():
    assert SCALE.apply(Arrival(1.0, 1020, 100)) == Arrival(1.0, 64, 50)
    assert SCALE.apply(Arrival(1.0, 14050, 1000)) == Arrival(1.0, 128, 64)
    assert SCALE.apply(Arrival(1.0, 2, 1)) == Arrival(1.0, 1, 1)


def test_length_scale_keeps_the_prompt_and_its_tokens_from_the_first_on():
    """A shorter prompt still shares its beginning with those it shared it with."""
    arrival = Arrival(1.0, 1000, 100, SHARED)
    scaled = SCALE.apply(arrival)
    assert SHARED is scaled.prompt
    assert arrival.token_ids(0)[:62] == scaled.token_ids(0)


def test_length_scale_says_what_it_does():
    """A result names it in words."""
    assert "prompts divided by 16 (at most 128 tokens), outputs divided by 2 (at most 64)" == str(
        SCALE
    )


@LAW
@given(counts, counts, st.integers(2, 4000))
def test_fitted_request_has_room_in_the_model_and_a_token_of_each(prompt, output, limit):
    """Never longer than it was, never longer than the model, never without prompt or output."""
    arrival = Arrival(1.5, prompt, output)
    fitted = fit_length(arrival, limit)
    assert 1 <= fitted.prompt_tokens <= prompt
    assert 1 <= fitted.output_tokens <= output
    total = fitted.prompt_tokens + fitted.output_tokens
    assert min(limit, prompt + output) == total
    assert (total == prompt + output) == (fitted is arrival)


@pytest.mark.parametrize(
    ("lengths", "fitted"),
    [
        ((60, 40), (60, 40)),
        ((61, 40), (60, 40)),
        ((5000, 40), (60, 40)),
        ((60, 99), (50, 50)),
        ((30, 5000), (30, 70)),
        ((1, 5000), (1, 99)),
        ((5000, 5000), (50, 50)),
    ],
)
def test_fitted_request_loses_what_is_longer_than_half_of_the_model(lengths, fitted):
    """A short prompt keeps its tokens, a short output its own; the model has 100."""
    assert Arrival(2.0, *fitted) == fit_length(Arrival(2.0, *lengths), 100)


@pytest.mark.parametrize("prompt", [None, SHARED, text_tokens(range(900))])
def test_fitted_prompt_is_the_beginning_of_the_whole_one(prompt):
    """Whatever the prompt shares, it still shares as much of it as is left."""
    arrival = Arrival(0.0, 900, 50, prompt)
    fitted = fit_length(arrival, 400)
    assert prompt is fitted.prompt
    assert 350 == len(fitted.token_ids(7))
    assert arrival.token_ids(7)[:350] == fitted.token_ids(7)


def test_prompt_that_shares_nothing_is_made_from_the_number_of_its_request():
    """Two requests without a prompt have different tokens, each the same every time."""
    arrival = Arrival(0.0, 20, 1)
    assert arrival.token_ids(1) == arrival.token_ids(1)
    assert arrival.token_ids(1) != arrival.token_ids(2)
    assert 10 > max(arrival.token_ids(1, vocabulary=10))


def test_at_times_gives_new_times_and_ends_with_the_shorter_of_both():
    """The lengths and prompts stay, in their order; times may have no end."""
    arrivals = [Arrival(9.0, 1, 2), Arrival(9.0, 600, 4, SHARED), Arrival(9.0, 5, 6)]
    timed = [Arrival(0.0, 1, 2), Arrival(0.5, 600, 4, SHARED)]
    assert timed == at_times(arrivals, [0.0, 0.5])
    assert [0, 1, 2] == [arrival.time_s for arrival in at_times(arrivals, itertools.count())]
    assert [] == at_times([], [1.0])
