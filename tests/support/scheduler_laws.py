# SPDX-License-Identifier: Apache-2.0
"""Laws that hold for a scheduler between any two steps; each raises AssertionError with numbers."""

import copy
from collections import Counter

from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import RequestStatus


def check_places(scheduler: Scheduler) -> None:
    """Every unfinished request is in exactly one place, of its own class, and no other is."""
    places = {"running": scheduler.running}
    for name in ("waiting", "kv_holding_waiting"):
        queue = getattr(scheduler, name)
        places[f"{name}.online"], places[f"{name}.offline"] = queue.online, queue.offline
        queue.offline.check_invariants()
        assert len(queue) == len(queue.online) + len(queue.offline)
    found = Counter(request.request_id for place in places.values() for request in place)
    here = [name for name, request in scheduler.requests.items() if not request.is_finished()]
    assert found == Counter(here), (found, scheduler.requests.keys())
    for name, place in places.items():
        for request in place:
            assert (request.status == RequestStatus.RUNNING) == (name == "running"), request
            is_offline = scheduler.is_offline(request)
            assert name == "running" or name.endswith("offline") == is_offline, (name, request)
    assert len(scheduler.running) <= scheduler.max_num_active_reqs
    assert scheduler.deferred_waiting <= {
        r for name, p in places.items() if "ing." in name for r in p
    }
    assert sum(scheduler.get_request_counts()) == len(here)
    # An offline request that holds no KV may not keep others from loading theirs.
    offline_prefills = filter(scheduler.is_offline, scheduler._inflight_prefills)
    assert {*offline_prefills} <= {*scheduler.running, *scheduler.kv_holding_waiting}


def check_blocks(scheduler: Scheduler) -> None:
    """Each KV block is referred to as often as requests hold it, and is free if none does."""
    pool = scheduler.kv_cache_manager.block_pool
    (manager,) = scheduler.kv_cache_manager.coordinator.single_type_managers
    held = Counter(b.block_id for blocks in manager.req_to_blocks.values() for b in blocks)
    assert {i for i, blocks in manager.req_to_blocks.items() if blocks} <= set(scheduler.requests)
    for block in pool.blocks:
        assert block.is_null or block.ref_cnt == held[block.block_id], (block, held)
    num_free = pool.free_block_queue.num_free_blocks
    assert num_free == len(pool.free_block_queue.get_all_free_blocks())
    assert num_free + len(held) == pool.num_gpu_blocks - 1, (num_free, held)


def check_empty(scheduler: Scheduler) -> None:
    """Nothing of any request is left."""
    assert not scheduler.requests
    assert not scheduler.running
    assert not scheduler.deferred_waiting
    assert not scheduler._inflight_prefills
    assert not scheduler.hygen.requests.offline_ids
    assert 0 == len(scheduler.waiting) == len(scheduler.kv_holding_waiting)
    pool = scheduler.kv_cache_manager.block_pool
    assert pool.get_num_free_blocks() == pool.num_gpu_blocks - 1


def check_nobody_is_charged(scheduler: Scheduler) -> None:
    """No queue keeps what a tenant was charged for a request that has ended."""
    for queue in (scheduler.waiting, scheduler.kv_holding_waiting):
        assert not queue.offline._charged


def online_schedule_without_offline(scheduler: Scheduler, throttle: bool) -> dict[str, int]:
    """Return the tokens of the next schedule() had all offline requests just been aborted.

    What they computed stays in the prefix cache, as online finds it there beside them.
    """
    alone = object.__new__(type(scheduler))
    shared = [scheduler.vllm_config, scheduler.kv_cache_config, scheduler.hygen.learner]
    memo = {id(each): each for each in (*shared, scheduler.structured_output_manager)}
    alone.__dict__ = copy.deepcopy(scheduler.__dict__, {id(scheduler): alone, **memo})
    alone.hygen.leftovers.left = lambda *_: None
    alone.finish_requests(list(alone.hygen.requests.offline_ids), RequestStatus.FINISHED_ABORTED)
    return dict(alone.schedule(throttle).num_scheduled_tokens)
