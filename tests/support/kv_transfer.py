# SPDX-License-Identifier: Apache-2.0
"""Settings of engines with a KV connector."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

from harness.kv_store import Load
from harness.kv_store import transfer_config as storing

from tests.support.fake_engine import FakeWorker

__all__ = ["offloading", "storing", "write_loaded"]


def offloading(num_bytes: int, **extra: Any) -> dict[str, Any]:
    """Return the fields of a KVTransferConfig with a tier of so many bytes."""
    return {
        "kv_connector": "OffloadingConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"cpu_bytes_to_use": num_bytes, **extra},
    }


def write_loaded(worker: FakeWorker, load: Load, num_blocks: int) -> None:
    """Write the first blocks of a load into the cache of a worker."""
    size = worker.block_size
    for number, block_id in enumerate(load.block_ids[:num_blocks], start=load.first):
        for offset in range(size):
            token = load.request.prompt_token_ids[number * size + offset]
            worker.kv_cache[block_id, offset] = token
