# SPDX-License-Identifier: Apache-2.0
"""The figures of a simulated run: each says what its name says, from runs with known steps."""

import json

import numpy as np
import pytest

from hygen_vllm.lab.simulator.figures import (
    NUM_BINS,
    SHOWN,
    Latencies,
    slo_results,
    tokens_per_s,
    windows_of,
)
from hygen_vllm.lab.workloads.arrivals import Arrival
from hygen_vllm.slo import Slo
from tests.support.simulation import SimpleDevice, column, engine_of, figures, run_of

ASYNC = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


def busy_run(**options):
    """Return a run with both classes, several steps a bin and some idle time at its end."""
    engine = engine_of(SimpleDevice(step_s=0.2, token_s=0.005), max_num_seqs=4)
    online = [Arrival(1.5 * i, 20 + i, 1 + i % 9) for i in range(40)] + [Arrival(90.0, 20, 2)]
    offline = [Arrival(0.0, 50, 20)] * 12
    return run_of(engine, "online-first", online=online, offline=offline, **options)


@ASYNC
def test_tokens_are_counted_once_though_computed_twice(is_async):
    """A preempted request's prompt and first tokens are recomputed; they were served once."""
    limits = {"max_num_seqs": 1, "num_kv_blocks": 30, "max_num_batched_tokens": 16}
    engine = engine_of(is_async=is_async, **limits)
    online = [Arrival(8.5, 80, 1), Arrival(25.5, 80, 1)]
    run = run_of(engine, "online-first", online=online, offline=[Arrival(0.0, 80, 20)])
    computed = sum(column(run, "offline_prefill_tokens")) + sum(column(run, "offline_decodes"))
    assert computed > 80 + 20 + 60, "the cache kept nothing of it"
    assert 0 == min(column(run, "offline_tokens_done")), "nothing is taken back"
    result = figures(run)
    assert pytest.approx(100 / run.virtual_s) == result["offline"]["tokens_per_s"]
    assert pytest.approx(162 / run.virtual_s) == result["online"]["tokens_per_s"]
    assert pytest.approx(262 / run.virtual_s) == result["total_tokens_per_s"]
    assert (2, 1, run.log.num_steps) == (
        result["online"]["finished"],
        result["offline"]["finished"],
        result["steps"],
    )


def test_recomputed_tokens_are_those_computed_twice():
    """What was computed beyond what was served is what a preemption cost."""
    engine = engine_of(max_num_seqs=1, num_kv_blocks=30, max_num_batched_tokens=16)
    run = run_of(
        engine, "online-first", online=[Arrival(8.5, 80, 1)], offline=[Arrival(0.0, 80, 20)]
    )
    computed = sum(column(run, "offline_prefill_tokens")) + sum(column(run, "offline_decodes"))
    recomputed = figures(run)["details"]["recomputed_tokens"]
    assert 80 + 20 - 1 + recomputed == computed
    assert recomputed > 40


def test_tokens_are_told_by_tenant():
    """Two tenants in turn, one request at a time."""
    offline = [Arrival(0.0, 30, 2, tenant="a"), Arrival(0.0, 50, 20, tenant="b")]
    run = run_of(engine_of(max_num_seqs=1), "online-first", offline=offline)
    assert {"a": 32, "b": 70} == figures(run)["details"]["offline_tokens_by_tenant"]


def test_prompt_tokens_count_as_their_chunks_are_done():
    """Two chunks of a prompt, its first token with the second; then a token a step."""
    run = run_of(engine_of(), online=[Arrival(0.0, 100, 3)], offline=[Arrival(10.0, 30, 2)])
    assert [64, 37, 1, 1, 0, 0] == column(run, "online_tokens_done")
    assert [0, 0, 0, 0, 31, 1] == column(run, "offline_tokens_done")


def test_cached_prompt_tokens_count_as_served():
    """A client gets the same, whether they were computed or found."""
    shared = [Arrival(0.0, 64, 1), Arrival(2.0, 64, 1)]
    tokens = shared[0].token_ids(0)
    assert tokens != shared[1].token_ids(1)

    class Same:
        def token_ids(self, num_tokens, vocabulary):
            return tokens[:num_tokens]

    same = [Arrival(item.time_s, 64, 1, Same()) for item in shared]
    waits = Arrival(2.5, 64, 1)
    run = run_of(engine_of(), offline=[*same, waits], until_s=3.0)
    assert [64, 4] == column(run, "offline_prefill_tokens")
    assert [65, 65] == column(run, "offline_tokens_done")
    assert 60 / 128 == figures(run)["offline"]["prefix_hit_rate"], "of what has started"


