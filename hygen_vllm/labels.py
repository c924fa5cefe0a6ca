# SPDX-License-Identifier: Apache-2.0
"""Reads the class and the tenant of a request from its labels; knows nothing of queues or steps."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

from hygen_vllm.json_types import JsonView

LABEL_KEY = "slo_class"
TENANT_KEY = "tenant"
PRIORITY_HEADER = "x-vllm-priority"
LONGEST_TENANT = 128
"""Characters of a tenant's name."""
OTHERS = "(others)"
"""The tenant of requests whose own has no name, or is one too many."""


class RequestClass(Enum):
    """ONLINE: somebody waits for it. OFFLINE: batch work that must not be noticed."""

    ONLINE = "online"
    OFFLINE = "offline"


@dataclass(frozen=True)
class ClassRule:
    """How labels become a class in one engine.

    Args:
        offline_priority_above: a priority above this means offline; None: priority says nothing.
        default_class: class of a request that carries no label.
    """

    offline_priority_above: int | None
    default_class: RequestClass

    def classify(self, extra_args: JsonView | None, priority: int) -> RequestClass | None:
        """Return the class of a request, or None if its label is not a class.

        The label in `extra_args` (vllm_xargs) wins over `priority`, which wins over the default.
        """
        label = extra_args.get(LABEL_KEY) if extra_args else None
        if label is not None:
            return _CLASS_OF_LABEL.get(label.strip().lower()) if isinstance(label, str) else None
        if self.offline_priority_above is not None and priority > self.offline_priority_above:
            return RequestClass.OFFLINE
        return self.default_class


def tenant_of(extra_args: JsonView | None) -> str:
    """Return the label of whom a request belongs to, "" without one; numbers are as their text.

    What is no text or number, or too long, is no name: such requests belong to one tenant, OTHERS.
    """
    label = extra_args.get(TENANT_KEY) if extra_args else None
    if label is None:
        return ""
    name = str(label) if isinstance(label, str | int | float) else OTHERS
    return name if len(name) <= LONGEST_TENANT else OTHERS


_CLASS_OF_LABEL = {each.value: each for each in RequestClass}


def priority_in(headers: Mapping[str, str]) -> int | None:
    """Return the priority in the headers of a request, names in lower case.

    None if there is none that an engine can be told.
    """
    with suppress(ValueError):
        priority = int(headers.get(PRIORITY_HEADER, ""))
        return priority if abs(priority) < 1 << 63 else None
    return None
