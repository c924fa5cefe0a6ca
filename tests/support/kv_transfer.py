# SPDX-License-Identifier: Apache-2.0
"""Settings of engines with vLLM's OffloadingConnector."""

from typing import Any


def offloading(num_bytes: int, **extra: Any) -> dict[str, Any]:
    """Return the fields of a KVTransferConfig with a tier of so many bytes."""
    return {
        "kv_connector": "OffloadingConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"cpu_bytes_to_use": num_bytes, **extra},
    }
