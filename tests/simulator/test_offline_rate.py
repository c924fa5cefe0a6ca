# SPDX-License-Identifier: Apache-2.0
"""The cap on how many offline requests start a second."""

import random

import pytest

from hygen_vllm.lab.rate_capped import OfflineRate


def starts(rate, times_s, wanted=100):
    """Return how many start at each time if `wanted` always could."""
    counts = []
    for now_s in times_s:
        counts.append(min(wanted, rate.num_ready(now_s)))
        rate.count(counts[-1])
    return counts


def every(gap_s, until_s, first_s=0.0):
    return [first_s + gap_s * i for i in range(round(until_s / gap_s) + 1)]


@pytest.mark.parametrize("rate_per_s", [2.5, 8.0, 40.0])
@pytest.mark.parametrize("gap_s", [0.013, 0.1])
def test_rate_is_reached_over_time(rate_per_s, gap_s):
    """As many start as the rate says, beside the one that may start at once."""
    counts = starts(OfflineRate(rate_per_s, 7.0), every(gap_s, 1000.0, first_s=7.0))
    assert pytest.approx(1 + 1000.0 * rate_per_s, abs=1.5) == sum(counts)


@pytest.mark.parametrize("rate_per_s", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("gap_s", [0.013, 0.1])
def test_rate_up_to_one_is_reached_but_for_the_time_of_a_step(rate_per_s, gap_s):
    """A bucket of one request is full until somebody asks: a gap a start is lost at most."""
    counts = starts(OfflineRate(rate_per_s, 7.0), every(gap_s, 1000.0, first_s=7.0))
    assert 1000.0 / (1.0 / rate_per_s + gap_s) <= sum(counts) <= 1 + 1000.0 * rate_per_s + 1e-6


@pytest.mark.parametrize("rate_per_s", [0.4, 3.0, 7.5])
def test_starts_of_any_stretch_of_time_are_bounded(rate_per_s):
    """In t seconds start at most the rate times t, and what one second saves, whoever asks when."""
    rng = random.Random(3)
    times_s = sorted(rng.uniform(0.0, 60.0) for _ in range(400))
    rate = OfflineRate(rate_per_s, 0.0)
    counts = [starts(rate, [now_s], wanted=rng.choice([0, 1, 9]))[0] for now_s in times_s]
    for first in range(0, 400, 7):
        for last in range(first, 400, 11):
            most = rate_per_s * (times_s[last] - times_s[first]) + max(1.0, rate_per_s)
            assert sum(counts[first : last + 1]) <= most + 1e-6


def test_burst_is_one_seconds_worth_at_most():
    """However long nobody wanted to start, a second's worth is saved and no more."""
    rate = OfflineRate(5.0, 0.0)
    assert [5, 0, 1] == starts(rate, [3600.0, 3600.0, 3600.2])


@pytest.mark.parametrize("rate_per_s", [0.1, 1.0, 8.0])
def test_first_request_may_start_at_once(rate_per_s):
    """An engine that just started has saved one start, not a burst of them."""
    assert [1, 0] == starts(OfflineRate(rate_per_s, 50.0), [50.0, 50.0])


def test_rate_below_one_saves_one_start():
    """One request every ten seconds, also after an hour without any."""
    rate = OfflineRate(0.1, 0.0)
    assert [1, 0, 0, 1, 0] == starts(rate, [0.0, 5.0, 9.9, 10.0, 19.0])
    assert [1, 0, 1] == starts(rate, [3600.0, 3605.0, 3610.0])


def test_asking_takes_nothing():
    """Only what started counts, so a step in which none did costs none."""
    rate = OfflineRate(2.0, 0.0)
    assert [1, 2, 2, 2] == [rate.num_ready(now_s) for now_s in (0.0, 0.5, 1.0, 1.0)]
    rate.count(1)
    assert 1 == rate.num_ready(1.0)


def test_clock_that_goes_back_adds_nothing():
    """Time is counted from where the clock went back to, and never twice before that."""
    rate = OfflineRate(1.0, 1000.0)
    assert [1, 0, 0, 0, 1] == starts(rate, [1000.0, 1000.5, 0.0, 0.4, 0.9])


def test_rate_counts_whole_requests_despite_rounding():
    """Ten tenths of a second at one a second are one request."""
    rate = OfflineRate(1.0, 0.0)
    assert [1, *[0] * 9, 1] == starts(rate, every(0.1, 1.0))
