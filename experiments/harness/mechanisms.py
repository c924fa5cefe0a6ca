# SPDX-License-Identifier: Apache-2.0
"""Parts of the policy that can be left out, to see what they are worth.

Each is a name and what stands in its place: other settings, or other values of names in modules and
classes. Whatever the scheduler does then, it still serves every request, and keeps all laws that a
simulated run checks.
"""

import importlib
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock


@dataclass(frozen=True)
class Mechanism:
    """A part of the policy.

    Args:
        does: what it is for, in a few words.
        settings: with which it is off.
        targets: beginnings of the targets under which it can act.
        setups: in which it can act, () for all.
        is_cold: it acts only where nothing is known of online alone beforehand.
        replaced: by "module:name" or "module:Class.name", what stands there instead.
    """

    does: str
    settings: tuple[str, ...] = ()
    targets: tuple[str, ...] = ("",)
    setups: tuple[str, ...] = ()
    is_cold: bool = False
    replaced: Mapping[str, Any] = field(default_factory=dict)

    def can_act(self, setup: str, target: str, *, is_cold: bool) -> bool:
        """Whether leaving it out can change anything there; `target` may have several parts."""
        has_place = (not self.setups or setup in self.setups) and (is_cold or not self.is_cold)
        return has_place and any(part.startswith(self.targets) for part in target.split())


def _nothing(*_: Any, **__: Any) -> None:
    """Stand for a method that changes something."""


def _smallest_context(_: Any, request: Any) -> tuple[float, int]:
    return 0.0, request.num_computed_tokens


def _no_first_price(given: Any) -> Any:
    """Return what `given_cost` does, without a price of a step's first chunk."""
    from dataclasses import replace

    def found(*arguments: Any) -> Any:
        cost = given(*arguments)
        return None if cost is None else replace(cost, first_prefill_s=0.0)

    return found


class Around:
    """Makes a replacement of what is there."""

    def __init__(self, make: Any) -> None:
        self.make = make


