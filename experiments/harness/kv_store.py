# SPDX-License-Identifier: Apache-2.0
"""KvStore: a connector of vLLM's that finds the KV of some prompts elsewhere, and fails at times.

It only plays the scheduler's side. Whoever plays the worker asks `loads` for what is under way, and
reports each with `finished`, as loaded or as failed.
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
)
from vllm.v1.outputs import KVConnectorOutput
from vllm.v1.request import Request

PER_CENT = 100


@dataclass
class Load:
    """A load that is under way: the blocks from `first` on get the KV of the tokens from there."""

    request: Request
    block_ids: list[int]
    first: int
    """Place of the first of `block_ids` in the request."""


def transfer_config(per_cent: int) -> dict[str, Any]:
    """Return the fields of the KVTransferConfig of an engine with a KvStore."""
    return {
        "kv_connector": "KvStore",
        "kv_connector_module_path": __name__,
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"per_cent": per_cent},
    }


class NoMetadata(KVConnectorMetadata):
    """Nothing for the worker."""


class KvStore(KVConnectorBase_V1):
    """See the module docstring. `kv_connector_extra_config` has `per_cent`: of the requests, those
    of which it has the KV, told by their names.
    """

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        transfer = vllm_config.kv_transfer_config
        self._per_cent = transfer.get_from_extra_config("per_cent", PER_CENT)
        self._block_size = vllm_config.cache_config.block_size
        self._asked: set[str] = set()
        self.loads: dict[str, Load] = {}
        """By request; also of those that were aborted meanwhile."""

    def get_num_new_matched_tokens(
        self, request: Request, num_computed_tokens: int
    ) -> tuple[int, bool]:
        name = request.request_id
        if name in self._asked or zlib.crc32(name.encode()) % PER_CENT >= self._per_cent:
            return 0, False
        whole = (request.num_prompt_tokens - 1) // self._block_size * self._block_size
        found = max(0, whole - num_computed_tokens)
        return found, found > 0

    def update_state_after_alloc(
        self, request: Request, blocks: Any, num_external_tokens: int
    ) -> None:
        if not num_external_tokens:
            return
        self._asked.add(request.request_id)
        block_ids = blocks.get_block_ids()[0]
        num_loaded = num_external_tokens // self._block_size
        last = (request.num_prompt_tokens - 1) // self._block_size
        self.loads[request.request_id] = Load(
            request, block_ids[last - num_loaded : last], last - num_loaded
        )

    def build_connector_meta(self, _: Any) -> KVConnectorMetadata:
        return NoMetadata()

    def request_finished(self, request: Request, _: list[int]) -> tuple[bool, None]:
        self._asked.discard(request.request_id)
        return False, None

    def finished(self, done: Iterable[str], failed: Iterable[str] = ()) -> KVConnectorOutput:
        """Return what a worker reports when loads ended; of those that `failed` a half was there.

        Every other one that failed is named by its blocks, the others by their requests.
        """
        names, lost = {*done}, [*failed]
        by_blocks = [name for name in lost if zlib.crc32(name.encode()) % 2]
        blocks = (self.loads[name].block_ids for name in by_blocks)
        output = KVConnectorOutput(
            finished_recving=names,
            invalid_block_ids={each for some in blocks for each in some[len(some) // 2 :]},
            failed_recving=set(lost) - set(by_blocks),
        )
        for name in names:
            del self.loads[name]
        return output

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Nothing: the worker is played by others."""

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing."""

    def save_kv_layer(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""

    def wait_for_save(self) -> None:
        """Nothing."""
