# SPDX-License-Identifier: Apache-2.0
"""Worker extension that writes to every KV block of an engine.

Memory that was never written to reads as one shared page of zeros, from the cache of the processor:
attention over it would look faster than it is.
"""

from typing import Any


class FillKVCache:
    """Mixed into vLLM's worker by `worker_extension_cls`."""

    model_runner: Any

    def fill_kv_cache(self) -> int:
        """Fill the KV cache with small numbers; return its bytes."""
        num_bytes = 0
        for tensor in self.model_runner.kv_caches:
            for part in tensor if isinstance(tensor, (list, tuple)) else (tensor,):
                part.fill_(0.01)
                num_bytes += part.nbytes
        return num_bytes
