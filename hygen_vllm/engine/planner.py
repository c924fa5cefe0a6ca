# SPDX-License-Identifier: Apache-2.0
"""Plans a step of a HyGenScheduler: what vLLM will give online, and what that leaves."""

from functools import partial
from typing import Any

from vllm.v1.core.sched.request_queue import RequestQueue

from hygen_vllm.engine import state
from hygen_vllm.engine.arrivals import Arrival, is_ready
from hygen_vllm.kv.pace import Pace, pace_of
from hygen_vllm.step.plan import BATCH_GATE, StepPlan


def chunk_caps(scheduler: Any, num_online: int) -> tuple[int, int]:
    """Return vLLM's caps of a chunk: counting online requests only, and counting all."""
    if not state.has_chunk_cap(scheduler):
        return scheduler.max_num_scheduled_tokens, scheduler.max_num_scheduled_tokens
    num_waiting = scheduler.num_waiting_online()
    online_cap = state.chunk_cap(scheduler, num_online + num_waiting)
    num_waiting += scheduler.num_waiting_offline()
    return online_cap, state.chunk_cap(scheduler, len(scheduler.running) + num_waiting)


def make_plan(
    scheduler: Any, num_online: int, arrivals: list[Arrival], num_behind: int, blocks_left: int
) -> StepPlan:
    """Return the plan of a step.

    Args:
        num_online: running online requests, the first of `scheduler.running`.
        arrivals: waiting online requests that could run in this step.
        num_behind: online requests that wait and cannot start in this step.
        blocks_left: KV blocks that are left for offline.
    """
    speculative = scheduler.vllm_config.speculative_config
    pace = _pace(scheduler, blocks_left)
    plan = StepPlan(
        gate=scheduler.gate if scheduler.expects_online else BATCH_GATE,
        cost=None if scheduler.gate.mode == "off" else scheduler.learner.cost,
        tokens_left=scheduler.max_num_scheduled_tokens,
        blocks_left=blocks_left,
        prefill_tokens_left=_trusted_prefill_tokens(scheduler),
        slots_per_request=speculative.max_num_new_slots_for_drafting if speculative else 0,
        has_online=bool(num_online or arrivals),
        num_behind=num_behind,
        prefill_price=pace.prefill_price,
        decode_worth=pace.decode_worth,
    )
    if scheduler.slo_control is not None:
        arriving_tokens = sum(arrival.new_tokens for arrival in arrivals)
        online = scheduler.running[:num_online]
        scheduler.slo_control.shorten_online(plan, online, arriving_tokens)
    return plan


def num_ready_of(scheduler: Any, queue: RequestQueue) -> int:
    """Return how many requests of a queue could run now, about.

    The others wait for something else than a step, like their grammar.
    """
    return state.sum_over(queue, partial(is_ready, scheduler))


def _trusted_prefill_tokens(scheduler: Any) -> int:
    """Prefill tokens to which the prices may be stretched: twice what was seen so far."""
    learner = scheduler.learner
    has_prices = scheduler.expects_online and scheduler.gate.mode != "off"
    if learner.trusts_any_size or not has_prices:
        return int(scheduler.max_num_scheduled_tokens)
    return int(max(scheduler.hygen_config.min_chunk_tokens, 2 * learner.largest_prefill_tokens))


def _pace(scheduler: Any, blocks_left: int) -> Pace:
    """Return what offline work costs and is worth, given the KV blocks that are left."""
    waiting = scheduler.waiting.offline.next_candidate()
    if waiting is None or scheduler.gate.mode == "off":
        return Pace()
    next_blocks = max(1.0, waiting.num_tokens / scheduler.block_size)
    reserve = scheduler.kv_reserve
    return pace_of(blocks_left - reserve.online_blocks, next_blocks, reserve.num_running)
