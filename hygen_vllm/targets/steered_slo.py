# SPDX-License-Identifier: Apache-2.0
"""How each kind of target says what a step may take. Pure.

A second that offline work adds to a step is waited for by everybody in it. What that costs depends
on the target (DESIGN.md, "The price of interference"):

- mean TBT: the second counts once for every decode in the step. It has a price for each.
- a percentile of TBT: it counts if the step comes out longer than the limit. Steps are capped, and
  the share of tokens that may exceed the limit is spent where one token buys most.
- TTFT: it counts for whoever waits for a first token now, and for whoever comes while the step
  runs. Steps are capped so that arrivals are delayed by what the target allows on average.
"""

import math
from dataclasses import dataclass

from hygen_vllm.slo import Slo
from hygen_vllm.step.online_share import OnlineShare
from hygen_vllm.step.terms import StepTerms
from hygen_vllm.targets.allowance import Allowance
from hygen_vllm.targets.latency_window import LatencyWindow
from hygen_vllm.targets.online_alone import AloneRequest

FEWEST_SAMPLES = 10
"""Samples of the online load alone from which a target is steered by them."""
CAREFUL = 0.5
"""First factor where a step can delay requests before any of them was measured."""
BAND = 0.1
"""A percentile of TTFT is kept by the delay of the requests that are so near it in rank."""
FEWEST_BEYOND = 2.0
"""Samples beyond a percentile from which it is believed to have moved."""
PLANNED = 0.99
"""Share of a limit that is planned for a percentile of TTFT: with some ten requests a quarter of an
hour beyond P99, it comes out one or two percent higher or lower by chance."""
DELAY_GAIN = 0.03
"""Share of the last request in the mean delay: that of some thirty requests."""
QUIET_GAPS = 5.0
"""Requests that come by chance leave one gap in 150 that is so many times the mean one."""
RECENT_SAMPLES = 1000
"""Gaps over which online alone has a recent mean."""
LATE_S = 60.0
"""Time with decodes over which it is seen whether a tail's share is spent."""
RANK_ERRORS = 2.0
"""Standard errors in rank by which a percentile of online alone may still fall."""
FALLEN = 0.9
"""A limit that may fall below so much of itself may become that of steps without a prefill."""
CAP_PER_FACTOR = 0.05
"""The cap is multiplied by the factor to this power: by 0.8 at 0.01. At 0 a step takes no
longer than its online work."""
SECONDS_PER_TOKEN = 1.0
"""Seconds of offline work that one token above the limit must buy, at factor 1."""


@dataclass(slots=True)
class Measures:
    """What targets are steered by; all of the recent past.

    Args:
        window_s: time over which targets are kept.
        alone, real: latencies by metric: of the online load if it were served alone, and measured.
        alone_step_s: mean seconds of the online work of a step.
        arrivals_per_s: online requests that come in a second.
        quiet_s: since when none has come.
        error_margin: a step takes at most so many times what was predicted, nearly always.
        decodes: mean number of online decodes in a step.
        decodes_at_once: of the step that is made, the mean over those that run with it.
        steps_ahead: steps that are made before one that is scheduled now begins.
    """

    window_s: float
    alone: dict[str, LatencyWindow]
    real: dict[str, LatencyWindow]
    alone_step_s: float = 0.0
    decodes: float = 0.0
    decodes_at_once: float = 0.0
    arrivals_per_s: float = 0.0
    quiet_s: float = 0.0
    error_margin: float = 1.0
    steps_ahead: int = 0


class SteeredSlo:
    """A target, and what offline work may do under it.

    Args:
        slo: the target.
        measures: kept up to date by whoever measures.
    """

    first_factor = 1.0
    """See Allowance."""

    @staticmethod
    def span(_: Slo) -> float:
        """See Allowance."""
        return 1.0

    def __init__(self, slo: Slo, measures: Measures) -> None:
        self.slo = slo
        self.allowance = Allowance(measures.window_s, self.first_factor, self.span(slo))
        self._measures = measures
        self.alone_s: float | None = None
        """The statistic for the online load alone; None while too little is known."""
        self.limit_s: float | None = slo.limit_s

    @property
    def spare_s(self) -> float:
        """Seconds between the limit and what online has alone, >= 0."""
        if self.limit_s is None or self.alone_s is None:
            return 0.0
        return max(0.0, self.limit_s - self.alone_s)

    @property
    def is_out_of_reach(self) -> bool:
        """Whether online alone does not meet the target."""
        return self.alone_s is not None and self.limit_s is not None and self.limit_s < self.alone_s

    def refresh(self, now_s: float) -> None:
        """Take in what was measured; called about once a second."""
        window = self._measures.alone[self.slo.metric]
        if window.num_samples < FEWEST_SAMPLES:
            return
        share = self.slo.share
        alone_s = window.mean_s if share is None else window.percentile_s(share)
        assert alone_s is not None
        self.alone_s = alone_s
        if self.slo.rise is not None:
            self.limit_s = alone_s * (1.0 + self.slo.rise)
        self._refresh(now_s)

    def _refresh(self, now_s: float) -> None:
        """Do what is particular to a kind of target."""

    def first_token(self, request: AloneRequest, ttft_s: float, now_s: float) -> None:
        """Count a request, whose TTFT would have been `ttft_s` if online had been alone."""

    def bound(self, terms: StepTerms, share: OnlineShare) -> None:
        """Lower the limit and raise the price of a step to what this target wants."""
        if self.alone_s is not None and self.limit_s is not None:
            self._bound(terms, share)
        elif share.has_online:
            careful_s = share.alone_s * (1.0 + (self.slo.rise or 0.0))
            terms.limit_s = min(terms.limit_s, careful_s)

    def _bound(self, terms: StepTerms, share: OnlineShare) -> None:
        raise NotImplementedError


