# SPDX-License-Identifier: Apache-2.0
"""Targets in, terms of each step out, while serving. Pure.

What happens is measured; what would have happened without offline work comes from OnlineAlone, an
engine made of arithmetic that serves the same requests. Each target compares the two and says what
a step may take. Nothing has to be tuned or profiled before.
"""

import math
from collections.abc import Callable, Iterable, Sequence

from hygen_vllm.cost.composition import StepComposition
from hygen_vllm.cost.step_cost import StepCost
from hygen_vllm.slo import Slo
from hygen_vllm.step.feedback import MeasuredStep
from hygen_vllm.step.online_share import OnlineShare
from hygen_vllm.step.terms import StepTerms
from hygen_vllm.targets.latency_window import LatencyWindow
from hygen_vllm.targets.online_alone import AloneRequest, EngineLimits, OnlineAlone
from hygen_vllm.targets.online_latency import OnlineLatency
from hygen_vllm.targets.pipeline import Pipeline
from hygen_vllm.targets.prediction_error import PredictionError
from hygen_vllm.targets.steered_slo import Measures, SteeredSlo, TailTbt, steered

REFRESH_S = 1.0
"""Time between two looks at what was measured: a third of the shortest span of an allowance."""
ENOUGH_SAMPLES = 100
"""Samples from which a target can be said to be out of reach."""
KEPT_SAMPLES = 300
"""What online has alone is known from so many samples at least, however old they are."""
RATE_S = 30.0
"""Time over which arrivals are counted for their rate: 30 requests at one a second."""
STALL_RATIO, UNKNOWN_STALL_RATIO, STALL_S = 20.0, 100.0, 1.0
"""A step that takes so many times what it should, and STALL_S at least, had to wait for something
else (a neighbour on the device, a process that was stopped): that is no interference. One without a
forecast may be an unusual one."""
STEP_GAIN = 1e-4
"""Share of the last step in the mean step of online alone, once there were many."""


