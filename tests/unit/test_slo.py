# SPDX-License-Identifier: Apache-2.0
"""SLOs as text, their limits in seconds, and the statistics they are about."""

import itertools

import pytest

from hygen_vllm.slo import METRICS, STATISTICS, LatencyStats, Slo

ALONE = LatencyStats(mean=0.020, p50=0.015, p90=0.030, p95=0.035, p99=0.040)


@pytest.mark.parametrize("name", [*itertools.product(METRICS, STATISTICS)], ids="_".join)
@pytest.mark.parametrize(
    ("limit", "limit_s", "rise"),
    [("45ms", 0.045, None), ("0.5s", 0.5, None), ("12.5ms", 0.0125, None), ("+5%", None, 0.05)],
)
def test_slo_of_every_metric_and_statistic_is_parsed(name, limit, limit_s, rise):
    """A text is a metric, a statistic, and milliseconds, seconds or a share to rise by."""
    slo = Slo.parse(f"{'_'.join(name)}={limit}")
    assert name == (slo.metric, slo.statistic)
    assert (limit_s, rise) == (pytest.approx(slo.limit_s), pytest.approx(slo.rise))


@pytest.mark.parametrize(
    "text",
    [
        *("", "tbt", "tbt_p99", "tbt_p99=", "tbt_p99=45", "tbt_p99=ms", "tbt_p99=45m"),
        *("tbt_p99=-45ms", "tbt_p99=5%", "tbt_p99=+5", "tbt_p99=+5ms", "tbt_p99=-5%"),
        *("tbt_p75=45ms", "tbt_max=45ms", "itl_p99=45ms", "TBT_P99=45ms", "p99_tbt=45ms"),
        *("tbt_p99 = 45ms", " tbt_p99=45ms", "tbt_p99=45ms\n", "tbt_p99=45ms,ttft_p99=1s"),
        *("tbt_p99=1e3ms", "tbt_p99=.5s", "tbt_p99=5.s", "tbt_p99=nans", "tbt_p99=infs"),
    ],
)
def test_text_that_is_no_slo_is_refused_in_one_line(text):
    """The line says what an SLO looks like, and what was given instead."""
    with pytest.raises(ValueError, match="an SLO is METRIC_STATISTIC=LIMIT") as caught:
        Slo.parse(text)
    line = str(caught.value)
    assert line.endswith(f"got {text!r}")
    assert "\n" not in line
    assert all(word in line for word in (*METRICS, *STATISTICS, "45ms", "0.5s", "+5%"))


@pytest.mark.parametrize(
    "text", ["tbt_p99=0ms", "ttft_mean=0.0s", f"tbt_p99={'9' * 400}s", f"tbt_p99=+{'9' * 400}%"]
)
def test_limit_that_is_no_time_is_refused_in_one_line(text):
    """Nothing can be met within 0 s, and nothing can fail within for ever."""
    with pytest.raises(ValueError, match="the limit of an SLO must be > 0 and finite") as caught:
        Slo.parse(text)
    assert "\n" not in str(caught.value)


def test_rise_may_be_zero():
    """The online class as fast as alone is a target."""
    slo = Slo.parse("tbt_mean=+0%")
    assert (0.0, 0.020) == (slo.rise, slo.resolved_s(ALONE))


@pytest.mark.parametrize(
    "text",
    [
        *("tbt_p99=45ms", "ttft_mean=+10%", "tbt_p50=0.25ms", "ttft_p90=2500ms", "tbt_mean=+0%"),
        *("ttft_p99=1000000ms", "tbt_p99=45.123456ms", "tbt_p50=0.00001ms", "ttft_p50=+12.25%"),
        *("tbt_p99=+5000000%", "tbt_mean=0.1ms", "tbt_mean=+0.1%"),
    ],
)
def test_slo_as_text_is_parsed_as_the_same(text):
    """A result file says which SLOs were asked for, in words that can be asked for again."""
    assert text == str(Slo.parse(text))


def test_slo_in_seconds_is_written_in_milliseconds():
    """One unit in all results."""
    assert "ttft_p99=500ms" == str(Slo.parse("ttft_p99=0.5s"))


@pytest.mark.parametrize("statistic", STATISTICS)
def test_relative_slo_is_resolved_against_its_statistic(statistic):
    """A share is added to the same statistic of the online load alone."""
    slo = Slo("tbt", statistic, rise=0.1)
    assert pytest.approx(1.1 * getattr(ALONE, statistic)) == slo.resolved_s(ALONE)


def test_relative_slo_without_a_measurement_has_no_limit():
    """Neither a metric that was not measured nor one without samples gives a limit."""
    slo = Slo.parse("tbt_mean=+5%")
    assert slo.resolved_s(None) is None
    assert slo.resolved_s(LatencyStats.of([])) is None


def test_absolute_slo_needs_no_measurement():
    """Its limit is what it says, whatever was measured."""
    slo = Slo.parse("tbt_p99=45ms")
    assert 0.045 == slo.resolved_s(None) == slo.resolved_s(ALONE)


def test_statistics_of_known_samples():
    """Percentiles interpolate between the samples next to them."""
    samples_s = [float(i) for i in range(101)]
    assert LatencyStats(50.0, 50.0, 90.0, 95.0, 99.0) == LatencyStats.of(samples_s[::-1])
    assert LatencyStats(2.0, 1.0, 4.2, 4.6, 4.92) == LatencyStats.of([5.0, 0.0, 1.0])
    assert LatencyStats(3.0, 3.0, 3.0, 3.0, 3.0) == LatencyStats.of([3.0])


def test_statistics_of_no_samples_are_none():
    """There is no latency of nothing."""
    assert LatencyStats(None, None, None, None, None) == LatencyStats.of([])


def test_measured_over_limit_is_known_where_both_are():
    """Absolute limits need nothing of online alone."""
    alone, nobody = {"tbt": ALONE, "ttft": ALONE}, LatencyStats.of([])
    stats = {"tbt": LatencyStats(0.03, 0.03, 0.03, 0.03, 0.09), "ttft": nobody}
    assert pytest.approx(0.09 / 0.044) == Slo.parse("tbt_p99=+10%").of_limit(stats, alone)
    assert 2.0 == Slo.parse("tbt_p99=45ms").of_limit(stats, {})
    assert Slo.parse("ttft_p99=45ms").of_limit(stats, alone) is None
    assert Slo.parse("tbt_mean=+10%").of_limit(stats, {"tbt": nobody}) is None
    assert Slo.parse("tbt_mean=+10%").of_limit(stats, {}) is None
