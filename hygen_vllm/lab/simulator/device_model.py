# SPDX-License-Identifier: Apache-2.0
"""Seconds of a step on a GPU, from measured operator times and a roofline for attention. Pure.

All operators of a layer but attention were measured (microsoft/vidur, MIT; see profiles/README.md):
their time depends on the total tokens of a step. Attention is the larger of its arithmetic at the
share of the peak that kernels reach and of reading its KV cache at the share of the bandwidth that
they reach (Williams et al., Roofline, CACM 2009), request by request.
"""

import json
import math
from bisect import bisect_right
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from hygen_vllm.files import one_line_errors, write_text
from hygen_vllm.lab.simulator.step_work import StepWork

FORMAT = "hygen-device-model"
VERSION = 1
FILE_NAME = "device.json"


@dataclass(frozen=True)
class DeviceModel:
    """A model on a device.

    Args:
        tokens: total tokens, rising, at which the operators were measured.
        operators_s: seconds of all operators but attention at each of them.
        peak_flops, memory_bytes_per_s: what the device can do at most, a second.
        compute_share, memory_share: what attention reaches of either.
    """

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    bytes_per_number: int
    peak_flops: float
    memory_bytes_per_s: float
    compute_share: float
    memory_share: float
    tokens: tuple[int, ...]
    operators_s: tuple[float, ...]

    def __post_init__(self) -> None:
        if not all(type(tokens) is int for tokens in self.tokens):
            raise ValueError("tokens must be whole numbers")
        rises = all(a < b for a, b in pairwise(self.tokens))
        if len(self.tokens) != len(self.operators_s) or not self.tokens[1:] or not rises:
            raise ValueError("tokens must rise and have one time each, at least two")
        numbers = [getattr(self, field.name) for field in fields(self)[:9]]
        if not all(0 < value < math.inf for value in (*numbers, *self.tokens, *self.operators_s)):
            raise ValueError("all numbers must be finite and > 0")

    def step_seconds(self, work: StepWork) -> float:
        """Return the seconds of a step.

        The attention of a decode takes time in proportion to its tokens, so decodes are summed.
        """
        attention_s = self._decode_s * (work.context_tokens + work.num_decodes)
        for new_tokens, computed_tokens in work.chunks:
            attention_s += self._attention_s(new_tokens, computed_tokens)
        return self.operator_seconds(work.total_tokens) + attention_s

    @cached_property
    def _decode_s(self) -> float:
        """Seconds of a decode's attention for each token, its own included."""
        return self._attention_s(1, 0)

    def operator_seconds(self, total_tokens: int) -> float:
        """Return the seconds of all operators but attention: straight between measured points."""
        last = len(self.tokens) - 1
        i = min(max(bisect_right(self.tokens, total_tokens), 1), last)
        low, high = self.tokens[i - 1], self.tokens[i]
        share = (max(total_tokens, self.tokens[0]) - low) / (high - low)
        return self.operators_s[i - 1] + share * (self.operators_s[i] - self.operators_s[i - 1])

    def _attention_s(self, new_tokens: int, computed_tokens: int) -> float:
        pairs = new_tokens * (computed_tokens + 0.5 * (new_tokens + 1))
        flops = 4.0 * pairs * self.num_heads * self.head_size
        kv_numbers = 2.0 * (computed_tokens + new_tokens) * self.num_kv_heads * self.head_size
        compute_s = flops / (self.compute_share * self.peak_flops)
        memory_s = (
            kv_numbers * self.bytes_per_number / (self.memory_share * self.memory_bytes_per_s)
        )
        return self.num_layers * max(compute_s, memory_s)


def save_device(device: DeviceModel, folder: Path, notes: str) -> None:
    """Write a device model into a profile's folder; `notes` say where it comes from."""
    document = {"format": FORMAT, "version": VERSION, "notes": notes, **asdict(device)}
    path = folder / FILE_NAME
    write_text(path, json.dumps(document) + "\n")


def load_device(folder: str | Path) -> DeviceModel:
    """Return the device model in a profile's folder. Raises ConfigError, one line, if none is."""
    path = Path(folder).expanduser() / FILE_NAME
    with one_line_errors(f"device model {path}", f"{path}", f"{FORMAT} {VERSION}"):
        return _parse(json.loads(path.read_text(encoding="utf-8")))


def _parse(document: dict[str, Any]) -> DeviceModel:
    if (document["format"], document["version"]) != (FORMAT, VERSION):
        raise ValueError(f"format is {document['format']} {document['version']}")
    values = {field.name: document[field.name] for field in fields(DeviceModel)}
    values["tokens"] = tuple(values["tokens"])
    values["operators_s"] = tuple(values["operators_s"])
    return DeviceModel(**values)
