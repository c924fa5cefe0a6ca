# SPDX-License-Identifier: Apache-2.0
import itertools
import math

import numpy as np
import pytest

from hygen_vllm.lab.workloads import data_dir
from hygen_vllm.lab.workloads.arrival_processes import (
    ARXIV_LENGTHS,
    AZURE_LENGTHS,
    CNN_LENGTHS,
    PROCESSES,
    SHAREGPT_LENGTHS,
    gamma_times,
    generate_azure_like,
    generate_backlog,
    generate_process,
    poisson_times,
    process_times,
)
from hygen_vllm.lab.workloads.sources import AZURE
from hygen_vllm.lab.workloads.trace_files import read_azure_csv
from tests.support.workload_files import needs_data, refusal


def test_generated_arrivals_have_the_published_statistics_of_the_trace():
    arrivals = generate_azure_like(5.53, 3600.0, seed=0)
    prompts = [arrival.prompt_tokens for arrival in arrivals]
    outputs = [arrival.output_tokens for arrival in arrivals]
    gaps_s = np.diff([arrival.time_s for arrival in arrivals])
    assert len(arrivals) / 3600 == pytest.approx(5.53, rel=0.03)
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(1.09, rel=0.05)
    assert _mean_p50_p99(prompts) == pytest.approx([1155, 1020, 4142], rel=0.05)
    assert _mean_p50_p99(outputs) == pytest.approx([211, 129, 601], rel=0.05)


@needs_data
def test_real_azure_trace_has_its_published_statistics():
    arrivals = read_azure_csv(data_dir() / AZURE)
    assert len(arrivals) == 19_366
    prompts = [arrival.prompt_tokens for arrival in arrivals]
    assert _mean_p50_p99(prompts) == pytest.approx([1155, 1020, 4142], abs=1)


def _mean_p50_p99(values: list[int]) -> list[float]:
    return [float(np.mean(values)), *np.percentile(values, (50, 99))]


@pytest.mark.parametrize("name", PROCESSES)
def test_process_reaches_its_mean_rate_over_a_long_run(name):
    """Whatever its shape, a process of R requests/s makes R * T requests in T seconds."""
    counts = [len(process_times(name, 10.0, 960.0, seed)) for seed in range(3)]
    assert np.mean(counts) == pytest.approx(9600, rel=0.04)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize(("rate_per_s", "duration_s"), [(20.0, 30.0), (0.5, 400.0)])
def test_process_times_rise_and_stay_within_the_run(name, rate_per_s, duration_s):
    """No request comes before the run begins, at its end or after it."""
    for seed in range(5):
        times_s = process_times(name, rate_per_s, duration_s, seed)
        assert sorted(times_s) == times_s
        assert 0.0 <= times_s[0] <= times_s[-1] < duration_s
        assert times_s[-1] > 0.5 * duration_s


@pytest.mark.parametrize("name", PROCESSES)
def test_process_of_the_same_seed_is_the_same(name):
    """The same seed gives the same requests, another seed other times and lengths."""
    first, again, other = (generate_process(name, 2.0, 100.0, seed) for seed in (4, 4, 5))
    assert first == again
    assert [item.time_s for item in first] == process_times(name, 2.0, 100.0, 4)
    assert {item.time_s for item in first}.isdisjoint(item.time_s for item in other)
    lengths, others = ([item.prompt_tokens for item in items[:20]] for items in (first, other))
    assert lengths != others


def test_processes_of_one_seed_send_the_same_requests_at_other_times():
    """Lengths do not depend on the process: two runs differ in when requests come, no more."""
    poisson, spike = (generate_process(name, 2.0, 100.0, 4) for name in ("poisson", "spike"))
    lengths, others = (
        [(item.prompt_tokens, item.output_tokens) for item in items[:100]]
        for items in (poisson, spike)
    )
    assert lengths == others
    assert [item.time_s for item in poisson[:100]] != [item.time_s for item in spike[:100]]


@pytest.mark.parametrize("name", ["", "Poisson", "sine"])
def test_process_of_unknown_name_is_refused_with_the_choices(name):
    """One line that names all five."""
    message = refusal(lambda: process_times(name, 1.0, 10.0, 0))
    assert f"must be one of poisson, gamma, diurnal, on-off, spike, steps, got {name!r}" in message