def test_latencies_are_those_of_online_requests():
    """TTFT one sample a request, TBT one a token after the first; offline has neither."""
    run = run_of(
        engine_of(max_num_batched_tokens=128),
        online=[Arrival(0.0, 64, 3), Arrival(0.5, 64, 1)],
        offline=[Arrival(0.0, 10, 5)],
    )
    latencies = Latencies.of(run)
    assert [1.0, 1.5] == latencies.ttft_s.tolist()
    assert [1.0, 1.0] == latencies.tbt_s.tolist()
    assert not run.log.records["offline-0"].token_times_s
    result = figures(run)
    assert {"ttft_s": 2, "tbt_s": 2} == result["details"]["num_samples"]
    assert {"mean": 1.25, "p50": 1.25, "p90": 1.45, "p99": 1.495} == result["online"]["ttft_s"]
    assert dict.fromkeys(SHOWN, 1.0) == result["online"]["tbt_s"]


def test_figures_from_a_time_on_leave_out_what_began_before():
    """Of five steps of 1 s, the last three; of two requests, the one that came later."""
    run = run_of(
        engine_of(max_num_batched_tokens=128),
        online=[Arrival(0.0, 64, 5), Arrival(2.5, 64, 2)],
    )
    assert [1.0, 1.5] == Latencies.of(run).ttft_s.tolist()
    assert 5 == len(Latencies.of(run).tbt_s)
    late = Latencies.of(run, from_s=2.5)
    assert [1.5] == late.ttft_s.tolist()
    assert [1.0, 1.0, 1.0] == late.tbt_s.tolist()
    assert [65, 1, 1, 1 + 65, 2] == column(run, "online_tokens_done")
    assert (135 / 5, 69 / 2.5) == (tokens_per_s(run)[0], tokens_per_s(run, from_s=2.5)[0])


def test_unserved_online_requests_count_their_wait():
    """One slot for twenty seconds: the two that wait at the end make TTFT worse, not better."""
    online = [Arrival(0.0, 10, 100), Arrival(4.0, 10, 1), Arrival(15.0, 10, 1)]
    run = run_of(engine_of(max_num_seqs=1), online=online, until_s=20.0)
    assert [1.0, 16.0, 5.0] == Latencies.of(run).ttft_s.tolist()
    details = figures(run)["details"]
    assert (2, {"online": 3, "offline": 0}) == (details["unserved"], details["arrived"])


def test_quantiles_are_those_of_the_samples():
    """From the least to the largest, and the percentiles that stand beside them."""
    result = figures(busy_run())
    quantiles = result["details"]["quantiles"]
    levels = quantiles["levels"]
    assert (0.0, 1.0) == (levels[0], levels[-1])
    assert sorted(set(levels)) == levels
    for metric in ("ttft_s", "tbt_s"):
        values, stats = quantiles[metric], result["online"][metric]
        assert len(levels) == len(values)
        assert sorted(values) == values
        for level, name in ((0.5, "p50"), (0.9, "p90"), (0.99, "p99")):
            assert pytest.approx(stats[name]) == values[levels.index(level)]


def test_quantiles_of_no_samples_are_none():
    """An offline run has no latencies."""
    quantiles = figures(run_of(engine_of(), offline=[Arrival(0.0, 10, 2)]))["details"]["quantiles"]
    assert [] == quantiles["ttft_s"] == quantiles["tbt_s"]


def test_series_cover_the_run_and_sum_to_its_figures():
    """As many bins whatever the length; a rate times the width of its bin is what happened."""
    run = busy_run()
    result = figures(run)
    series = result["details"]["series"]
    width_s, samples = series.pop("bin_s"), series.pop("samples")
    assert {NUM_BINS} == {len(values) for values in series.values()}
    assert pytest.approx(run.virtual_s) == NUM_BINS * width_s
    assert pytest.approx([0.5 * width_s, run.virtual_s - 0.5 * width_s]) == [
        series["time_s"][0],
        series["time_s"][-1],
    ]
    assert pytest.approx(41) == width_s * sum(series["online_arrivals_per_s"])
    for name in ("online", "offline"):
        done = width_s * sum(series[f"{name}_tokens_per_s"])
        assert pytest.approx(result[name]["tokens_per_s"] * run.virtual_s) == done
    assert 1 == len({len(values) for values in samples.values() if isinstance(values, list)})
    assert min(np.diff(samples["time_s"])) >= 1.0


