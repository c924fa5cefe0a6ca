# SPDX-License-Identifier: Apache-2.0
"""Offline work thrown away when online comes in bursts, with and without headroom.

    python experiments/05-offline-lane/spike.py

Three times as many online requests for a part of five minutes, at several seeds; simulated A100,
Llama-2-7B. Writes spike.csv: a line a seed, and the sums.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.provenance import stamp
from runs import A100_LLAMA2, HERE, simulated, write_rows

from hygen_vllm.lab.simulator.many_runs import simulate_all

SEEDS = (400, 401, 402, 403)
HEADROOM = {"none": "headroom_quantile=null", "0.93": "headroom_quantile=0.93"}
CASES = [
    ("arxiv", ["tbt_p99=+20%"]),
    ("arxiv", ["tbt_mean=+20%", "ttft_mean=+20%"]),
    ("sharegpt", ["tbt_p99=+20%"]),
    ("sharegpt", ["tbt_mean=+20%", "ttft_mean=+20%"]),
]


def flags(offline: str, slos: list[str], headroom: str, seed: int) -> dict[str, Any]:
    return {
        "profile": "a100-llama2-7b",
        "policy": "slo",
        "online": "spike",
        "online_rate": 1.1,
        "offline": offline,
        "offline_requests": 2000,
        "seconds": 300,
        "seed": seed,
        "slo": slos,
        "setting": [HEADROOM[headroom]],
    }


def row_of(place: tuple[str, str], headroom: str, seed: Any, values: list[float]) -> dict[str, Any]:
    online, preemptions, recomputed, tokens_per_s, worst = values
    return {
        "offline": place[0],
        "slos": place[1],
        "headroom_quantile": headroom,
        "seed": seed,
        "preemptions_per_1000_online": round(1000 * preemptions / online, 1),
        "recomputed_tokens": round(recomputed),
        "offline_tokens_per_s": round(tokens_per_s),
        "worst_of_its_limit": round(worst, 3),
    }


def values_of(result: dict[str, Any]) -> list[float]:
    return [
        result["details"]["arrived"]["online"],
        result["offline"]["preemptions"],
        result["details"]["recomputed_tokens"],
        result["offline"]["tokens_per_s"],
        max(row["measured_s"] / row["limit_s"] for row in result["slo"]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    seeds = parser.parse_args().seeds
    places = [(case, headroom) for case in CASES for headroom in HEADROOM]
    cases = [flags(*case, headroom, seed) for case, headroom in places for seed in seeds]
    results = iter(simulate_all(cases))
    rows = []
    for (offline, slos), headroom in places:
        place = offline, " ".join(slos)
        found = [values_of(next(results)) for _ in seeds]
        rows += [row_of(place, headroom, s, v) for s, v in zip(seeds, found, strict=True)]
        online, preemptions, recomputed, tokens_per_s, worst = zip(*found, strict=True)
        means = sum(online), sum(preemptions), sum(recomputed), sum(tokens_per_s) / len(seeds)
        rows.append(row_of(place, headroom, "all", [*means, max(worst)]))
    write_rows(HERE / "spike.csv", rows)
    stamp(HERE, ["spike.csv"], simulated(__file__, A100_LLAMA2))


if __name__ == "__main__":
    main()
