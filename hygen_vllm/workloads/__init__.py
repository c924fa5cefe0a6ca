# SPDX-License-Identifier: Apache-2.0
"""What is served: when online requests arrive and how long they are, and which prompts they carry.

Read `arrivals.py`, then `prompts.py`. Everything is seeded: same seed, same requests. Nothing here
imports vllm or torch, so the demo, the simulator and the tests share one workload.
"""

import os
from pathlib import Path


def data_dir() -> Path | None:
    """Return the folder named by HYGEN_DATA, or None when it is not set.

    Raises: ValueError if HYGEN_DATA names no folder.
    """
    value = os.environ.get("HYGEN_DATA", "")
    if not value:
        return None
    if not Path(value).is_dir():
        raise ValueError(
            f"HYGEN_DATA must name a folder, got {value}; unset it to use generated data"
        )
    return Path(value)