def test_series_have_none_where_nothing_was_measured():
    """A gap in the steps is no step of zero seconds."""
    run = run_of(engine_of(), online=[Arrival(0.0, 10, 1), Arrival(99.0, 10, 1)])
    series = figures(run)["details"]["series"]
    known = [(i, s) for i, s in enumerate(series["step_s"]) if s is not None]
    assert [(2, 1.0), (NUM_BINS - 1, 1.0)] == known
    assert {None} == set(series["limit_s"])


def test_limit_is_that_of_the_gate():
    """In a series, where offline work was asked for; the mode without a gate has none."""
    settings = {"mode": "fixed", "latency_budget_s": 1.25}
    for policy, expected in (("fixed-budget", 1.25), ("online-first", None)):
        given = settings if expected else None
        run = run_of(engine_of(), policy, offline=[Arrival(0.0, 10, 9)], settings=given)
        limits = set(figures(run)["details"]["series"]["limit_s"]) - {None}
        assert limits == ({expected} if expected else set())


def test_samples_show_the_state_of_the_engine():
    """Once a second: who waits, who runs, and the KV blocks of each class."""
    engine = engine_of(max_num_seqs=2, num_kv_blocks=101)
    run = run_of(
        engine,
        "online-first",
        online=[Arrival(2.5, 40, 4)],
        offline=[Arrival(0.0, 40, 20)] * 4,
        until_s=6.0,
    )
    samples = figures(run)["details"]["series"]["samples"]
    assert [1.0, 2.0, 3.0, 4.0, 5.0, 6.0] == samples["time_s"]
    assert [2, 2, 2, 3, 3, 3] == samples["offline_waiting"]
    assert [2, 2, 2, 1, 1, 1] == samples["offline_running"]
    assert [0, 0, 0, 1, 1, 1] == samples["online_running"]
    assert [0, 0, 0, 0, 0, 0] == samples["online_waiting"]
    assert [0, 0, 0, 1, 0, 0] == samples["preemptions"]
    assert [0.0, 0.0, 0.0, 0.1, 0.11, 0.11] == samples["online_kv_share"]
    assert 0.12 == samples["offline_kv_share"][-1]


def test_refusals_are_counted_by_reason():
    """One a step: while online work goes on, and while an offline request runs alone in its steps.

    Of each of the three that are four steps: 16, 16 and 8 tokens of the prompt, and a decode.
    """
    settings = {"mode": "fixed", "latency_budget_s": 0.5}
    run = run_of(
        engine_of(),
        "fixed-budget",
        online=[Arrival(0.0, 10, 20)],
        offline=[Arrival(0.0, 40, 2)] * 3,
        settings=settings,
    )
    refusals = figures(run)["details"]["series"]["samples"]["refusals"]
    assert ["latency"] == list(refusals)
    log = run.log.samples[-1].refusals
    assert 20 + 4 + 4 == log["latency"] == sum(refusals["latency"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tbt_p99=45ms", {"limit_s": 0.045, "measured_s": 0.04, "met": True}),
        ("tbt_p99=40ms", {"limit_s": 0.04, "measured_s": 0.04, "met": True}),
        ("tbt_p99=35ms", {"limit_s": 0.035, "measured_s": 0.04, "met": False}),
        ("tbt_mean=+25%", {"limit_s": 0.020, "measured_s": 0.02, "met": True}),
        ("tbt_mean=+24%", {"limit_s": 0.01984, "measured_s": 0.02, "met": False}),
        ("ttft_p50=1000ms", {"limit_s": 1.0, "measured_s": None, "met": None}),
        ("ttft_p50=+5%", {"limit_s": None, "measured_s": None, "met": None}),
    ],
)
def test_slo_is_met_failed_or_unknown(text, expected):
    """Its limit is met if the statistic reaches it and no more; nothing measured is no answer."""
    served = latencies(tbt_s=[0.01] * 50 + [1.42 / 48] * 48 + [0.04] * 2)
    alone = latencies(tbt_s=[0.016] * 9)
    (row,) = slo_results([Slo.parse(text)], served, alone, end_s=100.0)
    assert text == row.pop("slo")
    assert 0 == row.pop("windows")["count"], "the run is shorter than a window"
    assert {name: pytest.approx(value) for name, value in expected.items()} == row