class TargetController:
    """Steers by SLOs.

    Args:
        slos: the targets; at least one.
        limits: of the engine.
        window_s: time over which the targets are kept.
        idle_step_s: seconds of a step without online decodes, if no target says less.
        report: called with a line when a target turns out to be out of reach.
    """

    mode = "slo"

    def __init__(
        self,
        slos: Sequence[Slo],
        limits: EngineLimits,
        window_s: float,
        idle_step_s: float,
        report: Callable[[str], None],
    ) -> None:
        self.online = OnlineLatency(window_s)
        self.alone = OnlineAlone(limits, self._gaps_alone, self._first_token_alone)
        self.measures = Measures(
            window_s,
            alone={metric: LatencyWindow(window_s, KEPT_SAMPLES) for metric in ("ttft", "tbt")},
            real=self.online.windows,
            steps_ahead=int(limits.is_async),
        )
        self._num_stages = limits.num_stages
        self._pipeline = Pipeline(limits.num_stages)
        self.targets = [steered(slo, self.measures) for slo in slos]
        self._errors = PredictionError()
        self._report = report
        self._reported: set[SteeredSlo] = set()
        self._idle_step_s = idle_step_s
        self._now_s = 0.0
        """When the last step completed."""
        self._refresh_at_s = -math.inf
        self._arrivals_per_s = 0.0
        self._last_arrival_s = -math.inf
        self._num_steps = 0

    @property
    def online_cap_s(self) -> float:
        """Seconds beyond which an online prefill chunk makes other requests' tokens late."""
        caps = [target.cap_s for target in self.targets if isinstance(target, TailTbt)]
        return min(caps, default=math.inf)

    # --- requests ------------------------------------------------------------------------------

    def came(self, request_id: str, arrival_s: float, prompt_tokens: int) -> None:
        """Add an online request. Seconds are monotonic."""
        self.online.came(request_id, arrival_s, prompt_tokens)
        passed_s = arrival_s - self._last_arrival_s
        fade = math.exp(-max(0.0, passed_s) / RATE_S)
        self._arrivals_per_s = self._arrivals_per_s * fade + 1.0 / RATE_S
        self._last_arrival_s = max(arrival_s, self._last_arrival_s)

    # --- steps ---------------------------------------------------------------------------------

    def terms(self, share: OnlineShare) -> StepTerms:
        """Return what offline work may do in a step."""
        self._pipeline.enter(share)
        self.measures.decodes_at_once = self._pipeline.num_decodes
        terms = StepTerms(free_s=self._pipeline.others_s)
        idle_s = None
        if share.num_decodes == 0:
            idle_s = terms.limit_s = max(share.alone_s, share.idle_limit_s(self._idle_step_s))
        for target in self.targets:
            target.bound(terms, share)
        terms.is_idle = terms.limit_s == idle_s
        return terms

    def completed(
        self,
        step: MeasuredStep,
        new_tokens: Iterable[tuple[str, int]],
        cost: StepCost | None,
        now_s: float,
    ) -> None:
        """Learn from a step that is done. One without a forecast counts as without offline work.

        Args:
            new_tokens: (request id, new tokens) of every request that got some.
            cost: what the predictor believes now.
        """
        tokens = self.online.tokens_came(new_tokens, now_s)
        self._now_s = now_s
        for request in tokens.first:
            self.alone.arrive(request)
        forecast = step.forecast
        stalled_s = self._stalled_s(step)
        if stalled_s:
            self.alone.stall(now_s - stalled_s, stalled_s)
        alone_s = step.seconds - stalled_s * self._num_stages
        if forecast is not None and forecast.total_s > 0:
            alone_s *= forecast.alone_s / forecast.total_s
            if step.is_steady and not stalled_s:
                self._errors.observe(forecast, step.seconds, step.has_online_prefill)
        if tokens.num_gaps:
            self._count_gaps(tokens.num_gaps, alone_s)
        if cost is not None:
            self._advance_alone(cost)
        if now_s >= self._refresh_at_s:
            self._refresh_at_s = now_s + REFRESH_S
            self._refresh()

    def _stalled_s(self, step: MeasuredStep) -> float:
        """Return the seconds that the engine stood still in a step, 0 if it did not."""
        ratio, expected_s = UNKNOWN_STALL_RATIO, self.measures.alone_step_s
        if step.forecast is not None:
            ratio, expected_s = STALL_RATIO, step.forecast.total_s
        seconds, expected_s = step.seconds / self._num_stages, expected_s / self._num_stages
        is_stall = expected_s > 0 and seconds >= max(STALL_S, ratio * expected_s)
        return seconds - expected_s if is_stall else 0.0

    def _count_gaps(self, num_gaps: int, alone_s: float) -> None:
        """Take a step with online decodes into the mean ones."""
        self._num_steps += 1
        measures = self.measures
        share = max(1.0 / self._num_steps, STEP_GAIN)
        measures.alone_step_s += (alone_s - measures.alone_step_s) * share
        measures.decodes += (num_gaps - measures.decodes) * share

    def _advance_alone(self, cost: StepCost) -> None:
        factors = self._errors.factors

        def step_seconds(step: StepComposition) -> float:
            return cost.seconds(step) * factors[step.has_prefill]

        self.alone.advance(step_seconds, self.online.first_waiting_s(self._now_s))

    def _gaps_alone(self, seconds: float, count: int) -> None:
        self.measures.alone["tbt"].add(seconds, count, self._now_s)

    def _first_token_alone(self, request: AloneRequest, ttft_s: float) -> None:
        self.measures.alone["ttft"].add(ttft_s, 1, self._now_s)
        for target in self.targets:
            target.first_token(request, ttft_s, self._now_s)

    def _refresh(self) -> None:
        measures = self.measures
        since_s = max(0.0, self._now_s - self._last_arrival_s)
        measures.arrivals_per_s = self._arrivals_per_s * math.exp(-since_s / RATE_S)
        measures.quiet_s = since_s
        measures.error_margin = self._errors.margin
        for target in self.targets:
            target.refresh(self._now_s)
            if target.is_out_of_reach and target not in self._reported:
                self._report_out_of_reach(target)

    def _report_out_of_reach(self, target: SteeredSlo) -> None:
        if self.measures.alone[target.slo.metric].num_samples < ENOUGH_SAMPLES:
            return
        self._reported.add(target)
        self._report(
            f"{target.slo} cannot be met: without offline work it would be "
            f"{_milliseconds(target.alone_s)}. Offline work now gets only what delays nobody"
        )

    def status(self) -> str:
        """Return each target with what is measured and what is allowed, as text."""
        return ", ".join(self._status_of(target) for target in self.targets)

    def _status_of(self, target: SteeredSlo) -> str:
        window, share = self.measures.real[target.slo.metric], target.slo.share
        real_s = window.mean_s if share is None else window.percentile_s(share)
        return (
            f"{target.slo} {_milliseconds(real_s)} of {_milliseconds(target.limit_s)} "
            f"(online alone {_milliseconds(target.alone_s)})"
        )


def _milliseconds(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{1e3 * seconds:.1f} ms"
