# SPDX-License-Identifier: Apache-2.0
"""How far measured steps are from what was forecast, where it matters for targets. Pure."""

import math

from hygen_vllm.step.terms import StepForecast

LARGEST_ERROR = 0.3
"""Logarithm of measured / forecast beyond which a step says no more: it stalled."""
FACTOR_GAIN = 0.01
"""Share of the last step in a systematic error, which changes slowly: a hundred steps."""
MARGIN_GAIN = 0.02
"""Share of the last step in the spread of errors: fifty steps."""
DEVIATIONS = 2.0
"""Standard deviations below a limit: one step in forty comes out above it."""


class PredictionError:
    """Systematic errors for the steps of online alone, and the spread for those with offline.

    The first make the forecast of what online would have alone right, the second say how far below
    a limit a step has to be planned.
    """

    def __init__(self) -> None:
        self.factors = {False: 1.0, True: 1.0}
        """Measured / forecast of steps without offline work: without and with prefill."""
        self._logs = {False: 0.0, True: 0.0}
        self._mean = 0.0
        self._variance = 1e-4

    def observe(self, forecast: StepForecast, seconds: float, has_prefill: bool) -> None:
        """Learn from a step that took `seconds`, forecast.total_s > 0."""
        error = math.log(max(seconds, 1e-9) / forecast.total_s)
        error = max(-LARGEST_ERROR, min(LARGEST_ERROR, error))
        if forecast.alone_s == forecast.total_s:
            self._logs[has_prefill] += FACTOR_GAIN * (error - self._logs[has_prefill])
            self.factors[has_prefill] = math.exp(self._logs[has_prefill])
            return
        surprise = error - self._mean
        self._mean += MARGIN_GAIN * surprise
        self._variance += MARGIN_GAIN * (surprise * surprise - self._variance)

    @property
    def margin(self) -> float:
        """A step with offline work takes at most so many times its forecast, nearly always."""
        return math.exp(self._mean + DEVIATIONS * math.sqrt(self._variance))
