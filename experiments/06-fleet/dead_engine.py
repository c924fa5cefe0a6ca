# SPDX-License-Identifier: Apache-2.0
"""An engine process is killed under load: for how long do requests fail? On a real CPU.

    python experiments/06-fleet/dead_engine.py         # about 6 minutes, 8 GiB, nothing else beside

Two replicas on Ray with the small model; somebody asks a short question every quarter of a second.
`ray` is what ray.serve.llm builds by itself, with the same health check period. Writes
dead-engine.csv.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import httpx
import pandas as pd
import psutil
from harness.apart import RESULT, run_apart
from harness.provenance import stamp
from small_app import HOST, MODEL, our_application, ray_cluster, rays_application
from tqdm import tqdm

HERE = Path(__file__).parent
MEASURES = (
    "ray",
    "experiments/06-fleet/dead_engine.py",
    "experiments/06-fleet/small_app.py",
)
VARIANTS = {"ray": rays_application, "hygen": our_application}
ENGINE_TITLE = "VLLM::EngineCore"
EVERY_S = 0.25
BEFORE_S, AFTER_S = 15.0, 60.0
LIMIT_S = 60.0
"""What a client waits for an answer."""


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
    with ray_cluster(port):
        from ray import serve

        serve.run(VARIANTS[variant](), name="default")
        client = Client(f"http://{HOST}:{port}/v1/chat/completions")
        client.ask_for(BEFORE_S)
        found = psutil.process_iter(["cmdline"])
        engines = [p for p in found if " ".join(p.info["cmdline"] or ()).startswith(ENGINE_TITLE)]
        killed_s = time.monotonic()
        engines[0].kill()
        client.ask_for(AFTER_S)
        client.finish()
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
        command = [__file__, "--measure", variant, "--result", f"{folder}/{RESULT}"]
        return run_apart(command, Path(folder))


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
    stamp(HERE, ["dead-engine.csv"], MEASURES)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