@pytest.mark.parametrize(("name", "variation"), [("poisson", 1.0), ("gamma", 3.0)])
def test_gaps_vary_as_much_as_the_process_says(name, variation):
    """The coefficient of variation of gaps is 1 for independent arrivals, 3 for bursty ones."""
    gaps_s = np.diff(process_times(name, 100.0, 400.0, seed=1))
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(variation, rel=0.05)


@pytest.mark.parametrize("variation", [0.2, 1.0, 2.0])
def test_gamma_gaps_have_the_variation_that_is_asked_for(variation):
    """More regular than independent arrivals, or more bursty; at the same rate."""
    gaps_s = np.diff(gamma_times(50.0, 400.0, variation, seed=0))
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(variation, rel=0.05)
    assert gaps_s.mean() == pytest.approx(0.02, rel=0.04)


def test_diurnal_rate_is_a_sine_with_its_peak_in_the_middle():
    """Of twelve parts, the first has a fifth of the mean rate, the middle 1.8 times the mean."""
    times_s = process_times("diurnal", 60.0, 600.0, seed=0)
    counts = np.histogram(times_s, bins=12, range=(0.0, 600.0))[0]
    edges = np.linspace(0.0, 2.0 * math.pi, 13)
    expected = 3000 * (1.0 - 0.8 * np.diff(np.sin(edges)) / np.diff(edges))
    assert expected[0] / 3000 == pytest.approx(0.235, abs=0.01)
    assert counts == pytest.approx(expected, rel=0.1)


def test_on_off_minutes_alternate_between_twice_the_mean_and_nothing():
    """The first minute is busy, the second has no request at all, and so on."""
    times_s = process_times("on-off", 10.0, 600.0, seed=0)
    counts = np.histogram(times_s, bins=10, range=(0.0, 600.0))[0]
    assert [0] * 5 == counts[1::2].tolist()
    assert counts[::2] == pytest.approx([1200] * 5, rel=0.1)


def test_spike_triples_the_rate_in_the_middle_fifth():
    """Three times the rate from 40 to 60 % of the run, one rate before and after."""
    times_s = process_times("spike", 70.0, 200.0, seed=0)
    counts = np.histogram(times_s, bins=10, range=(0.0, 200.0))[0]
    assert counts == pytest.approx([1000] * 4 + [3000] * 2 + [1000] * 4, rel=0.1)
    assert counts[4:6].mean() / counts[[*range(4), *range(6, 10)]].mean() == pytest.approx(
        3.0, rel=0.05
    )


def test_poisson_times_one_by_one_are_those_of_the_process():
    """A run of any length begins with the times of a shorter one."""
    times_s = process_times("poisson", 2.0, 50.0, seed=3)
    assert times_s == list(poisson_times(2.0, 50.0, seed=3))
    endless = poisson_times(2.0, math.inf, seed=3)
    assert times_s == list(itertools.islice(endless, len(times_s)))
    assert 50.0 <= next(endless)


@pytest.mark.parametrize(
    ("lengths", "mean_prompt", "mean_output"),
    [
        (AZURE_LENGTHS, 1155, 211),
        (ARXIV_LENGTHS, 2686, 186),
        (SHAREGPT_LENGTHS, 2340, 439),
        (CNN_LENGTHS, 781, 56),
    ],
    ids=["azure", "arxiv", "sharegpt", "cnn"],
)
def test_generated_backlog_has_the_mean_lengths_of_its_source(lengths, mean_prompt, mean_output):
    """All at time 0, lengths within the quantiles, means within 3 %."""
    backlog = generate_backlog(lengths, 10_000, seed=0)
    prompts = [item.prompt_tokens for item in backlog]
    outputs = [item.output_tokens for item in backlog]
    assert {0.0} == {item.time_s for item in backlog}
    assert np.mean(prompts) == pytest.approx(mean_prompt, rel=0.03)
    assert np.mean(outputs) == pytest.approx(mean_output, rel=0.03)
    for values, quantiles in ((prompts, lengths.prompt), (outputs, lengths.output)):
        assert 1 <= quantiles[0] <= min(values)
        assert max(values) <= quantiles[-1]
        assert np.median(values) == pytest.approx(quantiles[6], rel=0.05)


def test_generated_backlog_has_as_many_requests_as_asked_seeded():
    """Also none at all."""
    first, again, other = (generate_backlog(AZURE_LENGTHS, 50, seed) for seed in (1, 1, 2))
    assert 50 == len(first)
    assert first == again
    assert first != other
    assert [] == generate_backlog(AZURE_LENGTHS, 0, seed=1)
