# SPDX-License-Identifier: Apache-2.0
"""Bursts of online requests that preempt offline ones, without and with vLLM's KV offloading.

    python experiments/05-offline-lane/offload_tier.py --model M --out offload-tier.csv \
        [vLLM's engine flags]

For GPUs: stock vLLM offloads KV there only. A backlog of offline requests fills the KV cache; every
few seconds online requests come at once and need most of it. Online first, without a latency gate.
All room for a burst is made by preempting. `computed again` is what
offline requests had computed before, and computed again. Each variant in a process of its own.
"""

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.apart import RESULT, run_apart
from harness.provenance import stamp_out
from runs import write_rows
from tqdm import tqdm

MEASURES = (
    "engines",
    "experiments/05-offline-lane/offload_tier.py",
    "experiments/05-offline-lane/runs.py",
)
GIB = 1 << 30
TIER_GIB = 16
SECONDS = 30.0
BURST_EVERY_S, BURST_REQUESTS = 3.0, 32
ONLINE = {"prompt_tokens": 1200, "output_tokens": 64}
OFFLINE = {"prompt_tokens": 1500, "output_tokens": 500}
OFFLINE_REQUESTS = 2000

PROMPTS_ONLY = {
    "kv_connector": "OffloadingConnector",
    "kv_role": "kv_both",
    "kv_connector_extra_config": {
        "cpu_bytes_to_use": TIER_GIB * GIB,
        "offload_prompt_only": True,
    },
}
VARIANTS = {
    "no tier": [],
    "tier, prompts only": ["--kv-transfer-config", json.dumps(PROMPTS_ONLY)],
    "tier": ["--kv-offloading-size", str(TIER_GIB)],
}


class Recomputed:
    """Counts what offline requests computed, and what of it again."""

    def __init__(self, scheduler: Any) -> None:
        self.tokens = self.again = 0
        self._most: Counter[str] = Counter()
        self._scheduler = scheduler
        self._schedule = scheduler.schedule
        scheduler.schedule = self._counted

    def _counted(self, *args: Any) -> Any:
        output = self._schedule(*args)
        for request_id, num_tokens in output.num_scheduled_tokens.items():
            if request_id not in self._scheduler.hygen.requests.offline_ids:
                continue
            computed = self._scheduler.requests[request_id].num_computed_tokens
            self.tokens += num_tokens
            self.again += max(0, min(self._most[request_id], computed) - (computed - num_tokens))
            self._most[request_id] = max(self._most[request_id], computed)
        return output


def serve(flags: list[str], seconds: float) -> dict[str, Any]:
    """Serve the bursts and the backlog once."""
    from hygen_vllm.lab.profile.engine_flags import parse_engine_flags
    from hygen_vllm.lab.simulator.simulation import Requests
    from hygen_vllm.lab.tune.engine_server import EngineServer
    from hygen_vllm.lab.workloads.arrivals import Arrival

    bursts = range(1, int(seconds / BURST_EVERY_S))
    online = [Arrival(i * BURST_EVERY_S, **ONLINE) for i in bursts for _ in range(BURST_REQUESTS)]
    requests = Requests(online, [Arrival(0.0, **OFFLINE)] * OFFLINE_REQUESTS)
    server = EngineServer(parse_engine_flags(flags), lambda _: requests, seconds)
    try:
        recomputed = Recomputed(server.scheduler)
        served = server.serve_requests(requests, lambda _: None)
        stats = served.stats
        return {
            "offline_tokens_per_s": round(served.offline_tokens_per_s),
            "preemptions": server.scheduler.hygen.offline_log.num_preemptions,
            "computed": recomputed.tokens,
            "computed_again": recomputed.again,
            "ttft_mean_ms": round(1e3 * (stats["ttft"].mean or 0.0)),
            "tbt_mean_ms": round(1e3 * (stats["tbt"].mean or 0.0), 1),
        }
    finally:
        server.close()


def serve_apart(flags: list[str], seconds: float) -> dict[str, Any]:
    """Serve in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [__file__, "--serve", str(Path(folder, RESULT)), "--seconds", str(seconds)]
        return run_apart([*command, *flags], Path(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--out", type=Path, help="write the table as CSV")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each run")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options, flags = parser.parse_known_args()
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    if options.serve:
        options.serve.write_text(json.dumps(serve(flags, options.seconds)))
        return
    rows = []
    for name in tqdm(options.variants, unit="run", file=sys.stderr):
        rows.append({"variant": name, **serve_apart([*flags, *VARIANTS[name]], options.seconds)})
        write_rows(options.out, rows)
    stamp_out(options.out, MEASURES)


if __name__ == "__main__":
    main()
