# SPDX-License-Identifier: Apache-2.0
"""Child processes of tests: a log file each, a time limit, and nothing of them left behind."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
TERMINATION_S = 20.0
LOG_TAIL_CHARACTERS = 6000
ENGINE_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    # One thread: several that wait for each other stand still where something else wants a core.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_LOGGING_LEVEL": "INFO",
    "VLLM_CONFIGURE_LOGGING": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
"""What a small engine on the CPU runs with."""


@contextmanager
def child_process(
    command: Sequence[str], log: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command with stdout and stderr in `log`; end it and all it started on exit.

    It runs from the root of the repository, which it can import, with `environment` added to ours.
    """
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": path, **environment},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            _end_group(process)


def run_process(
    command: Sequence[str], log: Path, environment: Mapping[str, str], limit_s: float
) -> int:
    """Run a command to its end; AssertionError with the end of its log past the time limit."""
    with child_process(command, log, environment) as process:
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not done after {limit_s:.0f} s:\n{log_tail(log)}") from None


def log_tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL_CHARACTERS:]


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process politely, then whatever is left of its process group."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(TERMINATION_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def reserved_port() -> Iterator[int]:
    """Yield a port of the loopback interface that nobody else gets and nobody listens on.

    A server that sets SO_REUSEADDR, as vLLM and Ray Serve do, can listen on it meanwhile.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])
