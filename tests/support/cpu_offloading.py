# SPDX-License-Identifier: Apache-2.0
"""vLLM's offloading to host memory for its CPU engine, which refuses its own.

Copies are made at once.
Given to an engine as `spec_name` and `spec_module_path` in kv_connector_extra_config.
"""

import time

import torch
from vllm.v1.kv_offload.base import (
    CanonicalKVCaches,
    GPULoadStoreSpec,
    LoadStoreSpec,
    OffloadingWorker,
    TransferResult,
)
from vllm.v1.kv_offload.cpu.spec import CPUOffloadingSpec

Tensors = list[torch.Tensor]


class SynchronousSpec(CPUOffloadingSpec):
    """vLLM's own but for the worker."""

    def get_worker(self, kv_caches: CanonicalKVCaches) -> OffloadingWorker:
        assert self.blocks_per_chunk == 1
        return _Copier(kv_caches, self.num_chunks)


class _Copier(OffloadingWorker):
    def __init__(self, kv_caches: CanonicalKVCaches, num_chunks: int) -> None:
        self._device = [each.tensor for each in kv_caches.tensors]
        self._host = [each.new_empty((num_chunks, *each.shape[1:])) for each in self._device]
        self._done: list[TransferResult] = []

    def submit_store(
        self, job_id: int, src_spec: GPULoadStoreSpec, dst_spec: LoadStoreSpec
    ) -> bool:
        return self._copy(job_id, self._device, src_spec, self._host, dst_spec)

    def submit_load(self, job_id: int, src_spec: LoadStoreSpec, dst_spec: GPULoadStoreSpec) -> bool:
        return self._copy(job_id, self._host, src_spec, self._device, dst_spec)

    def _copy(
        self,
        job_id: int,
        sources: Tensors,
        source_spec: LoadStoreSpec,
        targets: Tensors,
        target_spec: LoadStoreSpec,
    ) -> bool:
        started_s = time.perf_counter()
        size = 0
        for source, target in zip(sources, targets, strict=True):
            blocks = source[source_spec.block_ids]
            target[target_spec.block_ids] = blocks
            size += blocks.nbytes
        took_s = time.perf_counter() - started_s
        self._done.append(TransferResult(job_id, True, transfer_size=size, transfer_time=took_s))
        return True

    def wait(self, job_ids: set[int]) -> None:
        """Nothing to wait for."""

    def get_finished(self) -> list[TransferResult]:
        done, self._done = self._done, []
        return done
