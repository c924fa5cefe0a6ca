# SPDX-License-Identifier: Apache-2.0
"""Serves days with all that happens in them, and writes what came of it: one process a target.

python experiments/27-a-week/week.py --days 7 --out week.json
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from days import week_of

from hygen_vllm.output_file import write_text
from hygen_vllm.simulator.many_runs import in_processes

WEEK = {
    "profile": "a40-qwen-14b",
    "online_rate": 0.15,
    "nightly": 1200,
    "hourly": 60,
    "trickle_per_hour": 12,
    "seed": 501,
}
TARGETS = ("tbt_mean=+20% ttft_mean=+20%", "tbt_p99=+20%")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--days", type=float, default=7.0)
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    options = parser.parse_args()
    flags = [{**WEEK, "days": options.days, "slo": target.split()} for target in TARGETS]
    found = [week for _, week in sorted(in_processes(week_of, flags), key=lambda each: each[0])]
    write_text(options.out, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
