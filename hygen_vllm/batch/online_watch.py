# SPDX-License-Identifier: Apache-2.0
"""OnlineWatch: what online requests notice of a job, as the replicas say. Pure."""

import time
from collections.abc import Callable

from hygen_vllm.fleet.interference import Interference
from hygen_vllm.json_types import JsonView

LOOK_EVERY_S = 2.0


class OnlineWatch:
    """Looks at an application from time to time while a job runs.

    Args:
        status: returns what OfflinePool.status does, None if it does not answer.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        status: Callable[[], JsonView | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._status = status
        self._clock = clock
        self._next_s = 0.0
        self._first: dict[str, Interference] = {}
        self._last: dict[str, Interference] = {}
        self._targets: dict[str, str] = {}
        self.place = ""
        """Where the job's requests are, as text."""

    def look(self) -> None:
        """Look now."""
        self._next_s = self._clock() + LOOK_EVERY_S
        status = self._status()
        if status is None:
            return
        replicas = status["replicas"]
        doing = " + ".join(str(replica["doing"]) for replica in replicas.values())
        self.place = f"{doing or 0} in replicas, {status['waiting']} wait"
        self._targets = {name: replica["targets"] for name, replica in replicas.items()}
        for name, replica in replicas.items():
            if replica["interference"] is not None:
                self._last[name] = Interference.from_dict(replica["interference"])
                self._first.setdefault(name, self._last[name])

    def look_if_due(self) -> None:
        """Look if the last time is long ago."""
        if self._clock() >= self._next_s:
            self.look()

    def report(self) -> list[str]:
        """Return lines on the time between the first look and the last."""
        if not self._last:
            return ["online requests: no replica steers by latency targets, nothing is known"]
        spent = (self._last[name] - self._first[name] for name in self._last)
        lines = [f"meanwhile: {sum(spent, Interference())}"]
        return lines + [f"  {name}: {text}" for name, text in self._targets.items() if text]
