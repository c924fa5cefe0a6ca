# SPDX-License-Identifier: Apache-2.0
"""What results have in common, in what they differ, and which one is best. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from hygen_vllm.lab.policies import POLICIES
from hygen_vllm.lab.report.number_text import rounded, setting, whole
from hygen_vllm.lab.report.result_file import Result

BASELINES = frozenset(policy.name for policy in POLICIES if not policy.is_hygen)
NO_WORKLOAD, NOT_GIVEN = "none", "not given"
LEAVES_OUT = {
    "online": {policy.name for policy in POLICIES if not policy.has_online},
    "offline": {policy.name for policy in POLICIES if not policy.has_offline},
}
OTHER_OPTIONS = ("seconds", "tokenizer", "noise", "slowdown", "stall", "predictor_error")
"""Flags that change a run and show nowhere else in a result."""


@dataclass(frozen=True)
class Fact:
    """Something that holds for a run.

    Args:
        values: one for each result, "" where it is not known or does not apply.
        is_given: whether the user chose it; if not, it came out of the run.
    """

    name: str
    values: tuple[str, ...]
    is_given: bool = True

    @property
    def distinct(self) -> tuple[str, ...]:
        """The values that are known, each once."""
        return tuple(dict.fromkeys(value for value in self.values if value))

    def by_value(self, labels: Sequence[str]) -> list[tuple[str, list[str]]]:
        """Return each value with the labels of its results."""
        return [
            (value, [label for label, v in zip(labels, self.values, strict=True) if v == value])
            for value in self.distinct
        ]


def labels_of(results: Sequence[Result]) -> list[str]:
    """Return a name for each result: its policy, and its file or path where that is not enough."""
    names = [(r.policy, PurePath(r.path_text).stem, r.path_text) for r in results]
    labels = [name[0] for name in names]
    for more in (1, 2):
        labels = [
            label if labels.count(label) == 1 else f"{name[0]} [{name[more]}]"
            for label, name in zip(labels, names, strict=True)
        ]
    return labels


def facts_of(results: Sequence[Result]) -> list[Fact]:
    """Return what was run, in the order of a page's header, without what no result says."""
    facts = [
        Fact("engine", _detail(results, _engine)),
        Fact("limits", _detail(results, _limits)),
        Fact("profile", tuple(str(result.figures["profile"]) for result in results)),
        Fact("online", tuple(_workload(result, "online") for result in results)),
        Fact("offline", tuple(_workload(result, "offline") for result in results)),
        Fact("requests cut to fit", _detail(results, _shortened), is_given=False),
        Fact("SLOs", tuple(", ".join(s["slo"] for s in r.figures["slo"]) for r in results)),
        Fact("seed", tuple(str(result.figures["seed"]) for result in results)),
        *(Fact(name.replace("_", " "), _option(results, name)) for name in OTHER_OPTIONS),
        Fact("virtual time", tuple(_duration(result) for result in results), is_given=False),
        Fact("kind", tuple(result.kind or "" for result in results)),
    ]
    return [fact for fact in facts if fact.distinct]


def differences(facts: Sequence[Fact]) -> list[Fact]:
    """Return what the user chose differently, beyond the policy."""
    return [fact for fact in facts if fact.is_given and len(fact.distinct) > 1]


def best(results: Sequence[Result]) -> Result | None:
    """Return the result with the most offline work of those that meet all their SLOs, if any."""
    meeting = [
        result
        for result in results
        if result.figures["slo"] and all(slo["met"] is True for slo in result.figures["slo"])
    ]
    found = max(meeting, key=_offline_tokens_per_s, default=None)
    return found if found is not None and _offline_tokens_per_s(found) > 0 else None


def _offline_tokens_per_s(result: Result) -> float:
    return float(result.figures["offline"]["tokens_per_s"])


def _detail(results: Sequence[Result], text: Callable[[Any], str]) -> tuple[str, ...]:
    return tuple("" if result.details is None else text(result.details) for result in results)


def _engine(details: Any) -> str:
    engine = details["engine"]
    parallel = f"TP {engine['tensor_parallel']}, PP {engine['pipeline_parallel']}"
    return f"{engine['model']} on {engine['device']}, {engine['dtype']}, {parallel}"


def _limits(details: Any) -> str:
    engine = details["engine"]
    return (
        f"{whole(engine['num_kv_blocks'])} KV blocks of {engine['block_size']} tokens; up to "
        f"{whole(engine['max_num_batched_tokens'])} tokens and {whole(engine['max_num_seqs'])} "
        f"requests a step, {whole(engine['max_model_len'])} tokens a request; "
        f"{'asynchronous' if engine['is_async'] else 'synchronous'} stepping"
    )


def _workload(result: Result, slo_class: str) -> str:
    """Return the source and the number of requests; "" where the policy leaves them out."""
    if result.details is None or result.policy in LEAVES_OUT[slo_class]:
        return ""
    source = str(result.details["workload"][slo_class])
    arrived = whole(result.details["arrived"][slo_class])
    return source if source == NO_WORKLOAD else f"{source}; {arrived} requests"


def _shortened(details: Any) -> str:
    num_shortened, limit = details["shortened"], details["engine"]["max_model_len"]
    return f"{whole(num_shortened)}, to {whole(limit)} tokens" if num_shortened else ""


def _option(results: Sequence[Result], name: str) -> tuple[str, ...]:
    """Return the values of a flag; "not given" where only others have it."""
    values = _detail(results, lambda details: setting(details["options"].get(name, NOT_GIVEN)))
    return values if {*values} - {"", NOT_GIVEN} else ("",) * len(values)


def _duration(result: Result) -> str:
    return f"{rounded(float(result.figures['virtual_s']))} s"
