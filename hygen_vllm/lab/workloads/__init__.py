# SPDX-License-Identifier: Apache-2.0
"""What is served: when requests arrive, how long they are, and which tokens their prompts share.

`arrivals.py` has the request of a workload and what changes a list of them; `trace_files.py` reads
them, `arrival_processes.py` draws them; `prompts.py` and `few_shot.py` make prompts out of text,
`prompt_tokens.py` out of numbers; `sources.py` finds all of it by a file or a name. Everything is
seeded: same seed, same requests. Nothing here imports vllm or torch, so that the demo, the
simulator and deployments share one workload.
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
