# SPDX-License-Identifier: Apache-2.0
"""vLLM's own schedulers and HyGen's in one real engine on a GPU.

python experiments/real-gpu/run.py --model M --online gamma --online-rate 8 \
        --slo tbt_p99=+20% --slo tbt_mean=+20% --out gpu.json [vLLM's engine flags]
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.provenance import stamp_out
from harness.real_engine import add_options, run_engine, table

MEASURES = (
    "engines",
    "experiments/harness/real_engine.py",
    "experiments/real-gpu/run.py",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add_options(parser)
    options, flags = parser.parse_known_args()
    print(table(run_engine(options, flags)["rows"], options.slo))
    stamp_out(options.out, MEASURES)


if __name__ == "__main__":
    main()
