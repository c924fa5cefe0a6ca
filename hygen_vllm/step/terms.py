# SPDX-License-Identifier: Apache-2.0
"""What a step may take, and what its seconds cost: the words between plan and gate. Pure."""

import math
from dataclasses import dataclass

IDLE_STEPS = 2.0
"""A step in which no online request decodes may last this many times the shortest possible step,
however long that is: else a slow engine would serve one offline request at a time while it waits
for an online one."""


@dataclass(slots=True)
class StepTerms:
    """What offline work may do in a step.

    Args:
        limit_s: seconds that the step may take.
        price: seconds of offline work that have to be gained for each second added to the step. An
            offline request's tokens count as the seconds that they take in a full step without
            online work.
        free_s: seconds up to which the step delays nobody, since others run at once.
        is_idle: the limit is that of a step in which no online request decodes.
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