P = "hygen_vllm."
MECHANISMS: dict[str, Mechanism] = {
    "growth forecast": Mechanism(
        "starts leave blocks into which running offline requests will grow",
        replaced={P + "kv.forecast:KvForecast.most_blocks": lambda *_: 0.0},
    ),
    "expected lengths": Mechanism(
        "output lengths as of those that finished, not the most that a request may make",
        replaced={
            P + "kv.output_lengths:OutputLengths.expected": lambda _, most, __=0: float(most)
        },
    ),
    "leftovers": Mechanism(
        "what finished offline requests cached is forgotten",
        replaced={P + "engine.leftovers:Leftovers.left": _nothing},
    ),
    "prefill pace": Mechanism(
        "prefill costs more where there is no room for the next request",
        replaced={P + "kv.pace:NO_ROOM_PRICE": 0.0},
    ),
    "decode worth": Mechanism(
        "decodes are worth more where there is no room for the next request",
        replaced={P + "kv.pace:NO_ROOM_WORTH": 1.0},
    ),
    "first chunk": Mechanism(
        "a price of a step's first chunk",
        replaced={
            P + "cost.fit:has_prefill": lambda X: 0.0 * X[:, 0],
            P + "engine.policy:given_cost": Around(_no_first_price),
        },
    ),
    "prefill shortening": Mechanism(
        targets=("tbt_p",),
        does="online prefills are shortened for a percentile of TBT",
        replaced={P + "engine.slo_control:SloControl.shorten_online": _nothing},
    ),
    "spending of tails": Mechanism(
        targets=("tbt_p",),
        does="steps beyond the limit of a percentile of TBT, where they buy much",
        replaced={P + "targets.steered_slo:SECONDS_PER_TOKEN": math.inf},
    ),
    "limit to come": Mechanism(
        targets=("tbt_p",),
        is_cold=True,
        does="the limit of a percentile of TBT as it may still turn out to be",
        replaced={P + "targets.steered_slo:TailTbt._limit_to_come_s": lambda self, _: self.limit_s},
    ),
    "cap by debt": Mechanism(
        targets=("tbt_p",),
        does="the cap for a percentile of TBT is lowered by what is owed",
        replaced={P + "targets.steered_slo:CAP_PER_FACTOR": 0.0},
    ),
    "planned below": Mechanism(
        targets=("ttft_p",),
        does="1 % below the limit is planned for a percentile of TTFT",
        replaced={P + "targets.steered_slo:PLANNED": 1.0},
    ),
    "careful start": Mechanism(
        targets=("ttft",),
        does="half the delay is allowed before any was measured (TTFT)",
        replaced={P + "targets.steered_slo:Ttft.first_factor": 1.0},
    ),
    "quiet": Mechanism(
        targets=("ttft",),
        does="after a quiet time nobody is expected (TTFT)",
        replaced={P + "targets.steered_slo:Ttft._is_quiet": lambda _: False},
    ),
    "error margin": Mechanism(
        targets=("tbt_p",),
        does="steps are planned below a limit by the spread of predictions",
        replaced={P + "targets.prediction_error:DEVIATIONS": 0.0},
    ),
    "error factors": Mechanism(
        "online alone is estimated with systematic errors removed",
        replaced={P + "targets.prediction_error:FACTOR_GAIN": 0.0},
    ),
    "integral": Mechanism(
        "what is saved or owed moves the factor for good, too",
        replaced={P + "targets.allowance:SETTLE_SPANS": math.inf},
    ),
    "stages": Mechanism(
        setups=("yi-34b",),
        does="steps in other stages of a pipeline are looked at",
        replaced={
            P + "targets.pipeline:Pipeline.others_s": property(lambda _: 0.0),
            P + "targets.pipeline:Pipeline.num_decodes": property(lambda self: self._steps[-1][0]),
        },
    ),
    "victim choice": Mechanism(
        "those make way that lose least for what they still have to make",
        replaced={P + "engine.make_room:RoomMaker._loss": _smallest_context},
    ),
    "steady steps": Mechanism(
        "steps among others of another kind teach nothing",
        replaced={P + "step.feedback:MeasuredStep.is_like": lambda *_: True},
    ),
    "two alone": Mechanism(
        "a step of offline work alone may take twice its first request",
        replaced={P + "step.budget:OfflineBudget.begin_alone": _nothing},
    ),
    "prefix order": Mechanism(
        "requests that share a prefix together",
        ("offline_order=fcfs",),
        setups=("mmlu", "mooncake"),
    ),
    "level": Mechanism(
        "predictions follow the level of steps at once",
        replaced={P + "cost.learner:LEVEL_GAIN": 0.0},
    ),
    "change or form": Mechanism(
        "a fit tells a changed engine from a wrong form",
        replaced={P + "cost.learner:CostLearner._is_change": staticmethod(lambda *_: False)},
    ),
    "trusted sizes": Mechanism(
        setups=("unprofiled",),
        does="learned prices are trusted up to twice the prefill seen",
        replaced={P + "cost.learner:CostLearner.trusts_any_size": property(lambda _: True)},
    ),
    "best chunk": Mechanism(
        "the chunk that is worth most more than it costs, not the largest",
        replaced={P + "step.grant:LEAST_PRICE": math.inf},
    ),
}


@contextmanager
def without(name: str) -> Iterator[list[str]]:
    """Leave a mechanism out in this process; yields the settings that belong to it.

    Args: name: "" for none.
    """
    mechanism = MECHANISMS[name] if name else Mechanism("")
    with ExitStack() as stack:
        for place, value in mechanism.replaced.items():
            module, _, path = place.partition(":")
            owner: Any = importlib.import_module(module)
            *classes, attribute = path.split(".")
            for each in classes:
                owner = getattr(owner, each)
            if isinstance(value, Around):
                value = value.make(getattr(owner, attribute))  # noqa: PLW2901
            stack.enter_context(mock.patch.object(owner, attribute, value))
        yield list(mechanism.settings)
