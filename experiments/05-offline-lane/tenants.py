# SPDX-License-Identifier: Apache-2.0
"""Two tenants with work all the time: are served tokens in proportion to their weights?

    python experiments/05-offline-lane/tenants.py

One has ten times the requests of the other, all from the start, and other prompts: MMLU against
GSM8K, as tokens of a simulated A100, Llama-2-7B; also behind online requests. Writes tenants.csv.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.provenance import stamp
from runs import A100_LLAMA2, HERE, simulated, write_rows

from hygen_vllm.lab.simulator.many_runs import simulate_all
from hygen_vllm.lab.workloads.sources import find_offline
from hygen_vllm.lab.workloads.tokenizers import HashTokenizer

WEIGHTS = {"1:1": {}, "3:1": {"many": 3.0}, "1:3": {"few": 3.0}}
"""Of the tenants `many` and `few`."""
ONLINE: dict[str, dict[str, Any]] = {
    "": {"policy": "online-first"},
    "azure 1.1/s": {"policy": "slo", "online": "azure", "online_rate": 1.1},
}
SECONDS = 60


def write_backlog(path: Path) -> None:
    """Write all of MMLU as the requests of one tenant, then all of GSM8K as those of another."""
    with path.open("w", encoding="utf-8") as file:
        for tenant, workload in (("many", "mmlu"), ("few", "gsm8k")):
            requests = find_offline(workload, None, 0, HashTokenizer(0)).requests
            for number, request in enumerate(requests):
                line = {
                    "prompt": request.token_ids(number),
                    "output_tokens": request.output_tokens,
                    "vllm_xargs": {"tenant": tenant},
                }
                file.write(json.dumps(line) + "\n")


def flags(backlog: Path, weights: str, online: str) -> dict[str, Any]:
    return {
        "profile": "a100-llama2-7b",
        "offline": str(backlog),
        "seconds": SECONDS,
        "setting": [f"tenant_weights={json.dumps(WEIGHTS[weights])}"],
        **ONLINE[online],
    }


def main() -> None:
    places = [(weights, online) for online in ONLINE for weights in WEIGHTS]
    rows = []
    with TemporaryDirectory() as folder:
        backlog = Path(folder, "backlog.jsonl")
        write_backlog(backlog)
        results = simulate_all([flags(backlog, *place) for place in places])
    for (weights, online), result in zip(places, results, strict=True):
        tokens = result["details"]["offline_tokens_by_tenant"]
        many, few = (int(part) for part in weights.split(":"))
        share = tokens["many"] / sum(tokens.values())
        rows.append(
            {
                "weights_many_few": weights,
                "online": online,
                "many_tokens": tokens["many"],
                "few_tokens": tokens["few"],
                "share_of_many": round(share, 3),
                "of_its_weight": round(share * (many + few) / many, 3),
                "few_of_its_weight": round((1 - share) * (many + few) / few, 3),
            }
        )
    write_rows(HERE / "tenants.csv", rows)
    stamp(HERE, ["tenants.csv"], simulated(__file__, A100_LLAMA2))


if __name__ == "__main__":
    main()
