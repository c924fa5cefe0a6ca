# SPDX-License-Identifier: Apache-2.0
"""Applications on Ray for the tests in this folder, on the CPU with the small model."""

import json
import os
import secrets
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from hygen_vllm.lab.small_model import prepare_small_model
from tests.support.processes import ENGINE_ENVIRONMENT, child_process, log_tail

UP_LIMIT_S = 700.0
MODEL = "small"
TARGET = "tbt_mean=+30%"
ENVIRONMENT = {
    **ENGINE_ENVIRONMENT,
    "VLLM_LOGGING_LEVEL": "WARNING",
}
RAY_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",  # Ray's daemons listen on all interfaces
    "RAY_AUTH_TOKEN": secrets.token_hex(16),
    "RAY_USAGE_STATS_ENABLED": "0",
}
ENGINE = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 512,
    "max_num_seqs": 16,
    "max_num_batched_tokens": 256,
}


@dataclass
class App:
    """An application that is up."""

    address: str
    url: str
    refused: str
    running: int
    up: Path
    pool: Any = None

    @property
    def num_running(self) -> int:
        """Replicas that Serve says run."""
        return json.loads(self.up.read_text())["running"]

    @property
    def num_offline(self) -> int | None:
        """Offline requests that wait or are lent; None while the pool does not answer."""
        pool = json.loads(self.up.read_text())["pool"]
        if pool is None:
            return None
        return pool["waiting"] + sum(each["doing"] for each in pool["replicas"].values())

    def scale(self, num_replicas: int) -> None:
        self.up.with_suffix(".replicas").write_text(str(num_replicas))

    def wait_for(self, num_replicas: int) -> None:
        """Wait until so many replicas run and say so for some seconds."""
        deadline_s = time.monotonic() + UP_LIMIT_S
        steady = 0
        while steady < 5:
            assert time.monotonic() < deadline_s, f"{self.num_running} replicas run"
            steady = steady + 1 if self.num_running == num_replicas else 0
            time.sleep(1.0)

    @staticmethod
    def processes(name: str) -> list[psutil.Process]:
        """Processes of this machine whose title begins so."""
        found = psutil.process_iter(["cmdline"])
        return [p for p in found if " ".join(p.info["cmdline"] or ()).startswith(name)]

    def post(self, path: str, body: dict[str, Any], **options: Any) -> httpx.Response:
        body = {"model": MODEL, "temperature": 0.0, **body}
        return httpx.post(f"{self.url}{path}", json=body, timeout=120.0, **options)

    def chat(self, text: str, **body: Any) -> httpx.Response:
        messages = [{"role": "user", "content": text}]
        return self.post("/v1/chat/completions", {"messages": messages, "max_tokens": 8, **body})

    def batch(self, *arguments: Any, wait: bool = True) -> subprocess.Popen:
        """Run `hygen batch run` against it."""
        command = [sys.executable, "-m", "hygen_vllm.lab.cli", "batch", "run", *map(str, arguments)]
        command += ["--address", self.address]
        process = subprocess.Popen(
            command,
            env={**os.environ, **RAY_ENVIRONMENT},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if wait:
            process.out, process.err = process.communicate(timeout=240.0)
        return process


@contextmanager
def serving(folder: Path, num_replicas: int | None, **config: Any):
    """Yield an App; its processes end with it."""
    log = folder / "app.log"
    config = {
        "model": str(prepare_small_model()),
        "model_id": MODEL,
        "num_replicas": num_replicas,
        "on_cpu": True,
        "engine": ENGINE,
        "env": ENVIRONMENT,
        **config,
    }
    up = folder / "up.json"
    command = [sys.executable, "-m", "tests.support.ray_app", json.dumps(config), str(up)]
    with child_process(command, log, RAY_ENVIRONMENT) as process:
        deadline_s = time.monotonic() + UP_LIMIT_S
        while not up.exists():
            has_ended = process.poll() is not None or time.monotonic() > deadline_s
            assert not has_ended, f"did not start:\n{log_tail(log)}"
            time.sleep(0.5)
        yield App(**json.loads(up.read_text()), up=up)


@pytest.fixture(scope="module")
def two_replicas(tmp_path_factory):
    """Two replicas; a test that ends one waits for the new one."""
    with serving(tmp_path_factory.mktemp("app"), 2, hygen={"mode": "off"}) as app:
        app.wait_for(2)
        yield app


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """One replica; its scheduler steers by TARGET."""
    with serving(tmp_path_factory.mktemp("app"), 1, hygen={"slos": [TARGET]}) as app:
        yield app
