# SPDX-License-Identifier: Apache-2.0
"""Offline work that is there only in stretches of time: withdrawn in between, and never lost."""

import json
import math

import pytest

from hygen_vllm.lab.cli import main
from hygen_vllm.lab.simulator.options import SimulateOptions, breaks_between
from hygen_vllm.lab.workloads.arrivals import Arrival
from tests.support.simulation import (
    SETTINGS,
    column,
    engine_of,
    figures,
    is_whole,
    run_of,
    simulate_command,
    simulate_flags,
)

ASYNC = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


def offline_steps(run):
    """Return when the steps with offline work began."""
    tokens = zip(
        column(run, "begins_s"),
        column(run, "offline_decodes"),
        column(run, "offline_prefill_tokens"),
        strict=True,
    )
    return [begins_s for begins_s, decodes, prefill in tokens if decodes + prefill]


@ASYNC
@pytest.mark.parametrize("policy", [p for p in SETTINGS if p != "online-only"])
def test_no_offline_work_in_breaks(policy, is_async):
    """With every policy: none before, between and after the stretches, some in each of them."""
    engine = engine_of(is_async=is_async, max_num_seqs=4)
    online = [] if policy == "offline-only" else [Arrival(5.0 * i, 20, 4) for i in range(40)]
    offline = [Arrival(0.0, 30, 10)] * 200
    breaks = [(0.0, 20.0), (50.0, 90.0), (130.0, math.inf)]
    run = run_of(engine, policy, online=online, offline=offline, breaks=breaks, until_s=200.0)
    begins = offline_steps(run)
    slack_s = 2.0  # steps in flight, of one second
    for from_s, until_s in breaks:
        assert not [s for s in begins if from_s + slack_s < s < until_s], (from_s, until_s)
    for from_s, until_s in [(20.0, 50.0), (90.0, 130.0)]:
        assert len([s for s in begins if from_s <= s <= until_s]) >= 15
    assert 200 == figures(run)["details"]["arrived"]["offline"]


@ASYNC
def test_what_is_withdrawn_comes_again_and_is_served_whole(is_async):
    """Interrupted twice; in the end each request has been served with all its tokens once."""
    offline = [Arrival(0.0, 30, 10)] * 20
    engine = engine_of(is_async=is_async, max_num_seqs=4)
    breaks = [(7.0, 20.0), (31.0, 60.0)]
    run = run_of(engine, "slo", offline=offline, breaks=breaks)
    records = run.log.records.values()
    assert 20 == sum(map(is_whole, records)) == figures(run)["offline"]["finished"]
    assert all(is_whole(record) or record.is_withdrawn for record in records)
    assert run.log.num_withdrawn == run.log.num_came_again > 20


def test_request_of_a_break_comes_at_its_end():
    """An idle engine goes on when the break is over."""
    run = run_of(engine_of(), "slo", offline=[Arrival(5.0, 10, 2)], breaks=[(3.0, 40.0)])
    (record,) = run.log.records.values()
    assert (40.0, 42.0) == (record.arrival.time_s, record.finished_s)


def test_run_ends_where_no_stretch_follows():
    """What was withdrawn for good is nothing to wait for."""
    run = run_of(engine_of(), "slo", offline=[Arrival(0.0, 10, 9)], breaks=[(3.0, math.inf)])
    assert 3.0 <= run.virtual_s <= 4.0
    assert 0 == run.log.num_finished


@pytest.mark.parametrize(
    ("starts", "ends", "breaks"),
    [
        ([], [], []),
        ([], [60], [(60, math.inf)]),
        ([60], [], [(0, 60)]),
        ([0, 90], [60, 120], [(60, 90), (120, math.inf)]),
        ([10, 90], [60], [(0, 10), (60, 90)]),
    ],
)
def test_breaks_lie_around_stretches(starts, ends, breaks):
    """The first stretch begins at once, and the last one lasts, unless something else is said."""
    options = SimulateOptions("p", "slo", offline_from=starts, offline_until=ends)
    assert breaks == breaks_between(options.offline_stretches)


@pytest.mark.parametrize(
    ("starts", "ends", "reason"),
    [
        ([10], [5], "must rise in turn, got 10 5"),
        ([10], [10], "must rise in turn, got 10 10"),
        ([0, 20], [30, 40], "must rise in turn, got 0 30 20 40"),
        ([], [30, 40], "in pairs (the last until may be left out), got 0 and 2"),
        ([0, 20, 40], [10], "in pairs (the last until may be left out), got 3 and 1"),
    ],
)
def test_stretches_that_make_no_sense_are_refused(starts, ends, reason):
    """In one line with what was given."""
    options = SimulateOptions("p", "slo", offline_from=starts, offline_until=ends)
    with pytest.raises(ValueError, match="--offline-from") as error:
        _ = options.offline_stretches
    assert reason in str(error.value)


def test_stretches_on_the_command_line(tmp_path, capsys):
    """Half of the time: some of the work, with windows in the result; several engines refuse."""
    flags = [*simulate_flags(tmp_path), "--seconds", "60", "--slo", "tbt_mean=+20%"]
    stretches = "--offline-from 0.5 --offline-until 1 --offline-from 59.5".split()  # noqa: SIM905
    assert 0 == main(simulate_command(flags))
    always = json.loads(capsys.readouterr().out)
    assert 0 == main(simulate_command(flags, *stretches))
    result = json.loads(capsys.readouterr().out)
    assert 0 < result["offline"]["tokens_per_s"] < always["offline"]["tokens_per_s"]
    (row,) = result["slo"]
    assert {"length_s", "count", "kept", "worst_of_limit"} == set(row["windows"])
    assert 2 == main(simulate_command(flags, *stretches, "--replicas", "2"))
    assert "--offline-from and --offline-until need one engine" in capsys.readouterr().err
