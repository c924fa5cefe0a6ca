# SPDX-License-Identifier: Apache-2.0
"""What is simulated of a slot, and what comes of it.

Does not import vLLM: who asks for it only waits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hygen_vllm.lab.plan.slots import Slot
from hygen_vllm.lab.simulator.simulated_engine import SimulatedEngine
from hygen_vllm.lab.workloads.arrivals import Arrival


@dataclass(frozen=True)
class SlotJob:
    """What is to be simulated.

    Args:
        slot: None for the offline requests alone.
        settings: of HyGen's scheduler, but for `slos`.
    """

    engine: SimulatedEngine
    slot: Slot | None
    slot_s: float
    offline: Sequence[Arrival]
    slos: Sequence[str]
    settings: dict[str, Any]
    seed: int


@dataclass(frozen=True)
class SampledSlot:
    """What came of it. Tokens are prompt and output tokens of a second.

    Args:
        of_limits: measured over limit by target; none where nothing was measured.
        ran_out: the offline requests were all served, so more of them could have been.
    """

    online_tokens_per_s: float
    offline_tokens_per_s: float
    of_limits: dict[str, float]
    ran_out: bool


def serve(job: SlotJob) -> SampledSlot:
    """Serve a slot, in a process that may import vLLM."""
    from hygen_vllm.lab.plan.sampled_slots import serve_slot

    return serve_slot(job)
