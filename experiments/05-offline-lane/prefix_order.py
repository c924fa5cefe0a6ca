# SPDX-License-Identifier: Apache-2.0
"""Prefix hits and throughput of a shuffled offline set over the size of the KV cache, and fairness.

    python experiments/05-offline-lane/prefix_order.py

Simulated A100, Llama-2-7B. Writes prefix-order.csv and prefix-order.png, and fairness.csv: what
the bound on waiting costs at 12,000 tokens. --picture only draws.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from harness.provenance import stamp
from runs import A100_LLAMA2, HERE, infinite_hits, read_rows, simulated, write_rows

from hygen_vllm.lab.simulator.many_runs import simulate_all
from hygen_vllm.lab.workloads.sources import find_offline
from hygen_vllm.lab.workloads.tokenizers import HashTokenizer

BLOCK_SIZE = 16
SEED = 0
KV_TOKENS = {
    "mmlu": (6_000, 8_000, 12_000, 16_000, 24_000, 36_000, 50_000, 70_000, 100_000),
    "gsm8k": (6_000, 12_000, 100_000),
}
ORDERS = {"fcfs": "#8a8f98", "prefix": "#0b6e4f"}
FAIR_KV_TOKENS = 12_000
FAIRNESS: dict[str, list[str]] = {
    "prefix": [],
    "all have waited longer than offline_max_wait_s": ["offline_max_wait_s=0.001"],
    "fcfs": ["offline_order=fcfs"],
}


def flags(workload: str, kv_tokens: int, settings: list[str]) -> dict[str, Any]:
    return {
        "profile": "a100-llama2-7b",
        "policy": "online-first",
        "offline": workload,
        "kv_blocks": kv_tokens // BLOCK_SIZE + 1,
        "max_model_len": 4096,
        "seed": SEED,
        "setting": settings,
    }


def prompts_of(workload: str) -> list[list[int]]:
    """Return the tokens of each prompt of a set, in its random order."""
    requests = find_offline(workload, None, SEED, HashTokenizer(SEED)).requests
    return [request.token_ids(number) for number, request in enumerate(requests)]


def over_kv_sizes() -> list[dict[str, Any]]:
    places = [(name, tokens) for name, sizes in KV_TOKENS.items() for tokens in sizes]
    cases = [
        flags(name, tokens, [f"offline_order={order}"])
        for name, tokens in places
        for order in ORDERS
    ]
    results = iter(simulate_all(cases))
    infinite = {name: infinite_hits(prompts_of(name), BLOCK_SIZE) for name in KV_TOKENS}
    rows = []
    for name, kv_tokens in places:
        found = {order: next(results)["offline"] for order in ORDERS}
        row: dict[str, Any] = {"offline": name, "kv_tokens": kv_tokens}
        for order, offline in found.items():
            row[f"{order}_tokens_per_s"] = round(offline["tokens_per_s"])
            row[f"{order}_hit_rate"] = round(offline["prefix_hit_rate"], 4)
        row["infinite_hit_rate"] = round(infinite[name], 4)
        row["of_infinite"] = round(found["prefix"]["prefix_hit_rate"] / infinite[name], 4)
        speeds = [found[order]["tokens_per_s"] for order in ("prefix", "fcfs")]
        row["speedup"] = round(speeds[0] / speeds[1], 2)
        rows.append(row)
    return rows


def fairness() -> list[dict[str, Any]]:
    cases = [flags("mmlu", FAIR_KV_TOKENS, settings) for settings in FAIRNESS.values()]
    return [
        {
            "order": name,
            "tokens_per_s": round(result["offline"]["tokens_per_s"]),
            "hit_rate": round(result["offline"]["prefix_hit_rate"], 4),
        }
        for name, result in zip(FAIRNESS, simulate_all(cases), strict=True)
    ]


def draw(rows: list[dict[str, str]]) -> None:
    """Draw throughput and hit rate of MMLU over the size of the KV cache."""
    rows = [row for row in rows if row["offline"] == "mmlu"]
    kv_tokens = [int(row["kv_tokens"]) for row in rows]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for ax, what, title in zip(
        axes,
        ("tokens_per_s", "hit_rate"),
        ("offline tokens/s", "prefix hit rate"),
        strict=True,
    ):
        for order, colour in ORDERS.items():
            values = [float(row[f"{order}_{what}"]) for row in rows]
            ax.plot(kv_tokens, values, color=colour, marker="o", ms=4, label=order)
        ax.set(title=title, xlabel="tokens the KV cache holds", xscale="log")
        ax.set_xticks([6_000, 12_000, 24_000, 50_000, 100_000])
        ax.set_xticklabels(["6k", "12k", "24k", "50k", "100k"])
        ax.minorticks_off()
        ax.set_ylim(bottom=0)
    axes[1].axhline(
        float(rows[0]["infinite_hit_rate"]), color="#b3261e", lw=1, ls=":", label="infinite cache"
    )
    axes[1].legend(frameon=False, loc="lower right")
    figure.suptitle("14,042 shuffled MMLU 5-shot questions, simulated A100, Llama-2-7B")
    figure.savefig(HERE / "prefix-order.png", dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", action="store_true", help="only draw what was measured before")
    only_draws = parser.parse_args().picture
    path = HERE / "prefix-order.csv"
    if not only_draws:
        write_rows(path, over_kv_sizes())
        write_rows(HERE / "fairness.csv", fairness())
    draw(read_rows(path))
    if not only_draws:
        results = [path.name, "prefix-order.png", "fairness.csv"]
        stamp(HERE, results, simulated(__file__, A100_LLAMA2))


if __name__ == "__main__":
    main()
