# SPDX-License-Identifier: Apache-2.0
"""Several engines: who should get a request, and where should offline work wait?

    python experiments/06-fleet/fleet.py
    python experiments/06-fleet/fleet.py --replicas 4

Simulated A100s with Llama-3-8B, arXiv summaries offline, P99 TBT of 60 ms as target. Writes a table
of medians over seeds, fleet.csv.
"""

import argparse
import csv
import statistics
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.provenance import stamp_out
from sessions import write_sessions

from hygen_vllm.fleet.routing import ROUTERS
from hygen_vllm.lab.simulator.many_runs import simulate_all

HERE = Path(__file__).parent
MEASURES = (
    "simulates",
    "experiments/06-fleet/fleet.py",
    "experiments/06-fleet/sessions.py",
    "profiles/a100/llama3-8b/*.json",
)
RATES = {"poisson": 3.5, "gamma": 3.5, "sessions": 2.5, "mooncake": 0.6}
"""Online requests/s of one replica: steady, bursty, with shared prefixes, with long prompts."""
TRACE_REPLICAS = 4
"""Mooncake's trace is enough for so many."""
FIRST_SEED = 400
SIZES = {4: (3, 120.0), 16: (2, 60.0), 64: (1, 45.0)}
"""Seeds and seconds of online requests, by the number of replicas."""
JOB_PER_S = 2.5
"""Offline requests for each replica and second of `sessions`, which run until all is done."""


def flags(replicas: int, load: str, router: str, seed: int, folder: Path) -> dict[str, Any]:
    """Return the flags of a run."""
    seconds = SIZES[replicas][1]
    rate = RATES[load] * replicas
    common = {
        "replicas": replicas,
        "router": router,
        "profile": "a100-llama3-8b",
        "max_model_len": 16384,
        "policy": "slo",
        "slo": "tbt_p99=60ms",
        "offline": "arxiv",
        "seed": seed,
    }
    if load != "sessions":
        return {**common, "online": load, "online_rate": rate, "seconds": seconds}
    path = folder / f"{replicas}-{seed}.jsonl"
    write_sessions(path, rate, seconds, seed)
    return {**common, "online": path, "offline_requests": round(JOB_PER_S * seconds * replicas)}


def figures(result: dict[str, Any]) -> dict[str, float]:
    """Return what is compared."""
    online = result["online"]
    requests = [replica["online"]["finished"] for replica in result["per_replica"]]
    return {
        "ttft_mean_ms": 1e3 * online["ttft_s"]["mean"],
        "ttft_p99_ms": 1e3 * online["ttft_s"]["p99"],
        "tbt_mean_ms": 1e3 * online["tbt_s"]["mean"],
        "tbt_p99_ms": 1e3 * online["tbt_s"]["p99"],
        "online_hit_rate": result["details"]["online_prefix_hit_rate"],
        "offline_tokens_per_s": result["offline"]["tokens_per_s"],
        "all_done_s": result["virtual_s"],
        "most_to_least_requests": max(requests) / max(1, min(requests)),
    }


def table_of(replicas: int) -> list[dict[str, Any]]:
    """Return the medians of a size."""
    num_seeds, _ = SIZES[replicas]
    loads = [load for load in RATES if load != "mooncake" or replicas <= TRACE_REPLICAS]
    places = [*product([replicas], loads, ROUTERS, range(FIRST_SEED, FIRST_SEED + num_seeds))]
    with tempfile.TemporaryDirectory() as folder:
        results = simulate_all([flags(*place, Path(folder)) for place in places])
    found = [*map(figures, results)]
    rows = []
    for start in range(0, len(places), num_seeds):
        _, load, router, _ = places[start]
        of_seeds = found[start : start + num_seeds]
        medians = {n: round(statistics.median(each[n] for each in of_seeds), 3) for n in found[0]}
        first = {"replicas": replicas, "load": load, "router": router, "seeds": num_seeds}
        rows.append({**first, **medians})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicas", type=int, nargs="+", choices=SIZES, default=[*SIZES])
    parser.add_argument("--out", type=Path, default=HERE / "fleet.csv")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for replicas in options.replicas:
        rows += table_of(replicas)
        with options.out.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    stamp_out(options.out, MEASURES)
    for row in rows:
        print(*row.values(), sep="  ")


if __name__ == "__main__":
    main()
