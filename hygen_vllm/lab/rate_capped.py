# SPDX-License-Identifier: Apache-2.0
"""The paper's HyGen*: online first, and a cap on how many offline requests start a second.

HyGen, arXiv 2501.14808, section 5. A token bucket that holds at most one second's worth, at least
one request. Requests that were preempted start again without counting.
"""

from copy import copy
from typing import Any

from vllm.v1.request import Request, RequestStatus

from hygen_vllm.config import CONFIG_KEY
from hygen_vllm.engine.hook import OnlineOnlyStep, OpenStep
from hygen_vllm.engine.policy import Policy
from hygen_vllm.engine.requests import Follower
from hygen_vllm.engine.scheduler import HyGenScheduler
from hygen_vllm.lab.policies import RATE

_ROUNDING = 1e-9
"""Of a sum of parts that should be whole."""


class OfflineRate(Follower):
    """Counts the offline requests that start. Times are monotonic seconds."""

    def __init__(self, rate_per_s: float, now_s: float) -> None:
        self._rate_per_s = rate_per_s
        self._most = max(1.0, rate_per_s)
        self._saved = 1.0
        self._saved_at_s = now_s

    def num_ready(self, now_s: float) -> int:
        """Return how many requests may start now."""
        passed_s = max(0.0, now_s - self._saved_at_s)
        self._saved = min(self._most, self._saved + self._rate_per_s * passed_s)
        self._saved_at_s = now_s
        return int(self._saved + _ROUNDING)

    def count(self, num_requests: int) -> None:
        """Count requests that started."""
        self._saved -= num_requests

    def started(self, request: Request, is_offline: bool, computed_tokens: int) -> None:  # noqa: ARG002
        self.count(is_offline and not request.num_preemptions)


class CappedStep:
    """An OpenStep in which no more than so many offline requests start for the first time."""

    def __init__(self, step: OpenStep, policy: Policy, starts_left: int) -> None:
        self._step = step
        self._policy = policy
        self._starts_left = starts_left

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)

    def limit(self, request: Request, computed: int, wanted: int) -> int:
        """Return the tokens a request gets in this step, 0 if it is refused."""
        is_waiting = request.status is RequestStatus.WAITING
        starts = is_waiting and self._policy.requests.is_offline(request)
        if starts and not self._starts_left:
            self._policy.queues.waiting.offline_is_open = False
            return 0
        granted = self._step.limit(request, computed, wanted)
        self._starts_left -= starts and granted > 0
        return granted


class RateCappedPolicy(Policy):
    """The policy of HyGenScheduler with a cap on starts."""

    rate: OfflineRate

    def open_step(
        self, is_throttled: bool, now_s: float
    ) -> tuple[OpenStep | OnlineOnlyStep | None, bool]:
        starts_left = self.rate.num_ready(now_s)
        step, defers_prefills = super().open_step(is_throttled, now_s)
        capped: Any = step
        if isinstance(step, OpenStep):
            capped = CappedStep(step, self, starts_left)
        return capped, defers_prefills


class RateCappedScheduler(HyGenScheduler):
    """HyGenScheduler that starts so many offline requests a second; for comparisons.

    `offline_rate_per_s` stands beside the settings of HyGenConfig. vLLM's fcfs policy only, no KV
    that is loaded from elsewhere. For engines that are built in this process: `vllm serve` knows no
    such setting.
    """

    policy_class = RateCappedPolicy
    hygen: RateCappedPolicy

    def __init__(self, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        settings = dict(vllm_config.additional_config[CONFIG_KEY])
        rate_per_s = settings.pop(RATE)
        own_config = copy(vllm_config)
        own_config.additional_config = {**vllm_config.additional_config, CONFIG_KEY: settings}
        super().__init__(own_config, *args, **kwargs)
        self.hygen.rate = OfflineRate(rate_per_s, self.hygen.clock())
        self.hygen.requests.followers = [*self.hygen.requests.followers, self.hygen.rate]
