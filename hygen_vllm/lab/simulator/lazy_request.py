# SPDX-License-Identifier: Apache-2.0
"""vLLM's Request, but its prompt is made when the scheduler first looks at its tokens.

A backlog of 100,000 prompts that share nothing then takes the memory of their lengths until each
comes to its turn. Prompts that share prefixes are made when they are put in order.
"""

from functools import cache
from typing import Any

from vllm.sampling_params import SamplingParams
from vllm.v1.request import Request
from vllm.v1.utils import ConstantList

from hygen_vllm.lab.workloads.arrivals import Arrival


class LazyRequest(Request):
    """A request of a workload.

    Args:
        number: its place in the workload; makes the tokens of a prompt that shares nothing.
        hasher: hashes its full blocks (`bare_scheduler.block_hasher`) of `block_size` tokens.
    """

    def __init__(self, request_id: str, arrival: Arrival, number: int, **options: Any) -> None:
        self._arrival = arrival
        self._number = number
        self._block_size: int = options.pop("block_size")
        hasher = options.pop("hasher")
        self._is_made = False
        super().__init__(
            request_id=request_id,
            prompt_token_ids=_Unmade(arrival.prompt_tokens),
            pooling_params=None,
            arrival_time=arrival.time_s,
            **options,
        )
        self._block_hasher = hasher

    @property
    def shared_prefix(self) -> Any:
        """Hashes of the blocks that another prompt may share."""
        return () if self._arrival.prompt is None else self.block_hashes

    @property
    def block_hashes(self) -> Any:
        if not self._is_made:
            self._make()
        return self._hashes

    @block_hashes.setter
    def block_hashes(self, hashes: Any) -> None:
        self._hashes = hashes

    def append_output_token_ids(self, token_ids: Any) -> None:
        if not self._is_made:
            self._make()
        tokens = (token_ids,) if isinstance(token_ids, int) else token_ids
        self._output_token_ids.extend(tokens)
        self._all_token_ids.extend(tokens)
        if len(self._all_token_ids) // self._block_size > len(self._hashes):
            self.update_block_hashes()

    def _make(self) -> None:
        self._is_made = True
        self._all_token_ids = self._arrival.token_ids(self._number)
        self.all_token_ids = ConstantList(self._all_token_ids)
        self.update_block_hashes()


class _Unmade:
    """The length of a prompt, in place of its tokens."""

    __slots__ = ("_length",)

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def copy(self) -> "_Unmade":
        return self


def quick_hash(value: Any) -> bytes:
    """Return the hash of a KV block: Python's own, four times as fast as vLLM's sha256.

    Blocks are only ever compared with each other, and nobody wants to forge one.
    """
    return hash(value).to_bytes(8, "little", signed=True)


@cache
def sampling_params(slo_class: str, output_tokens: int, tenant: str = "") -> SamplingParams:
    """Return what asks for exactly so many tokens; requests that ask alike share it."""
    labels = {"slo_class": slo_class, "tenant": tenant}
    return SamplingParams(max_tokens=output_tokens, ignore_eos=True, extra_args=labels)
