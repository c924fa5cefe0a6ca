# SPDX-License-Identifier: Apache-2.0
"""Seeded traffic for scheduler tests: which request arrives before which step."""

import random
from dataclasses import dataclass

from vllm.v1.request import Request

from hygen_vllm.lab.bare_scheduler import make_request

SHARED_PREFIX = [(7 * i) % 997 for i in range(64)]


@dataclass(frozen=True)
class Plan:
    """A request to be made, so that two engines can each have their own copy of it."""

    step: int
    request_id: str
    prompt: tuple[int, ...]
    max_tokens: int
    slo_class: str
    priority: int = 0
    lora: int = 0

    def request(self) -> Request:
        return make_request(
            self.request_id,
            list(self.prompt),
            slo_class=self.slo_class,
            max_tokens=self.max_tokens,
            priority=self.priority,
            lora=self.lora,
            arrival_time=float(self.step),
        )


def plan_traffic(
    seed: int,
    num_requests: int,
    *,
    offline_share: float = 0.5,
    num_steps: int = 60,
    max_prompt: int = 60,
    num_priorities: int = 1,
    num_loras: int = 0,
) -> list[Plan]:
    """Return requests with random lengths, half of them with a shared prefix, by arrival."""
    rng = random.Random(seed)
    plans = []
    for i in range(num_requests):
        slo_class = "offline" if rng.random() < offline_share else "online"
        shared = SHARED_PREFIX[: rng.choice([0, rng.randrange(40)])]
        own = [rng.randrange(1000) for _ in range(rng.randrange(1, max_prompt))]
        plans.append(
            Plan(
                step=rng.randrange(num_steps),
                request_id=f"{slo_class}-{i}",
                prompt=tuple(shared + own),
                max_tokens=rng.randrange(1, 30),
                slo_class=slo_class,
                priority=rng.randrange(num_priorities),
                lora=rng.randrange(num_loras + 1),
            )
        )
    return sorted(plans, key=lambda plan: plan.step)