class MeanTbt(SteeredSlo):
    """A mean of TBT: a price for each decode that waits.

    At factor 1 a second of offline work is worth a second where as many wait as on average.
    """

    def __init__(self, slo: Slo, measures: Measures) -> None:
        super().__init__(slo, measures)
        self._seen = 0, 0.0, 0, 0.0
        """Samples and their sums, measured and alone, that were settled."""
        self._recent_alone_s = 0.0

    def _refresh(self, now_s: float) -> None:
        """Settle what came since the last time, token by token.

        Online alone lags behind or runs ahead by some tokens. They count with its recent mean.
        """
        real, alone = self._measures.real["tbt"], self._measures.alone["tbt"]
        seen = real.total_count, real.total_s, alone.total_count, alone.total_s
        count, real_s, alone_count, alone_s = (
            now - before for now, before in zip(seen, self._seen, strict=True)
        )
        is_first, self._seen = not self._seen[0], seen
        if alone_count:
            share = 1.0 if is_first else min(1.0, alone_count / RECENT_SAMPLES)
            self._recent_alone_s += (alone_s / alone_count - self._recent_alone_s) * share
        if is_first or not count:
            return
        alone_s += (count - alone_count) * self._recent_alone_s
        if self.slo.rise is not None:
            allowed_s = self.slo.rise * alone_s
        else:
            assert self.slo.limit_s is not None
            allowed_s = self.slo.limit_s * count - alone_s
        self.allowance.settle(allowed_s, real_s - alone_s, now_s)

    def _bound(self, terms: StepTerms, _: OnlineShare) -> None:
        usual = max(1.0, self._measures.decodes)
        waits = self._measures.decodes_at_once
        factor = self.allowance.factor
        if waits:
            terms.price += waits / (usual * factor) if factor else math.inf


class TailTbt(SteeredSlo):
    """A percentile of TBT: a cap, and a share of tokens that may exceed the limit."""

    @staticmethod
    def span(_: Slo) -> float:
        """What a token beyond the limit is worth differs much from load to load."""
        return 1.0 / 3.0

    def __init__(self, slo: Slo, measures: Measures) -> None:
        super().__init__(slo, measures)
        self.cap_s = math.inf
        """Seconds that a step is planned to take at most if it has decodes."""
        self._may_fall = False
        """Whether the limit may turn out to be that of another kind of steps, all at once."""

    def _refresh(self, now_s: float) -> None:
        assert self.limit_s is not None
        assert self.slo.share is not None
        measures = self._measures
        allowed_share = 1.0 - self.slo.share
        saved_s, spent = self._saved_s(self.limit_s, allowed_share)
        self.allowance.set_saved(saved_s, now_s, spent)
        lowered = min(1.0, self.allowance.factor) ** CAP_PER_FACTOR
        limit_to_come_s = self._limit_to_come_s(self.slo.share)
        self._may_fall = limit_to_come_s < FALLEN * self.limit_s
        self.cap_s = limit_to_come_s / measures.error_margin * lowered

    def _saved_s(self, limit_s: float, allowed_share: float) -> tuple[float, float]:
        """Return the most that can be saved, less what is owed of any time up to now.

        The limit may have moved since, so all of a window is looked at again. And return how much
        of what is allowed was taken in the last minute.
        """
        decodes = max(1.0, self._measures.decodes)
        count, above, sum_s, owed_s, spent = 0, 0.0, 0.0, 0.0, 0.0
        for block in self._measures.real["tbt"].latest_blocks():
            count += block.count
            above += block.count_above(limit_s)
            sum_s += block.sum_s
            if count:
                taken = above / (allowed_share * count)
                owed_s = max(owed_s, (taken - 1.0) * sum_s / decodes)
                if sum_s <= LATE_S * decodes or not spent:
                    spent = taken
        return self.allowance.most_saved_s - owed_s, spent

    def _limit_to_come_s(self, share: float) -> float:
        """Return the limit as it may still turn out to be.

        What was planned up to a limit that falls later is above it then, all at once. A percentile
        is known up to the error of its rank; the tokens of a step count as one sample.
        """
        assert self.limit_s is not None
        if self.slo.rise is None:
            return self.limit_s
        alone = self._measures.alone["tbt"]
        num_steps = alone.num_samples / max(1.0, self._measures.decodes)
        error = math.sqrt(share * (1.0 - share) / num_steps)
        lower_s = alone.percentile_s(max(0.0, share - RANK_ERRORS * error)) or 0.0
        return min(self.limit_s, lower_s * (1.0 + self.slo.rise))

    def _bound(self, terms: StepTerms, share: OnlineShare) -> None:
        """A step longer than the limit exceeds it once for every decode.

        Where online alone is beyond the limit, the tokens exceed it anyhow. What is saved under a
        limit that may fall would be owed under the lower one, so it buys nothing.
        """
        if share.num_decodes == 0:
            return
        most_s = max(share.alone_s, self.cap_s)
        gained_s = share.full_s - most_s
        factor = min(1.0, self.allowance.factor) if self._may_fall else self.allowance.factor
        if gained_s * factor <= share.num_decodes * SECONDS_PER_TOKEN:
            terms.limit_s = min(terms.limit_s, most_s)


