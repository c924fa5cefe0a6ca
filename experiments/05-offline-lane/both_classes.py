# SPDX-License-Identifier: Apache-2.0
"""Conversations online with a backlog behind them: who finds how much in the prefix cache?

    python experiments/05-offline-lane/both_classes.py

Mooncake's conversation trace; simulated A100 and H200, Llama-3-8B. Writes both-classes.csv.
"""

import sys
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.provenance import stamp
from runs import HERE, simulated, write_rows

from hygen_vllm.lab.simulator.many_runs import simulate_all

ENGINES = {"a100-llama3-8b": 0.3, "h200-llama3-8b": 1.0}
"""Online requests/s."""
ALONE = "online-only"
POLICIES: dict[str, dict[str, Any]] = {
    ALONE: {},
    "vllm-priority": {},
    "slo": {"slo": ["tbt_mean=+20%", "ttft_mean=+20%"]},
    "slo, p99": {"policy": "slo", "slo": ["tbt_p99=+20%"]},
}
OFFLINE = {"mmlu": 200, "arxiv": 900}
"""Seconds; about as long as all of MMLU takes."""


def flags(engine: str, offline: str, policy: str) -> dict[str, Any]:
    return {
        "profile": engine,
        "policy": policy,
        "online": "mooncake",
        "online_rate": ENGINES[engine],
        "seconds": OFFLINE[offline],
        "seed": 5,
        **({} if policy == ALONE else {"offline": offline}),
        **POLICIES[policy],
    }


def main() -> None:
    places = [*product(ENGINES, OFFLINE, POLICIES)]
    rows = []
    results = simulate_all([flags(*place) for place in places])
    for (engine, offline, policy), result in zip(places, results, strict=True):
        worst = max((row["measured_s"] / row["limit_s"] for row in result["slo"]), default=None)
        rows.append(
            {
                "engine": engine,
                "offline": offline,
                "policy": policy,
                "online_hit_rate": round(result["details"]["online_prefix_hit_rate"], 4),
                "offline_hit_rate": round(result["offline"]["prefix_hit_rate"], 4)
                if policy != ALONE
                else "",
                "offline_left": result["details"]["arrived"]["offline"]
                - result["offline"]["finished"],
                "offline_tokens_per_s": round(result["offline"]["tokens_per_s"]),
                "ttft_mean_ms": round(1e3 * result["online"]["ttft_s"]["mean"], 1),
                "tbt_mean_ms": round(1e3 * result["online"]["tbt_s"]["mean"], 2),
                "tbt_p99_ms": round(1e3 * result["online"]["tbt_s"]["p99"], 1),
                "worst_of_its_limit": "" if worst is None else round(worst, 3),
            }
        )
    write_rows(HERE / "both-classes.csv", rows)
    profiles = ("profiles/a100/llama3-8b/*.json", "profiles/h200/llama3-8b/profile.json")
    stamp(HERE, ["both-classes.csv"], simulated(__file__, *profiles))


if __name__ == "__main__":
    main()
