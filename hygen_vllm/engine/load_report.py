# SPDX-License-Identifier: Apache-2.0
"""Tells what an engine has to do, to those who send requests to several engines.

The report is asked for by name through vLLM's EngineCore (`call_utility`), whatever process asks.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from typing import Any

from vllm.v1.engine.core import EngineCore
from vllm.v1.request import Request

from hygen_vllm.cost.composition import StepComposition
from hygen_vllm.cost.step_cost import StepCost
from hygen_vllm.engine.requests import Follower
from hygen_vllm.engine.slo_control import SloControl
from hygen_vllm.engine.state import EngineState, tokens_waiting
from hygen_vllm.engine.waiting_queue import WaitingQueues
from hygen_vllm.fleet.engine_load import UTILITY, EngineLoad
from hygen_vllm.fleet.interference import Interference

AHEAD_S = 2.0
"""Offline requests are wanted for so long, at the rate at which they started lately."""
LEAST_AHEAD = 4
"""Offline requests that are wanted at least: one that starts is replaced while it runs."""
SHORTEST_S = 0.2
"""Two reports that are closer count as one for the rate."""


@dataclass
class LoadReport(Follower):
    """The loads of one engine, one after the other.

    Args:
        offline_ids: requests of the offline class.
        cost: what a step costs, as it is known now.
        control: None in modes that do not steer by SLOs.
        clock: monotonic seconds.
    """

    state: EngineState
    queues: WaitingQueues
    offline_ids: Collection[str]
    cost: Callable[[], StepCost | None]
    control: SloControl | None
    clock: Callable[[], float]
    num_started: int = 0
    """Offline requests that began to run, or went on after a preemption."""
    _num_counted: int = 0
    _counted_s: float | None = None
    _starts_per_s: float = 0.0

    def started(self, request: Request, is_offline: bool, computed_tokens: int) -> None:  # noqa: ARG002
        self.num_started += is_offline

    def now(self) -> EngineLoad:
        """Return the present load. Takes O(requests that run or hold KV)."""
        state, queues, offline_ids = self.state, self.queues, self.offline_ids
        holding = [*queues.holding.online]
        running = [r for r in state.running if r.request_id not in offline_ids]
        prefills = [r for r in running if r.is_prefill_chunk]
        decodes = [r for r in running if not r.is_prefill_chunk]
        # shared blocks are counted for each online request that holds them
        held = sum(map(state.num_held, [*running, *holding]))
        free_blocks = max(state.free_blocks(), state.num_blocks - held)
        decode_step_s, prefill_token_s = self._seconds(decodes)
        return EngineLoad(
            num_online=len(running) + queues.num_online(),
            online_prefill_tokens=tokens_waiting(queues.waiting.online)
            + sum(max(0, r.num_tokens - r.num_computed_tokens) for r in prefills + holding),
            num_offline=len(offline_ids),
            offline_wanted=max(0, self._most_ahead() - queues.num_offline()),
            free_tokens=int(state.tokens_per_block * free_blocks),
            decode_step_s=decode_step_s,
            prefill_token_s=prefill_token_s,
        )

    def interference(self) -> Interference | None:
        """Return what offline work has cost online requests; None where it is not estimated."""
        if self.control is None:
            return None
        controller = self.control.controller
        real, alone = controller.online.windows, controller.measures.alone
        windows = (real["ttft"], real["tbt"], alone["ttft"], alone["tbt"])
        return Interference(*(x for each in windows for x in (each.total_s, each.total_count)))

    def answer(self) -> dict[str, Any]:
        """Return the load, and what is said of online requests, as plain values."""
        interference = self.interference()
        return {
            "load": asdict(self.now()),
            "interference": None if interference is None else asdict(interference),
            "targets": "" if self.control is None else self.control.controller.status(),
        }

    def _seconds(self, decodes: list[Any]) -> tuple[float, float]:
        cost = self.cost()
        if cost is None:
            return 0.0, 0.0
        context = sum(r.num_computed_tokens for r in decodes)
        step = StepComposition(decode_tokens=len(decodes), decode_context_tokens=context)
        most = self.state.max_step_tokens
        prefill_s = cost.base_s + cost.added_chunk_seconds(StepComposition(), most, 0)
        return (cost.seconds(step) if decodes else 0.0), prefill_s / most

    def _most_ahead(self) -> int:
        """Return how many offline requests may wait here."""
        now_s = self.clock()
        if self._counted_s is None:
            self._num_counted, self._counted_s = self.num_started, now_s
        passed_s = now_s - self._counted_s
        if passed_s >= SHORTEST_S:
            rate = (self.num_started - self._num_counted) / passed_s
            self._starts_per_s = max(rate, 0.5 * self._starts_per_s)
            self._num_counted, self._counted_s = self.num_started, now_s
        ahead = max(LEAST_AHEAD, math.ceil(AHEAD_S * self._starts_per_s))
        return min(ahead, self.state.max_running)


def answer_through_engine_core() -> None:
    """Let EngineCore answer UTILITY as `LoadReport.answer` says."""
    setattr(EngineCore, UTILITY, lambda core: core.scheduler.hygen.load_report.answer())
