# SPDX-License-Identifier: Apache-2.0
"""vLLM's KV offloading (--kv-offloading-size) as the place where preempted offline KV survives.

vLLM's OffloadingConnector copies blocks to host memory as they fill, and a request that starts or
resumes loads what it finds there. By default it keeps prompts only; here the tokens that offline
requests made are kept, too, so that one which was preempted goes on where it was. Online requests
that come while there is offline work stay out of the tier: they are hardly ever preempted, and
would push out what is needed there. They still load what they find. Without offline requests in the
engine all is as in stock vLLM.

vLLM 0.32.0: v1/kv_offload/base.py:620 (`offload_prompt_only`) and
distributed/kv_transfer/kv_connector/v1/offloading/scheduler.py:407 (`max_offload_tokens`).
"""

from collections.abc import Collection
from typing import Any

from vllm.v1.request import Request

from hygen_vllm.engine.requests import Follower
from hygen_vllm.operate.log import engine_logger

logger = engine_logger()

CONNECTOR = "OffloadingConnector"
PROMPT_ONLY = "offload_prompt_only"


class KvOffloading(Follower):
    """Which tokens of a request are offloaded. Does nothing in an engine without that connector.

    Args:
        vllm_config: of an engine whose connector is not made yet; PROMPT_ONLY is set in it.
        offloads_online: online requests go there as in stock vLLM.
    """

    def __init__(self, vllm_config: Any, offloads_online: bool) -> None:
        transfer = vllm_config.kv_transfer_config
        self._is_on = transfer is not None and transfer.kv_connector == CONNECTOR
        self._offloads_online = offloads_online
        self.offline_ids: Collection[str] = ()
        """Offline requests in the engine; set before any comes."""
        if not self._is_on:
            return
        extra_config = transfer.kv_connector_extra_config
        self._is_ours = PROMPT_ONLY not in extra_config
        """The user said nothing: stock vLLM would offload prompts only."""
        is_prompt_only = extra_config.setdefault(PROMPT_ONLY, False)
        logger.info(
            "KV offloading: tokens that offline requests made are %s; online requests are %s",
            f"not offloaded, as {PROMPT_ONLY} asks for" if is_prompt_only else "offloaded, too",
            "offloaded as well" if offloads_online else "kept out while there is offline work",
        )

    def came(self, request: Request, is_offline: bool) -> None:
        """Limit what of a new request is offloaded, unless the client did."""
        if not self._is_on:
            return
        most = self._most_tokens(request, is_offline)
        if most is not None:
            given = request.kv_transfer_params or {}
            request.kv_transfer_params = {"max_offload_tokens": most, **given}

    def _most_tokens(self, request: Request, is_offline: bool) -> int | None:
        """Return how many tokens of a request may be offloaded, None for all."""
        if is_offline:
            return None
        if self.offline_ids and not self._offloads_online:
            return 0
        is_limited = self._is_ours and not request.resumable
        return int(request.num_prompt_tokens) if is_limited else None
