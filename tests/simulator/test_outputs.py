# SPDX-License-Identifier: Apache-2.0
"""Every policy serves all requests of a simulated run whole, with the scheduler of its name."""

import random

import pytest

from hygen_vllm.lab.policies import POLICIES
from hygen_vllm.lab.workloads.arrivals import Arrival
from hygen_vllm.lab.workloads.prompt_tokens import SharedBlocks
from tests.support.classes import HYGEN, STOCK
from tests.support.simulation import (
    SETTINGS,
    SimpleDevice,
    column,
    engine_of,
    figures,
    is_whole,
    run_of,
)

ASYNC = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
DEVICE = SimpleDevice(step_s=0.5, token_s=0.01)


def crowd(seed, count, until_s):
    """Return requests of random lengths and times."""
    rng = random.Random(seed)
    times_s = sorted(rng.uniform(0.0, until_s) for _ in range(count))
    return [Arrival(time_s, rng.randrange(1, 90), rng.randrange(1, 30)) for time_s in times_s]


@ASYNC
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_policy_runs_the_scheduler_it_is_named_for(policy, is_async):
    """Stock policies run vLLM's own class and HyGen's ours, each as the engine is stepped."""
    cls = policy.scheduler_class(is_async)
    if policy.is_hygen:
        assert issubclass(cls, HYGEN[is_async])
    else:
        assert cls is STOCK[is_async]


@ASYNC
@pytest.mark.parametrize("policy", SETTINGS)
def test_every_request_is_served_whole(policy, is_async):
    """With few blocks and slots, preempted or not, each gets all its tokens, once."""
    online, offline = crowd(1, 20, 20.0), crowd(2, 20, 4.0)
    if policy == "offline-only":
        online = []
    engine = engine_of(DEVICE, is_async, num_kv_blocks=60, max_num_seqs=6)
    run = run_of(engine, policy, online=online, offline=offline)
    assert len(online) + len(offline) == len(run.log.records) == run.log.num_finished
    assert all(map(is_whole, run.log.records.values()))
    tokens = sum(item.prompt_tokens + item.output_tokens for item in (*online, *offline))
    done = sum(column(run, "online_tokens_done")) + sum(column(run, "offline_tokens_done"))
    assert tokens == done


@ASYNC
def test_preempted_offline_request_counts_in_preemptions(is_async):
    """One slot: the offline request makes way twice and is computed again, but counted once."""
    engine = engine_of(is_async=is_async, max_num_seqs=1)
    online = [Arrival(4.5, 8, 2), Arrival(12.5, 8, 2)]
    run = run_of(engine, "online-first", online=online, offline=[Arrival(0.0, 40, 20)])
    assert 2 == run.log.records["offline-0"].num_preemptions
    result = figures(run)
    assert 2 == result["offline"]["preemptions"]
    assert 60 == pytest.approx(result["offline"]["tokens_per_s"] * run.virtual_s)
    assert 0.0 == result["offline"]["prefix_hit_rate"], "of its first start, not of the others"


def blocks(*names, num_tokens, output_tokens=2, time_s=0.0):
    """Return a request whose prompt is made of blocks of 512 tokens by name."""
    return Arrival(time_s, num_tokens, output_tokens, SharedBlocks(names))


@ASYNC
def test_shared_blocks_of_a_trace_are_prefix_hits(is_async):
    """One after another, most shared first: all but a token is in the cache, then one block is."""
    offline = [
        blocks(1, 2, num_tokens=1000),
        blocks(1, 3, num_tokens=1024),
        blocks(1, 3, num_tokens=1024),
        blocks(4, num_tokens=500),
    ]
    limits = {"max_model_len": 2048, "num_kv_blocks": 400, "block_size": 16, "max_num_seqs": 1}
    engine = engine_of(is_async=is_async, max_num_batched_tokens=512, **limits)
    run = run_of(engine, "online-first", offline=offline)
    cached = [record.cached_tokens for record in run.log.records.values()]
    assert [512, 0, 1024 - 16, 0] == cached
    result = figures(run)
    assert pytest.approx((512 + 1008) / 3548) == result["offline"]["prefix_hit_rate"]
    assert 0.0 == result["details"]["online_prefix_hit_rate"]


@ASYNC
def test_classes_share_the_prefix_cache(is_async):
    """Blocks that requests of both classes hold at one time are there once, and add up."""
    limits = {"max_model_len": 2048, "num_kv_blocks": 100, "block_size": 16}
    engine = engine_of(is_async=is_async, max_num_batched_tokens=512, **limits)
    offline = [blocks(1, 2, num_tokens=600, output_tokens=40)]
    online = [blocks(1, 3, num_tokens=700, output_tokens=20, time_s=5.5)]
    run = run_of(engine, "online-first", online=online, offline=offline)
    assert 512 / 700 == figures(run)["details"]["online_prefix_hit_rate"]
    assert all(map(is_whole, run.log.records.values()))
    both = [s for s in run.log.samples if s.online_running and s.offline_running]
    assert {44, 45} == {sample.online_kv_blocks for sample in both}
    assert all(6 <= sample.offline_kv_blocks <= 8 for sample in both)


def test_prompts_that_share_nothing_are_no_prefix_hits():
    """Equal lengths are not equal prompts, neither within a class nor between the two."""
    items = [Arrival(float(i), 60, 3) for i in range(8)]
    run = run_of(engine_of(), online=items, offline=items)
    assert 0 == sum(record.cached_tokens for record in run.log.records.values())


def test_priority_policy_prefers_online():
    """vllm-priority serves online before waiting offline that came first; vllm-fcfs does not."""
    offline, online = [Arrival(0.0, 60, 4)] * 4, [Arrival(0.5, 60, 1)]
    finished_s = []
    for policy in ("vllm-fcfs", "vllm-priority"):
        run = run_of(engine_of(max_num_seqs=1), policy, online=online, offline=offline)
        finished_s.append(run.log.records["online-0"].finished_s)
    assert [17.0, 5.0] == finished_s


@pytest.mark.parametrize("policy", ["online-first", "vllm-priority"])
def test_offline_requests_know_their_class(policy):
    """What the workload calls offline is offline for the scheduler too."""
    items = [Arrival(0.0, 60, 4)] * 6
    run = run_of(engine_of(max_num_seqs=2), policy, online=items, offline=items)
    finished_s = {name: record.finished_s for name, record in run.log.records.items()}
    last_online = max(time_s for name, time_s in finished_s.items() if name.startswith("online"))
    assert all(s > last_online for name, s in finished_s.items() if name.startswith("offline"))
