# SPDX-License-Identifier: Apache-2.0
"""`vllm serve` as a child process, and what it has written down so far."""

import re
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

from tests.support.processes import ENGINE_ENVIRONMENT, child_process, log_tail, reserved_port
from tests.support.recording_scheduler import RECORD_ENV

VLLM = Path(sys.executable).with_name("vllm")
START_LIMIT_S = 700.0
IDLE_LIMIT_S = 300.0
HTTP_LIMIT_S = 60.0


@dataclass(frozen=True)
class Server:
    """A running server that serves `model`."""

    url: str
    model: str
    log: Path
    record: Path

    def gauge(self, name: str) -> float:
        """Return the sum over all series of one of vLLM's metrics."""
        text = _get(f"{self.url}/metrics")
        values = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, flags=re.MULTILINE)
        assert values, f"no metric {name}"
        return sum(map(float, values))

    def wait_until_idle(self) -> None:
        """Return once no request is left in the engine and no KV block is held."""
        deadline_s = time.monotonic() + IDLE_LIMIT_S
        names = [
            "vllm:num_requests_running",
            "vllm:num_requests_waiting",
            "vllm:kv_cache_usage_perc",
        ]
        while any(left := {name: self.gauge(name) for name in names}.values()):
            assert time.monotonic() < deadline_s, left
            time.sleep(0.5)


@contextmanager
def vllm_server(model: Path, arguments: Sequence[str], folder: Path) -> Iterator[Server]:
    """Start a server on a port of this machine; ends it with all its processes.

    Raises: AssertionError with the end of its log if it does not start.
    """
    with reserved_port() as port:
        yield from _serve(model, arguments, folder, port)


def _serve(model: Path, arguments: Sequence[str], folder: Path, port: int) -> Iterator[Server]:
    server = Server(f"http://127.0.0.1:{port}", model.name, folder / "log", folder / "record.jsonl")
    command = [str(VLLM), "serve", str(model), "--served-model-name", model.name]
    command += ["--host", "127.0.0.1", "--port", str(port), *arguments]
    environment = {**ENGINE_ENVIRONMENT, RECORD_ENV: str(server.record)}
    with child_process(command, server.log, environment) as process:
        deadline_s = time.monotonic() + START_LIMIT_S
        while not _is_healthy(server.url):
            has_time = time.monotonic() < deadline_s
            assert process.poll() is None and has_time, log_tail(server.log)  # noqa: PT018
            time.sleep(0.5)
        yield server


def _is_healthy(url: str) -> bool:
    try:
        _get(f"{url}/health")
    except (URLError, OSError):
        return False
    return True


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=HTTP_LIMIT_S) as response:
        return str(response.read().decode())
