# SPDX-License-Identifier: Apache-2.0
"""Plans a step: what vLLM will give online, and what that leaves."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from vllm.v1.core.sched.request_queue import RequestQueue
from vllm.v1.request import Request

from hygen_vllm.config import HyGenConfig
from hygen_vllm.engine.arrivals import Arrival, is_ready
from hygen_vllm.engine.kv_reserve import KvReserve
from hygen_vllm.engine.slo_control import SloControl
from hygen_vllm.engine.state import EngineState, sum_over
from hygen_vllm.kv.pace import Pace, pace_of
from hygen_vllm.price.learner import CostLearner
from hygen_vllm.step.gate import BATCH_GATE, Gate
from hygen_vllm.step.plan import OnlineShare, StepPlan

NO_PACE = Pace()


def chunk_caps(
    state: EngineState, num_online: int, num_waiting_online: int, num_waiting_offline: int
) -> tuple[int, int]:
    """Return vLLM's caps of a chunk: counting online requests only, and counting all."""
    if not state.has_chunk_cap():
        return state.max_step_tokens, state.max_step_tokens
    online_cap = state.chunk_cap(num_online + num_waiting_online)
    num_waiting = num_waiting_online + num_waiting_offline
    return online_cap, state.chunk_cap(len(state.running) + num_waiting)


def num_ready_of(state: EngineState, queue: RequestQueue) -> int:
    """Return how many requests of a queue could run now, about.

    The others wait for something else than a step, like their grammar.
    """
    return sum_over(queue, partial(is_ready, state))


@dataclass(frozen=True)
class StepPlanner:
    """Makes the plans of one engine's steps."""

    state: EngineState
    config: HyGenConfig
    kv_reserve: KvReserve
    slo_control: SloControl | None

    def plan(  # noqa: PLR0913 - what a step begins with
        self,
        gate: Gate,
        learner: CostLearner,
        *,
        expects_online: bool,
        num_online: int,
        arrivals: Sequence[Arrival],
        num_behind: int,
        next_offline: Request | None,
        blocks_left: int,
    ) -> StepPlan:
        """Return the plan of a step.

        Args:
            expects_online: an online request may come at any moment.
            num_online: running online requests, the first of those that run.
            arrivals: waiting online requests that could run in this step.
            num_behind: online requests that wait and cannot start in this step.
            next_offline: the offline request that would start next.
            blocks_left: KV blocks that are left for offline.
        """
        is_priced = gate.mode != "off"
        pace = NO_PACE
        if is_priced and next_offline is not None:
            pace = self._pace(next_offline, blocks_left)
        tokens = self.state.max_step_tokens
        if is_priced and expects_online and not learner.trusts_any_size:
            # twice what was seen so far
            tokens = max(self.config.min_chunk_tokens, 2 * learner.largest_prefill_tokens)
        share = OnlineShare(
            cost=learner.cost if is_priced else None,
            max_tokens=self.state.max_step_tokens,
            slots_per_request=self.state.draft_slots,
            has_online=bool(num_online or arrivals),
            num_behind=num_behind,
        )
        if self.slo_control is not None:
            arriving_tokens = sum(arrival.new_tokens for arrival in arrivals)
            self.slo_control.shorten_online(share, self.state.running[:num_online], arriving_tokens)
        return StepPlan(
            gate=gate if expects_online else BATCH_GATE,
            share=share,
            blocks_left=blocks_left,
            prefill_tokens_left=int(tokens),
            pace=pace,
        )

    def _pace(self, next_offline: Request, blocks_left: int) -> Pace:
        """Return what offline work costs and is worth, given the KV blocks that are left."""
        next_blocks = max(1.0, next_offline.num_tokens / self.state.block_size)
        return pace_of(blocks_left, next_blocks, self.kv_reserve.num_running)
