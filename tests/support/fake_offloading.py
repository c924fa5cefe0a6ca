# SPDX-License-Identifier: Apache-2.0
"""vLLM's own worker side of its OffloadingConnector, over the KV cache of a fake worker.

Transfers complete one step after they were handed in, and copy then, as late as they may: a block
that is used again too early is noticed.
"""

from types import SimpleNamespace

from vllm.distributed.kv_transfer.kv_connector.v1.offloading.worker import OffloadingConnectorWorker
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.kv_offload.base import (
    GPULoadStoreSpec,
    LoadStoreSpec,
    OffloadingWorker,
    TransferResult,
)
from vllm.v1.outputs import KVConnectorOutput

Slots = dict[tuple[int, int], int]
"""Token by (block, offset)."""


class FakeOffloading:
    """Runs the transfers of each step; keeps which requests' blocks were stored and loaded."""

    def __init__(self, kv_cache: Slots, block_size: int) -> None:
        self.stored: dict[str, int] = {}
        """Blocks by request."""
        self.loaded: dict[str, int] = {}
        spec = SimpleNamespace(
            replicated_layout=False, get_worker=lambda _: _CopyLater(kv_cache, block_size)
        )
        self._connector = OffloadingConnectorWorker(spec, None, None)
        self._connector._init_worker(None)

    def begin(self, output: SchedulerOutput) -> None:
        """Do what has to be done before the step writes to the KV cache."""
        metadata = output.kv_connector_metadata
        for job in metadata.store_jobs.values():
            _count(self.stored, job.req_id, job.src_spec)
        for job in metadata.load_jobs.values():
            _count(self.loaded, job.req_id, job.dst_spec)
        self._connector.handle_preemptions(metadata)

    def end(self, output: SchedulerOutput) -> KVConnectorOutput:
        """Hand in the step's transfers; return what has completed."""
        connector = self._connector
        _, received = connector.get_finished(output.finished_req_ids)
        connector.start_kv_transfers(output.kv_connector_metadata)
        connector.prepare_store_kv(output.kv_connector_metadata)
        return KVConnectorOutput(
            finished_recving=received,
            kv_connector_worker_meta=connector.build_connector_worker_meta(),
        )


class _CopyLater(OffloadingWorker):
    def __init__(self, kv_cache: Slots, block_size: int) -> None:
        self._kv_cache = kv_cache
        self._block_size = block_size
        self._host: Slots = {}
        self._pending: dict[int, tuple[Slots, LoadStoreSpec, Slots, LoadStoreSpec]] = {}
        self._done: list[TransferResult] = []

    def submit_store(self, job_id: int, src_spec: GPULoadStoreSpec, dst_spec: LoadStoreSpec):
        self._pending[job_id] = self._kv_cache, src_spec, self._host, dst_spec
        return True

    def submit_load(self, job_id: int, src_spec: LoadStoreSpec, dst_spec: GPULoadStoreSpec):
        self._pending[job_id] = self._host, src_spec, self._kv_cache, dst_spec
        return True

    def wait(self, job_ids: set[int]) -> None:
        for job_id in job_ids & self._pending.keys():
            source, source_spec, target, target_spec = self._pending.pop(job_id)
            pairs = zip(source_spec.block_ids, target_spec.block_ids, strict=True)
            for source_block, target_block in pairs:
                for i in range(self._block_size):
                    target[int(target_block), i] = source[int(source_block), i]
            self._done.append(TransferResult(job_id, success=True))

    def get_finished(self) -> list[TransferResult]:
        self.wait(set(self._pending))
        done, self._done = self._done, []
        return done


def _count(blocks: dict[str, int], request_id: str, spec: GPULoadStoreSpec) -> None:
    blocks[request_id] = blocks.get(request_id, 0) + len(spec.block_ids)
