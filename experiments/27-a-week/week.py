# SPDX-License-Identifier: Apache-2.0
"""Serves the days of config.yaml for a week, and writes week.json: one process a target.

python experiments/27-a-week/week.py [--days 7]
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from days import week_of
from harness.experiment import load_config
from harness.provenance import stamp
from harness.record import measures_of

from hygen_vllm.simulator.many_runs import in_processes

HERE = Path(__file__).parent
OUT = HERE / "week.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--days", type=float, default=7.0)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    config = load_config(HERE, is_quick=False)
    flags = [
        {**config["week"], "days": options.days, "slo": target.split(), "seed": config["seeds"][0]}
        for target in config["targets"]
    ]
    found = [week for _, week in sorted(in_processes(week_of, flags), key=lambda each: each[0])]
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.out == OUT:
        stamp(HERE, [OUT.name], [*measures_of(HERE), "experiments/27-a-week/week.py"])


if __name__ == "__main__":
    main()
