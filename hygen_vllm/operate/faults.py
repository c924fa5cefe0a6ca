# SPDX-License-Identifier: Apache-2.0
"""Exceptions of the policy: none of them ends an engine. Pure.

Whoever catches one lets the step go on without what failed: online requests as vLLM serves them,
offline ones in a later step. The first of each place is logged with its traceback, all are counted.
"""

from collections import Counter
from collections.abc import Callable


class PolicyFaults:
    """The faults of one scheduler.

    Args:
        log: logs a line with the traceback of the exception that is being handled.
    """

    are_raised = False
    """Whether they are raised after all: in tests and simulations, which are to find them."""

    def __init__(self, log: Callable[..., None]) -> None:
        self._log = log
        self.counts: Counter[str] = Counter()
        """By place."""

    @property
    def num(self) -> int:
        """How many there were."""
        return self.counts.total()

    def note(self, place: str) -> None:
        """Note the exception that is being handled, which came from a place."""
        if self.are_raised:
            raise  # noqa: PLE0704 - it is being handled by the caller
        self.counts[place] += 1
        if self.counts[place] == 1:
            self._log(
                "HyGen failed in its %s. Online requests are served as by vLLM, offline ones in a "
                "later step. Further failures of this kind are only counted. Please report this "
                "with the lines below.",
                place,
            )
