# SPDX-License-Identifier: Apache-2.0
"""An engine process is killed under load: for how long do requests fail? On a real CPU.

    python experiments/06-fleet/dead_engine.py         # about 6 minutes, 8 GiB, nothing else beside

Two replicas on Ray with the small model; somebody asks a short question every quarter of a second.
`ray` is what ray.serve.llm builds by itself, with the same health check period. Writes
dead-engine.csv.
"""

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import psutil
from tqdm import tqdm

HERE = Path(__file__).parent
VARIANTS = ("ray", "hygen")
MODEL = "small"
ENGINE_TITLE = "VLLM::EngineCore"
EVERY_S = 0.25
BEFORE_S, AFTER_S = 15.0, 60.0
LIMIT_S = 60.0
"""What a client waits for an answer."""
ENGINE = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 512,
    "max_num_seqs": 16,
    "max_num_batched_tokens": 256,
}
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


def application(variant: str) -> Any:
    """Return ours, or what Ray builds by itself."""
    from ray.serve.llm import LLMConfig, build_openai_app

    from hygen_vllm.ray_serving import AppConfig, build_app
    from hygen_vllm.ray_serving.app import HEALTH_CHECK_PERIOD_S
    from hygen_vllm.small_model import prepare_small_model

    model = str(prepare_small_model())
    if variant == "hygen":
        config = AppConfig(model, MODEL, 2, engine=ENGINE, on_cpu=True, env=ENVIRONMENT)
        return build_app(config)
    llm = LLMConfig(
        model_loading_config={"model_id": MODEL, "model_source": model},
        engine_kwargs=ENGINE,
        deployment_config={"num_replicas": 2, "health_check_period_s": HEALTH_CHECK_PERIOD_S},
        runtime_env={"env_vars": ENVIRONMENT},
        accelerator_config={"kind": "cpu"},
    )
    one = {"num_replicas": 1, "autoscaling_config": None, "ray_actor_options": {"num_cpus": 0}}
    return build_openai_app({"llm_configs": [llm], "ingress_deployment_config": one})


class Client:
    """Asks on and on. Each request is a row: when, for how long, and whether it was answered."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._threads: list[threading.Thread] = []
        self.rows: list[dict[str, float]] = []

    def ask_for(self, seconds: float) -> None:
        for _ in range(round(seconds / EVERY_S)):
            self._threads.append(threading.Thread(target=self._ask))
            self._threads[-1].start()
            time.sleep(EVERY_S)

    def finish(self) -> None:
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        messages = [{"role": "user", "content": f"Say {len(self.rows)}."}]
        body = {"model": MODEL, "messages": messages, "max_tokens": 8}
        start_s = time.monotonic()
        try:
            is_good = httpx.post(self._url, json=body, timeout=LIMIT_S).is_success
        except httpx.HTTPError:
            is_good = False
        self.rows.append({"at_s": start_s, "took_s": time.monotonic() - start_s, "good": is_good})


def measure(variant: str, port: int) -> dict[str, Any]:
    """Serve, kill an engine, return what became of the requests."""
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(16))
    import ray
    from ray import serve

    with tempfile.TemporaryDirectory(prefix="hygen", ignore_cleanup_errors=True) as folder:
        ray.init(num_cpus=6, num_gpus=0, include_dashboard=False, _temp_dir=folder)
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(application(variant), name="default")
        client = Client(f"http://127.0.0.1:{port}/v1/chat/completions")
        client.ask_for(BEFORE_S)
        found = psutil.process_iter(["cmdline"])
        engines = [p for p in found if " ".join(p.info["cmdline"] or ()).startswith(ENGINE_TITLE)]
        killed_s = time.monotonic()
        engines[0].kill()
        client.ask_for(AFTER_S)
        client.finish()
        ray.shutdown()
    rows = pd.DataFrame(client.rows)
    before, after = rows[rows.at_s + rows.took_s < killed_s], rows[rows.at_s > killed_s]
    failed = rows[~rows.good.astype(bool)]
    return {
        "variant": variant,
        "requests": len(rows),
        "failed": len(failed),
        "last_failed_s": round(float((failed.at_s - killed_s).max()), 1) if len(failed) else "",
        "before_median_s": round(float(before.took_s.median()), 2),
        "after_median_s": round(float(after.took_s.median()), 2),
        "longest_s": round(float(rows.took_s.max()), 1),
    }


def measure_apart(variant: str) -> dict[str, Any]:
    """Measure in a process of its own, whose Ray ends with it."""
    with tempfile.TemporaryDirectory() as folder:
        result, log = Path(folder, "result.json"), Path(folder, "log")
        command = [sys.executable, __file__, "--measure", variant, "--result", str(result)]
        with log.open("w") as file:
            done = subprocess.run(command, stdout=file, stderr=file, check=False)
        if done.returncode:
            sys.exit(log.read_text()[-6000:])
        found: dict[str, Any] = json.loads(result.read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=8123)
    options = parser.parse_args()
    if options.measure is not None:
        options.result.write_text(json.dumps(measure(options.measure, options.port)))
        return
    table = pd.DataFrame([measure_apart(each) for each in tqdm(VARIANTS, unit="variant")])
    table.to_csv(HERE / "dead-engine.csv", index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
