# SPDX-License-Identifier: Apache-2.0
"""What a step may take, and what its seconds cost: the words between plan and gate. Pure."""

import math
from dataclasses import dataclass
from typing import Protocol


class OnlineLoad(Protocol):
    """The online class in a step, as known when offline first asks for a part of it."""

    @property
    def has_online(self) -> bool:
        """Whether online requests run, or could start, in this step."""

    @property
    def alone_s(self) -> float:
        """Seconds of the step without offline work."""

    @property
    def least_s(self) -> float:
        """Seconds of the smallest step that there can be."""

    @property
    def full_s(self) -> float:
        """Seconds of the step if prefill filled all its tokens."""

    @property
    def num_decodes(self) -> int:
        """Online requests that get a token after their first."""

    @property
    def num_first(self) -> int:
        """Online requests that wait for their first token, in this step or behind it."""


IDLE_STEPS = 2.0
"""Smallest steps that a step without online work may take, however long they are: else a slow
engine would serve one offline request at a time while it waits for an online one."""


def idle_limit_s(load: OnlineLoad, idle_step_s: float) -> float:
    """Return the seconds that a step may take in which no online request waits for a token."""
    return max(idle_step_s, IDLE_STEPS * load.least_s)


@dataclass(slots=True)
class StepTerms:
    """What offline work may do in a step.

    Args:
        limit_s: seconds that the step may take.
        price: what a second added to the step costs, in seconds of offline work: what an offline
            request gets is worth the seconds that it would take in a full step without online.
        free_s: seconds up to which the step delays nobody, since others run at once.
        is_idle: the limit is that of a step without online work: IDLE_STEPS of the smallest ones.
    """

    limit_s: float = math.inf
    price: float = 0.0
    free_s: float = 0.0
    is_idle: bool = False


@dataclass(frozen=True, slots=True)
class StepForecast:
    """What was expected of a step, seconds: of its online work alone, and of all of it."""

    alone_s: float
    total_s: float
