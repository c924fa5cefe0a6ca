# SPDX-License-Identifier: Apache-2.0
"""The vLLM engine of the demo; the only file here that imports vllm."""

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from hygen_vllm.lab.demo.policies import (
    ENGINE_SETTINGS,
    OFFLINE_PRIORITY,
    ONLINE_PRIORITY,
    EngineKind,
    scheduler_settings,
)
from hygen_vllm.lab.demo.workload import ONLINE, DemoRequest

# Read by vLLM when it is imported. Settings of the user's own win.
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "auto",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
RESET_LIMIT_S = 30.0


def prepare_environment() -> None:
    """Set vLLM's environment variables for the demo; call before anything imports vllm."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


class DemoEngine:
    """An AsyncLLM that streams token counts. Must be made inside a running event loop."""

    def __init__(
        self, model: Path, kind: EngineKind, hygen: Mapping[EngineKind, Mapping[str, Any]]
    ) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        settings: dict[str, Any] = {
            **ENGINE_SETTINGS,
            **scheduler_settings(kind, hygen),
        }
        self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(model=str(model), **settings))

    async def generate(self, request: DemoRequest, request_id: str) -> AsyncIterator[int]:
        """Yield the number of new tokens each time some arrive; cancelling aborts the request.

        All policies get the same labels: stock vLLM ignores slo_class, fcfs ignores priority.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        params = SamplingParams(
            temperature=0.0,
            max_tokens=request.output_tokens,
            ignore_eos=True,
            output_kind=RequestOutputKind.DELTA,
            extra_args={"slo_class": request.slo_class},
        )
        outputs = self._llm.generate(
            {"prompt_token_ids": request.prompt_token_ids},
            params,
            request_id,
            priority=ONLINE_PRIORITY if request.slo_class == ONLINE else OFFLINE_PRIORITY,
        )
        try:
            async for output in outputs:
                yield len(output.outputs[0].token_ids)
        except (EngineDeadError, EngineGenerateError) as error:
            raise RuntimeError(f"the vLLM engine failed: {error}") from error

    async def forget(self) -> None:
        """Wait until the engine is empty and drop its prefix cache: the next run starts cold."""
        deadline_s = asyncio.get_running_loop().time() + RESET_LIMIT_S
        while not await self._llm.reset_prefix_cache():
            if asyncio.get_running_loop().time() > deadline_s:
                raise RuntimeError(f"vLLM still holds KV blocks {RESET_LIMIT_S:.0f} s after a run")
            await asyncio.sleep(0.2)

    def stop(self) -> None:
        """End vLLM's processes and drop the engine while its destructor can still run."""
        self._llm.shutdown()
        del self._llm
        gc.collect()


def describe_device() -> dict[str, str | int]:
    """Return what the figures were measured on."""
    import vllm
    from vllm.platforms import current_platform

    return {
        "device": current_platform.device_type.upper(),
        "cpu_cores": os.cpu_count() or 0,
        "vllm_version": vllm.__version__,
    }
