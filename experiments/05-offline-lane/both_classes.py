# SPDX-License-Identifier: Apache-2.0
"""Conversations online with an MMLU backlog behind them: who finds how much in the prefix cache?

    python experiments/05-offline-lane/both_classes.py

Mooncake's conversation trace, 15 minutes; simulated A100 and H200, Llama-3-8B. Writes
both-classes.csv.
"""

from typing import Any

from runs import HERE, simulate_all, write_rows

ENGINES = {"a100-llama3-8b": 0.3, "h200-llama3-8b": 1.0}
"""Online requests/s."""
POLICIES: dict[str, dict[str, Any]] = {
    "online-only": {},
    "vllm-priority": {},
    "slo": {"slo": ["tbt_mean=+20%", "ttft_mean=+20%"]},
    "slo, p99": {"slo": ["tbt_p99=+20%"]},
}
OFFLINE = ("mmlu", "arxiv")


def flags(engine: str, offline: str, policy: str) -> dict[str, Any]:
    return {
        "profile": engine,
        "policy": policy.split(",", maxsplit=1)[0],
        "online": "mooncake",
        "online_rate": ENGINES[engine],
        "offline": offline,
        "seconds": 900,
        "seed": 5,
        **POLICIES[policy],
    }


def main() -> None:
    places = [(e, o, p) for e in ENGINES for o in OFFLINE for p in POLICIES]
    rows = []
    results = simulate_all([flags(*place) for place in places])
    for (engine, offline, policy), result in zip(places, results, strict=True):
        is_alone = policy == "online-only"
        worst = max((row["measured_s"] / row["limit_s"] for row in result["slo"]), default=None)
        rows.append(
            {
                "engine": engine,
                "offline": "" if is_alone else offline,
                "policy": policy,
                "online_hit_rate": round(result["details"]["online_prefix_hit_rate"], 4),
                "offline_hit_rate": ""
                if is_alone
                else round(result["offline"]["prefix_hit_rate"], 4),
                "offline_tokens_per_s": round(result["offline"]["tokens_per_s"]),
                "ttft_mean_ms": round(1e3 * result["online"]["ttft_s"]["mean"], 1),
                "tbt_mean_ms": round(1e3 * result["online"]["tbt_s"]["mean"], 2),
                "tbt_p99_ms": round(1e3 * result["online"]["tbt_s"]["p99"], 1),
                "worst_of_its_limit": "" if worst is None else round(worst, 3),
            }
        )
    write_rows(HERE / "both-classes.csv", [row for i, row in enumerate(rows) if _is_new(rows, i)])


def _is_new(rows: list[dict[str, Any]], place: int) -> bool:
    """Whether a row is not that of an earlier run; online alone is the same for every backlog."""
    return rows[place] not in rows[:place]


if __name__ == "__main__":
    main()
