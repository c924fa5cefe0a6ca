# SPDX-License-Identifier: Apache-2.0
"""LatencyWindow: percentiles to a percent, exact means, and samples that are forgotten in time."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hygen_vllm.targets.latency_window import BIN_RATIO, LEAST_S, MOST_S, NUM_BLOCKS, LatencyWindow

LAW = settings(derandomize=True, deadline=None, max_examples=60)
LATENCIES = st.floats(2 * LEAST_S, 0.9 * MOST_S)
SAMPLES = st.lists(LATENCIES, min_size=1, max_size=40)
CLOSE = 1.000001


def _window(*latencies_s: float) -> LatencyWindow:
    """Return a window with samples of one time."""
    window = LatencyWindow(window_s=10.0)
    for latency_s in latencies_s:
        window.add(latency_s, 1, now_s=3.0)
    return window


def _edge_s(place: float) -> float:
    """Return the latency that lies so many bins above the least one."""
    return LEAST_S * BIN_RATIO**place


def _share_above(window: LatencyWindow, latency_s: float) -> float:
    blocks = [*window.latest_blocks()]
    return sum(block.count_above(latency_s) for block in blocks) / max(1, window.num_samples)


def _is_in_the_bin_of(latency_s: float, sample_s: float) -> bool:
    return sample_s / BIN_RATIO / CLOSE <= latency_s <= sample_s * BIN_RATIO * CLOSE


def test_window_without_samples_knows_nothing() -> None:
    """No statistic is made up."""
    window = LatencyWindow(10.0)
    assert (0.0, None) == (window.num_samples, window.mean_s)
    assert [None, None, None] == [window.percentile_s(share) for share in (0.0, 0.5, 1.0)]
    assert 0.0 == _share_above(window, 0.1)


@pytest.mark.parametrize("latency_s", [1.1e-5, 3e-4, 0.02, 1.0, 77.0, 9e3])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99, 1.0])
def test_percentile_of_one_sample_is_the_sample_to_a_percent(
    latency_s: float, share: float
) -> None:
    """However long it is and whatever share is asked for."""
    percentile_s = _window(latency_s).percentile_s(share)
    assert percentile_s is not None
    assert _is_in_the_bin_of(percentile_s, latency_s)


@pytest.mark.parametrize("latency_s", [LEAST_S, 1.1e-5, 0.02, 77.0, 0.99 * MOST_S, MOST_S])
def test_sample_lies_between_its_least_and_its_largest_percentile(latency_s: float) -> None:
    """These are the ends of its bin."""
    window = _window(latency_s)
    low_s, high_s = window.percentile_s(0.0), window.percentile_s(1.0)
    assert low_s is not None
    assert high_s is not None
    assert low_s <= latency_s <= high_s


@LAW
@given(SAMPLES, st.integers(1, 40))
def test_percentile_of_samples_is_the_one_of_that_rank_to_a_percent(
    samples_s: list[float], rank: int
) -> None:
    """A share between two ranks gives the upper one."""
    rank = min(rank, len(samples_s))
    percentile_s = _window(*samples_s).percentile_s((rank - 0.5) / len(samples_s))
    assert percentile_s is not None
    assert _is_in_the_bin_of(percentile_s, sorted(samples_s)[rank - 1])


@LAW
@given(SAMPLES, st.floats(0, 0.999), st.floats(0, 0.999))
def test_percentile_of_a_larger_share_is_not_smaller(
    samples_s: list[float], share: float, other: float
) -> None:
    """Percentiles rise with the share."""
    window = _window(*samples_s)
    low_s, high_s = (window.percentile_s(each) for each in sorted((share, other)))
    assert low_s is not None
    assert high_s is not None
    assert low_s <= high_s


@pytest.mark.parametrize(("count", "expected_s"), [(50, 2.0), (99, 2.0), (102, 0.1), (300, 0.1)])
def test_p99_of_fewer_than_a_hundred_is_the_largest(count: int, expected_s: float) -> None:
    """One late sample is beyond P99 only where there are more than a hundred."""
    window = _window(*[0.1] * (count - 1), 2.0)
    percentile_s = window.percentile_s(0.99)
    assert percentile_s is not None
    assert _is_in_the_bin_of(percentile_s, expected_s)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.75, 1.0])
def test_percentile_inside_a_bin_is_interpolated(share: float) -> None:
    """A quarter of the samples of one bin lies in the first quarter of it."""
    window = _window(*[_edge_s(99.5)] * 4)
    assert pytest.approx(_edge_s(99 + share)) == window.percentile_s(share)


def test_percentile_between_two_bins_is_interpolated_in_the_upper_one() -> None:
    """Of one sample below and four above, 60% is half of the way through the four."""
    window = _window(_edge_s(50.5), *[_edge_s(99.5)] * 4)
    assert pytest.approx(_edge_s(99.5)) == window.percentile_s(0.6)


def test_percentile_zero_is_the_smallest_sample() -> None:
    """Empty bins below the first sample count for nothing."""
    assert pytest.approx(_edge_s(99)) == _window(_edge_s(99.5), 1.0).percentile_s(0.0)


@pytest.mark.parametrize("latency_s", [0.0, LEAST_S / 2, LEAST_S])
def test_latency_up_to_the_least_is_between_zero_and_the_least(latency_s: float) -> None:
    """What is too short to be told apart is in a bin that begins at zero."""
    window = _window(latency_s)
    assert 0.0 == window.percentile_s(0.0)
    assert pytest.approx(LEAST_S / 2) == window.percentile_s(0.5)
    assert 0.0 == _share_above(window, 2 * LEAST_S)
    assert latency_s == window.mean_s


def test_latency_just_above_the_least_is_not_below_it() -> None:
    """The first bin of one percent begins at the least latency."""
    window = _window(LEAST_S * 1.005)
    assert pytest.approx(LEAST_S) == window.percentile_s(0.0)
    assert pytest.approx(LEAST_S * BIN_RATIO) == window.percentile_s(1.0)


@pytest.mark.parametrize("latency_s", [MOST_S, 10 * MOST_S, 1e9])
def test_latency_beyond_the_most_counts_as_the_most(latency_s: float) -> None:
    """A percentile is capped where the bins end; the mean is not."""
    window = _window(0.1, latency_s, latency_s)
    percentile_s = window.percentile_s(0.9)
    assert percentile_s is not None
    assert _is_in_the_bin_of(percentile_s, MOST_S)
    assert pytest.approx(2 / 3) == _share_above(window, 0.9 * MOST_S)
    assert (0.1 + 2 * latency_s) / 3 == pytest.approx(window.mean_s)


def test_share_above_a_latency_beyond_the_most_without_such_samples_is_zero() -> None:
    """Nothing is above the last bin."""
    assert 0.0 == _share_above(_window(0.1, 1.0), 100 * MOST_S)


@pytest.mark.parametrize(
    ("latency_s", "expected"), [(0.01, 1.0), (0.15, 0.75), (0.3, 0.5), (1.0, 0.25), (5.0, 0.0)]
)
def test_share_above_a_latency_counts_the_larger_samples(latency_s: float, expected: float) -> None:
    """Between the bins of the samples it is exact."""
    assert expected == _share_above(_window(0.1, 0.2, 0.5, 2.0), latency_s)


@pytest.mark.parametrize(("place", "expected"), [(99.0, 0.8), (99.25, 0.65), (99.75, 0.35)])
def test_share_above_a_latency_inside_a_bin_is_interpolated(place: float, expected: float) -> None:
    """Three quarters of a bin lie above its first quarter."""
    window = _window(_edge_s(20.5), _edge_s(120.5), *[_edge_s(99.5)] * 3)
    assert pytest.approx(expected) == _share_above(window, _edge_s(place) * (1 + 1e-12))


@LAW
@given(SAMPLES, st.floats(0.01, 0.99))
def test_share_above_a_percentile_is_the_rest(samples_s: list[float], share: float) -> None:
    """The two are inverse, but for a percentile at the very edge of a bin."""
    window = _window(*samples_s)
    percentile_s = window.percentile_s(share)
    assert percentile_s is not None
    low = _share_above(window, percentile_s * CLOSE)
    high = _share_above(window, percentile_s / CLOSE)
    assert low - 1e-9 <= 1 - share <= high + 1e-9
    assert high - low < 1e-3


@LAW
@given(st.lists(st.tuples(LATENCIES, st.integers(1, 9)), min_size=1, max_size=9))
def test_samples_added_at_once_are_those_added_one_by_one(some: list[tuple[float, int]]) -> None:
    """A count is so many samples."""
    at_once, apart = LatencyWindow(10.0), LatencyWindow(10.0)
    for latency_s, count in some:
        at_once.add(latency_s, count, 5.0)
        for _ in range(count):
            apart.add(latency_s, 1, 5.0)
    assert pytest.approx(apart.num_samples) == at_once.num_samples
    assert pytest.approx(apart.num_samples) == sum(count for _, count in some)
    assert pytest.approx(apart.mean_s) == at_once.mean_s
    assert pytest.approx(apart.percentile_s(0.501)) == at_once.percentile_s(0.501)


def test_sample_older_than_the_window_is_forgotten() -> None:
    """To a thirtieth of its length, and not before."""
    window = LatencyWindow(window_s=30.0)
    for now_s in (100.5, 115.5, 130.4):
        window.add(1.0, 2, now_s)
    assert 6 == window.num_samples
    window.add(2.0, 1, now_s=131.5)
    assert (5, pytest.approx(6 / 5)) == (window.num_samples, window.mean_s)
    window.add(2.0, 1, now_s=1e6)
    assert (1, 2.0, 0.0, 1.0) == (
        window.num_samples,
        window.mean_s,
        _share_above(window, 2.5),
        _share_above(window, 1.5),
    )
    assert (8, 10.0) == (window.total_count, window.total_s), "but not in the totals"


def test_samples_stay_while_there_are_few() -> None:
    """Blocks go only if as many are left as have to be."""
    window = LatencyWindow(window_s=30.0, least=3)
    for number, now_s in enumerate((10.0, 50.0, 90.0, 130.0)):
        window.add(1.0 + number, 1, now_s)
    assert (3, 3.0) == (window.num_samples, window.mean_s)
    window.add(9.0, 3, now_s=130.5)
    window.add(9.0, 1, now_s=170.0)
    assert 5 == window.num_samples, "those of 130 s and 170 s"


def test_time_without_samples_changes_nothing() -> None:
    """Nobody measured anything."""
    window = _window(0.1, 0.2)
    before = (window.num_samples, window.mean_s, window.percentile_s(0.9))
    assert before == (window.num_samples, window.mean_s, window.percentile_s(0.9))
    assert 2 == window.num_samples


GAPS = st.sampled_from((0.0, 0.5, 3.0, 29.0, 31.0, 70.0, 600.0)) | st.floats(0, 40)


@LAW
@given(st.lists(st.tuples(GAPS, st.sampled_from((0.01, 0.5, 3.0))), min_size=1, max_size=40))
def test_statistics_after_any_times_are_those_of_the_samples_that_are_left(
    some: list[tuple[float, float]],
) -> None:
    """Whatever was forgotten leaves nothing behind, and the blocks add up to the window."""
    window, now_s, added = LatencyWindow(window_s=60.0), 1000.0, []
    for gap_s, latency_s in some:
        now_s += gap_s
        added.append((now_s, latency_s))
        window.add(latency_s, 1, now_s)
    first = int(now_s // 2.0) - NUM_BLOCKS
    left = [latency_s for at_s, latency_s in added if int(at_s // 2.0) >= first]
    assert len(left) == window.num_samples
    assert pytest.approx(math.fsum(left) / len(left)) == window.mean_s
    above = sum(latency_s > 0.1 for latency_s in left)
    assert pytest.approx(above / len(left)) == _share_above(window, 0.1)
    blocks = [*window.latest_blocks()]
    assert [block.number for block in blocks] == sorted((b.number for b in blocks), reverse=True)
    assert len(left) == sum(block.count for block in blocks)
    assert pytest.approx(math.fsum(left)) == sum(block.sum_s for block in blocks)
    assert pytest.approx(above) == sum(block.count_above(0.1) for block in blocks)