def latencies(ttft_s=(), tbt_s=(), num_unserved=0, at_s=None):
    """Return latencies with samples at these times, all at 0 if none are given."""
    times = [np.zeros(len(some)) if at_s is None else np.array(at_s) for some in (ttft_s, tbt_s)]
    return Latencies(np.array(ttft_s), np.array(tbt_s), num_unserved, *times)


def test_slo_of_a_tbt_nobody_got_tokens_for_is_not_met():
    """All requests were still waiting: that is a failure, but without a limit it is unknown."""
    slos = [Slo.parse(text) for text in ("tbt_p99=45ms", "tbt_p99=+5%", "ttft_p99=10s")]
    for num_unserved, of_tbt in ((7, False), (0, None)):
        rows = slo_results(slos, latencies([9.0], num_unserved=num_unserved), None, end_s=9.0)
        assert [of_tbt, None, True] == [row["met"] for row in rows]


def windows(text, served_s, alone_s=None, num_samples=10):
    """Return the windows of an SLO; one latency a minute, `num_samples` of each."""

    def of_minutes(latencies_s):
        at_s = np.repeat(60.0 * np.arange(len(latencies_s)) + 1.0, num_samples)
        return latencies(tbt_s=np.repeat(latencies_s, num_samples), at_s=at_s)

    alone = None if alone_s is None else of_minutes(alone_s)
    end_s = 60.0 * len(served_s)
    return windows_of(Slo.parse(text), of_minutes(served_s), alone, end_s)


def test_windows_see_what_the_mean_of_a_run_hides():
    """Half an hour at half the limit does not pay for a quarter of an hour at 1.5 times it."""
    hour = [0.5] * 30 + [1.5] * 15 + [0.5] * 15
    assert pytest.approx(0.75) == np.mean(hour)
    found = windows("tbt_mean=1s", hour)
    assert (900.0, 46, pytest.approx(1.5)) == (
        *(found[name] for name in ("length_s", "count", "worst_of_limit")),
    )
    minutes_above = [min(15 - abs(30 - first), 15) for first in range(46)]
    assert sum(0.5 + max(0, n) / 15 <= 1.02 for n in minutes_above) == found["kept"]


def test_limit_of_a_window_is_that_of_online_alone_in_it():
    """Latencies that follow those of the load alone are kept everywhere, absolute ones are not."""
    alone_s = [0.1] * 30 + [0.4] * 30
    served_s = [1.1 * each for each in alone_s]
    found = windows("tbt_mean=+10%", served_s, alone_s)
    assert (46, 46, pytest.approx(1.0)) == (
        *(found[name] for name in ("count", "kept", "worst_of_limit")),
    )
    assert 0 == windows("tbt_mean=+5%", served_s, alone_s)["kept"]
    assert 0 == windows("tbt_mean=+10%", served_s)["count"], "nothing is known of it alone"


def test_window_with_few_samples_says_nothing():
    """A percentile needs some samples beyond it, which a mean can do without."""
    hour = [1.0] * 60
    assert 46 == windows("tbt_mean=1s", hour, num_samples=2)["count"]
    assert 0 == windows("tbt_mean=1s", hour, num_samples=1)["count"]
    assert 0 == windows("tbt_p99=1s", hour, num_samples=19)["count"]
    assert 46 == windows("tbt_p99=1s", hour, num_samples=20)["count"]


def test_result_is_plain_json():
    """No NaN or infinity, no types of other libraries."""
    for result in (figures(busy_run(until_s=30.0)), figures(run_of(engine_of()))):
        assert result == json.loads(json.dumps(result, allow_nan=False))


def test_steps_follow_the_requests_of_a_run():
    """The steps kept of a run are all of them, in order, with what was in them."""
    run = busy_run()
    steps = run.log.steps()
    assert run.log.num_steps == len(steps)
    assert np.all(steps[1:, 0] >= steps[:-1, 1] - 1e-9)
    tokens = sum(
        sum(column(run, f"{c}_{k}"))
        for c in ("online", "offline")
        for k in ("decodes", "prefill_tokens")
    )
    durations = np.array(column(run, "ends_s")) - column(run, "begins_s")
    assert pytest.approx(0.2 * len(steps) + 0.005 * tokens) == durations.sum()
