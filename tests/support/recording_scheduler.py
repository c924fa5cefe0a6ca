# SPDX-License-Identifier: Apache-2.0
"""A user's subclass of HyGenScheduler which writes down what the engine did.

One JSON object a line, appended to the file named by HYGEN_TEST_RECORD; `read_records` reads it.
"""

import json
import os
from pathlib import Path
from typing import Any

from hygen_vllm import HyGenAsyncScheduler, HyGenScheduler
from hygen_vllm.operate import offline_log

RECORD_ENV = "HYGEN_TEST_RECORD"
RECORDING_SCHEDULER = "tests.support.recording_scheduler.RecordingScheduler"
offline_log.LINE_EVERY_S = 0.5


class RecordingScheduler(HyGenScheduler):
    """HyGenScheduler with a diary: `start`, `add`, `preempt` and `step` records."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._file = Path(os.environ[RECORD_ENV]).open("a", buffering=1)  # noqa: SIM115
        self._num_in_flight = 0
        super().__init__(*args, **kwargs)
        self._write("start", is_async=isinstance(self, HyGenAsyncScheduler))

    def add_request(self, request: Any) -> None:
        super().add_request(request)
        self._write("add", request=request.request_id, slo_class=self._class_of(request))

    def _preempt_request(self, request: Any, *args: Any, **kwargs: Any) -> None:
        self._write("preempt", request=request.request_id, slo_class=self._class_of(request))
        super()._preempt_request(request, *args, **kwargs)

    def schedule(self, throttle_prefills: bool = False) -> Any:
        output = super().schedule(throttle_prefills)
        self._num_in_flight += 1
        tokens = {"online": 0, "offline": 0}
        for request_id, num_tokens in output.num_scheduled_tokens.items():
            tokens[self._class_of(self.requests[request_id])] += num_tokens
        skipped = [r for r in self.running if r.request_id not in output.num_scheduled_tokens]
        self._write(
            "step",
            in_flight=self._num_in_flight,
            **tokens,
            num_skipped=len(skipped),
            has_prices=self.hygen.learner.cost is not None,
            online_waiting=len(self.waiting.online),
            offline_waiting=len(self.waiting.offline),
        )
        return output

    def update_from_output(self, *args: Any, **kwargs: Any) -> Any:
        self._num_in_flight -= 1
        return super().update_from_output(*args, **kwargs)

    def _class_of(self, request: Any) -> str:
        return "offline" if self.is_offline(request) else "online"

    def _write(self, event: str, **values: Any) -> None:
        self._file.write(json.dumps({"event": event, **values}) + "\n")


def read_records(path: Path, event: str) -> list[dict[str, Any]]:
    """Return the complete records of one kind in a file that may still be written."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return [record for record in records if record["event"] == event]
