# SPDX-License-Identifier: Apache-2.0
"""Tells what a HyGenScheduler has to do, to those who send requests to several engines.

The report is asked for by name through vLLM's EngineCore (`call_utility`), whatever process asks.
"""

import math
from typing import Any

from vllm.v1.engine.core import EngineCore

from hygen_vllm.engine import state
from hygen_vllm.fleet.engine_load import UTILITY, EngineLoad
from hygen_vllm.fleet.interference import Interference
from hygen_vllm.price.composition import StepComposition

AHEAD_S = 2.0
"""Offline requests are wanted for so long, at the rate at which they started lately."""
LEAST_AHEAD = 4
SHORTEST_S = 0.2
"""Two reports that are closer count as one for the rate."""


class LoadReport:
    """The loads of one scheduler, one after the other."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._num_started = 0
        self._counted_s: float | None = None
        self._starts_per_s = 0.0

    def now(self) -> EngineLoad:
        """Return the present load. Takes O(requests that run or hold KV)."""
        scheduler = self._scheduler
        holding = [*scheduler.kv_holding_waiting.online]
        running = [r for r in scheduler.running if not scheduler.is_offline(r)]
        prefills = [r for r in running if r.is_prefill_chunk]
        decodes = [r for r in running if not r.is_prefill_chunk]
        offline_blocks = sum(
            state.num_held(scheduler, r) for r in scheduler.running if scheduler.is_offline(r)
        )
        decode_step_s, prefill_token_s = self._seconds(decodes)
        return EngineLoad(
            num_online=len(running) + scheduler.num_waiting_online(),
            online_prefill_tokens=state.tokens_waiting(scheduler.waiting.online)
            + sum(max(0, r.num_tokens - r.num_computed_tokens) for r in prefills + holding),
            num_offline=len(scheduler.offline_ids),
            offline_wanted=max(0, self._most_ahead() - scheduler.num_waiting_offline()),
            free_tokens=scheduler.block_size * (state.free_blocks(scheduler) + offline_blocks),
            decode_step_s=decode_step_s,
            prefill_token_s=prefill_token_s,
        )

    def interference(self) -> Interference | None:
        """Return what offline work has cost online requests; None where it is not estimated."""
        if self._scheduler.slo_control is None:
            return None
        controller = self._scheduler.slo_control.controller
        real, alone = controller.online.windows, controller.measures.alone
        windows = (real["ttft"], real["tbt"], alone["ttft"], alone["tbt"])
        return Interference(*(x for each in windows for x in (each.total_s, each.total_count)))

    def answer(self) -> dict[str, Any]:
        """Return the load, and what is said of online requests, as plain values."""
        found = self.interference()
        if found is None:
            return {"load": self.now().to_dict(), "interference": None, "targets": ""}
        return {
            "load": self.now().to_dict(),
            "interference": found.to_dict(),
            "targets": self._scheduler.slo_control.controller.status(),
        }

    def _seconds(self, decodes: list[Any]) -> tuple[float, float]:
        cost = self._scheduler.learner.cost
        if cost is None:
            return 0.0, 0.0
        context = sum(r.num_computed_tokens for r in decodes)
        step = StepComposition(decode_tokens=len(decodes), decode_context_tokens=context)
        most = self._scheduler.max_num_scheduled_tokens
        prefill_s = cost.base_s + cost.added_chunk_seconds(0, most, 0, is_first=True)
        return (cost.seconds(step) if decodes else 0.0), prefill_s / most

    def _most_ahead(self) -> int:
        """Return how many offline requests may wait here."""
        now_s, num_started = self._scheduler.clock(), self._scheduler.offline_log.num_started
        if self._counted_s is None:
            self._num_started, self._counted_s = num_started, now_s
        passed_s = now_s - self._counted_s
        if passed_s >= SHORTEST_S:
            rate = (num_started - self._num_started) / passed_s
            self._starts_per_s = max(rate, 0.5 * self._starts_per_s)
            self._num_started, self._counted_s = num_started, now_s
        ahead = max(LEAST_AHEAD, math.ceil(AHEAD_S * self._starts_per_s))
        return min(ahead, int(self._scheduler.max_num_running_reqs))


def answer_through_engine_core() -> None:
    """Let EngineCore answer UTILITY as `LoadReport.answer` says."""
    setattr(EngineCore, UTILITY, lambda core: core.scheduler.load_report.answer())
