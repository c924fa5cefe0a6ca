# SPDX-License-Identifier: Apache-2.0
"""Several engines: who should get a request, and where should offline work wait?

    python experiments/06-fleet/fleet.py
    python experiments/06-fleet/fleet.py --replicas 4

Simulated A100s with Llama-3-8B, arXiv summaries offline, P99 TBT of 60 ms as target. Writes a table
of medians over seeds, fleet.csv.
"""

import argparse
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from sessions import write_sessions

from hygen_vllm.fleet.routing import ROUTERS
from hygen_vllm.simulator.many_runs import simulate_all

HERE = Path(__file__).parent
RATES = {"poisson": 3.5, "gamma": 3.5, "sessions": 2.5}
"""Online requests/s of one replica: steady, bursty, and with shared prefixes."""
FIRST_SEED = 400
SIZES = {4: (3, 120.0), 16: (2, 120.0), 64: (1, 60.0)}
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


def table_of(replicas: int) -> pd.DataFrame:
    """Return the medians of a size."""
    num_seeds, _ = SIZES[replicas]
    places = [*product([replicas], RATES, ROUTERS, range(FIRST_SEED, FIRST_SEED + num_seeds))]
    with tempfile.TemporaryDirectory() as folder:
        found = simulate_all([flags(*place, Path(folder)) for place in places])
    keys = ["replicas", "load", "router", "seed"]
    rows = pd.DataFrame(
        [
            {**dict(zip(keys, place, strict=True)), **figures(result)}
            for place, result in zip(places, found, strict=True)
        ]
    )
    runs = rows.groupby(keys[:3], sort=False)
    table = runs.median().drop(columns="seed").round(3)
    table.insert(0, "seeds", runs.size())
    return table.reset_index()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicas", type=int, nargs="+", choices=SIZES, default=[*SIZES])
    parser.add_argument("--out", type=Path, default=HERE / "fleet.csv")
    options = parser.parse_args()
    tables = []
    for replicas in options.replicas:
        tables.append(table_of(replicas))
        pd.concat(tables).to_csv(options.out, index=False)
    print(pd.concat(tables).to_string(index=False))


if __name__ == "__main__":
    main()
