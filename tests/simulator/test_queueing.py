# SPDX-License-Identifier: Apache-2.0
"""Simulated waits are those of queues that can be computed by hand. Steps have constant lengths."""

import math
import random
from itertools import pairwise

import numpy as np
import pytest

from hygen_vllm.lab.workloads.arrivals import Arrival
from tests.support.simulation import (
    DeviceOf,
    SimpleDevice,
    engine_of,
    figures,
    run_of,
    ttft_s,
)

ONLINE_TOKENS = 60
"""Prompt of an online request; offline ones stay below, so that a device can tell them apart."""


def poisson_times_s(rate_per_s, count, seed):
    """Return the times of a Poisson process.

    Its gaps are the quantiles of their distribution in random order: as random as any, but with the
    right mean, so that fewer of them do.
    """
    shares = (np.arange(count) + 0.5) / count
    gaps_s = (-np.log(shares) / rate_per_s).tolist()
    random.Random(seed).shuffle(gaps_s)
    return np.cumsum(gaps_s).tolist()


def online_of(run):
    return [record for record in run.log.records.values() if not record.is_offline]


def online_waits_s(run, service_s):
    """Return how long each online request that was served waited for its only step to begin."""
    return [ttft_s(r) - service_s for r in online_of(run) if r.finished_s is not None]


def md1_wait_s(rho, service_s):
    """Return the mean wait of M/D/1 (Pollaczek-Khinchine)."""
    return rho * service_s / (2.0 * (1.0 - rho))


def has_online(work):
    return any(new_tokens == ONLINE_TOKENS for new_tokens, _ in work.chunks)


@pytest.mark.parametrize(
    ("rho", "policy"), [(0.3, "online-only"), (0.6, "online-first"), (0.8, "vllm-fcfs")]
)
def test_one_slot_and_steps_of_one_length_are_the_queue_m_d_1(rho, policy):
    """Each request waits as Lindley's recursion says, and all of them as Pollaczek-Khinchine's."""
    service_s = 0.02
    times_s = poisson_times_s(rho / service_s, 8000, seed=18)
    engine = engine_of(SimpleDevice(service_s), max_num_seqs=1)
    run = run_of(engine, policy, online=[Arrival(time_s, 4, 1) for time_s in times_s])
    waits_s = online_waits_s(run, service_s)
    expected_s = [0.0]
    for before_s, time_s in pairwise(times_s):
        expected_s.append(max(0.0, expected_s[-1] + service_s - (time_s - before_s)))
    assert np.abs(np.array(waits_s) - expected_s).max() < 1e-6
    assert pytest.approx(md1_wait_s(rho, service_s), rel=0.02) == np.mean(waits_s)
    assert 8000 == run.log.num_steps == run.log.num_finished


@pytest.mark.parametrize(("rho", "vacation_s"), [(0.3, 0.1), (0.6, 0.05)])
def test_endless_offline_backlog_is_a_vacation_of_the_online_queue(rho, vacation_s):
    """M/G/1 with vacations: online waits for half a step of offline work longer on average.

    With one slot an online request takes it from the offline one that runs, so that a step has
    online work, and lasts `service_s`, or has none, and lasts `vacation_s`: offline work gets just
    the steps that online leaves. An arrival finds a vacation under way or a busy server; either
    way the mean wait is that of M/D/1 and E[V^2] / (2 E[V]), half of a V that is constant.
    """
    service_s = 0.04
    device = DeviceOf(lambda work: service_s if has_online(work) else vacation_s)
    times_s = poisson_times_s(rho / service_s, 6000, seed=3)
    online = [Arrival(time_s, ONLINE_TOKENS, 1) for time_s in times_s]
    engine = engine_of(device, max_num_seqs=1)
    offline = [Arrival(0.0, 20, 30)] * 400
    run = run_of(engine, "online-first", online=online, offline=offline, until_s=times_s[-1])
    expected_s = md1_wait_s(rho, service_s) + vacation_s / 2.0
    assert pytest.approx(expected_s, rel=0.05) == np.mean(online_waits_s(run, service_s))
    num_vacations = run.log.num_steps - sum(r.finished_s is not None for r in online_of(run))
    assert pytest.approx((1.0 - rho) * times_s[-1], rel=0.02) == num_vacations * vacation_s
    assert run.log.num_finished < len(online) + len(offline), "the backlog was endless"


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("policy", ["vllm-fcfs", "vllm-priority", "online-first"])
def test_requests_at_once_take_the_sum_of_their_steps(policy, is_async):
    """Four slots: four prompts fill a step, then four decode; the last two come at the end."""
    device = SimpleDevice(step_s=1.0, token_s=0.01)
    engine = engine_of(device, is_async, max_num_seqs=4, max_num_batched_tokens=64)
    run = run_of(engine, policy, online=[Arrival(7.0, 16, 5)] * 10)
    of_four = (1.0 + 0.64) + 4 * (1.0 + 0.04)
    of_two = (1.0 + 0.32) + 4 * (1.0 + 0.02)
    finished_s = [record.finished_s for record in run.log.records.values()]
    assert pytest.approx([7.0 + of_four] * 4 + [7.0 + 2 * of_four] * 4) == finished_s[:8]
    assert pytest.approx([7.0 + 2 * of_four + of_two] * 2) == finished_s[8:]
    assert math.isclose(210.0, figures(run)["total_tokens_per_s"] * run.virtual_s)