class Ttft(SteeredSlo):
    """Mean or percentile of TTFT: a cap on every step, and no more for those who wait already."""

    first_factor = CAREFUL

    @staticmethod
    def span(slo: Slo) -> float:
        """A request has one first token, and only some are near a percentile."""
        return 1.0 if slo.share is None else 2.0

    def __init__(self, slo: Slo, measures: Measures) -> None:
        super().__init__(slo, measures)
        self.cap_s = math.inf
        """Seconds that a step is planned to take at most."""
        self._band_s = 0.0, math.inf
        """TTFT alone of the requests that matter."""
        self._delay_s: float | None = None
        """Mean delay of the last of them."""
        self._delays_allowed = 1.0
        """Delay that they may have on average, in delays that the statistic may have."""

    def _refresh(self, _: float) -> None:
        """A request waits for half a step on average, and for those that are made already."""
        delay_s = self.spare_s / (0.5 + self._measures.steps_ahead)
        self.cap_s = self._measures.alone_step_s + delay_s * self.allowance.factor
        if self.slo.share is not None:
            self._refresh_band(self.slo.share)

    def _refresh_band(self, share: float) -> None:
        """A percentile moves by about as much as the requests near it in rank are delayed.

        They are many more than those beyond it, so their delays tell sooner; by how much the
        percentile itself moved corrects what is only about right.
        """
        alone, real = self._measures.alone["ttft"], self._measures.real["ttft"]
        low_s = alone.percentile_s(max(0.0, share - BAND)) or 0.0
        high_s = alone.percentile_s(share + BAND) if share + BAND < 1.0 else None
        self._band_s = low_s, high_s or math.inf
        real_s = real.percentile_s(share)
        if self._delay_s is None or real_s is None or self.alone_s is None:
            return
        if real.num_samples * (1.0 - share) > FEWEST_BEYOND and self._delay_s > 0:
            moved_s = max(real_s - self.alone_s, 1e-6)
            self._delays_allowed = max(0.7, min(1.5, self._delay_s / moved_s))

    def first_token(self, request: AloneRequest, ttft_s: float, now_s: float) -> None:
        low_s, high_s = self._band_s
        if not self.alone_s or self.limit_s is None or not low_s <= ttft_s <= high_s:
            return
        delay_s = request.real_ttft_s - ttft_s
        gain = 1.0 if self._delay_s is None else DELAY_GAIN
        self._delay_s = (self._delay_s or 0.0) * (1.0 - gain) + delay_s * gain
        planned_s = self.limit_s * (1.0 if self.slo.share is None else PLANNED)
        allowed_s = self._delays_allowed * (planned_s / self.alone_s - 1.0) * ttft_s
        self.allowance.settle(allowed_s, delay_s, now_s)

    def _bound(self, terms: StepTerms, share: OnlineShare) -> None:
        """A step delays who comes while it runs. After a quiet time nobody is expected to."""
        if not share.has_online and self._is_quiet():
            return
        terms.limit_s = min(terms.limit_s, max(share.alone_s, self.cap_s))
        expected = self._measures.arrivals_per_s * self.cap_s
        terms.price += share.num_first / max(expected, 1e-3)

    def _is_quiet(self) -> bool:
        """Whether none has come for QUIET_GAPS of the window's mean gaps, or for all of it."""
        num_gaps = self._measures.real["ttft"].num_samples / QUIET_GAPS
        return self._measures.quiet_s * max(1.0, num_gaps) > self._measures.window_s


def steered(slo: Slo, measures: Measures) -> SteeredSlo:
    """Return what steers by a target."""
    if slo.metric == "ttft":
        return Ttft(slo, measures)
    return MeanTbt(slo, measures) if slo.share is None else TailTbt(slo, measures)
