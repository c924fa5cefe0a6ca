# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for what targets are asked about, and for where they keep their account."""

from dataclasses import dataclass, field

from hygen_vllm.cost.step_cost import StepCost
from hygen_vllm.step.online_share import OnlineShare


@dataclass
class Load(OnlineShare):
    """The online class in a step of 20 ms, without requests if not told otherwise."""

    cost: StepCost | None = None
    max_tokens: int = 0
    num_decodes: int = 0
    alone_s: float = 0.02
    has_online: bool = True
    num_first: int = 0
    full_s: float = 0.2
    least_s: float = 0.0


@dataclass
class Account:
    """An allowance whose factor is given, and that notes what it is told."""

    factor: float = 1.0
    settled: list[tuple[float, float, float]] = field(default_factory=list)
    saved: list[float] = field(default_factory=list)
    most_saved_s: float = 60.0

    def settle(self, allowed: float, taken: float, now_s: float) -> None:
        self.settled.append((allowed, taken, now_s))

    def set_saved(self, saved_s: float, _: float, spent: float) -> None:
        assert spent >= 0.0
        self.saved.append(saved_s)
