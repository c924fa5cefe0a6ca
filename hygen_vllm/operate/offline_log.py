# SPDX-License-Identifier: Apache-2.0
"""What happened to the offline class, counted, and put into one line now and then. Pure."""

from collections import Counter
from collections.abc import Sequence

from hygen_vllm.step.grant import Refusal

LINE_EVERY_S = 60.0


class OfflineLog:
    """Counts since the engine started; `line` reports the ones since the line before."""

    def __init__(self) -> None:
        self.refusals: Counter[Refusal] = Counter()
        self.num_preemptions = 0
        self._reported: Counter[Refusal] = Counter()
        self._reported_preemptions = 0
        self._line_due_s: float | None = None

    def count(self, refused: Sequence[Refusal], num_preempted: int) -> None:
        """Count one step."""
        if refused:
            self.refusals.update(refused)
        self.num_preemptions += num_preempted

    def line(self, now_s: float, num_running: int, num_waiting: int) -> str | None:
        """Return the line if LINE_EVERY_S have passed since the last one, else None."""
        if self._line_due_s is None:
            self._line_due_s = now_s + LINE_EVERY_S
        if now_s < self._line_due_s:
            return None
        self._line_due_s = now_s + LINE_EVERY_S
        news = self.refusals - self._reported
        self._reported = Counter(self.refusals)
        preempted = self.num_preemptions - self._reported_preemptions
        self._reported_preemptions = self.num_preemptions
        reasons = ", ".join(f"{reason.value} {n}" for reason, n in news.most_common()) or "none"
        return (
            f"HyGen: offline requests: {num_running} running, {num_waiting} waiting; "
            f"in the last {LINE_EVERY_S:.0f} s refusals by reason: {reasons}; "
            f"preempted: {preempted}"
        )
