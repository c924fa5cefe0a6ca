# SPDX-License-Identifier: Apache-2.0
"""Which engine step times belong to: model, number format, parallelism, device, limits. Pure."""

from dataclasses import asdict, dataclass, fields
from typing import get_type_hints

from hygen_vllm.json_types import Json


@dataclass(frozen=True)
class EngineInfo:
    """An engine, as far as the seconds of its steps depend on it.

    Fine-tuned variants of a model share its `architecture` and its step times; `model` is for
    people to read.
    """

    model: str
    architecture: str
    """Class, layers and widths of the model, as text."""
    dtype: str
    """Number format of weights and KV cache, with the quantization if there is one."""
    tensor_parallel: int
    pipeline_parallel: int
    device: str
    vllm_version: str
    is_async: bool
    max_num_batched_tokens: int
    max_num_seqs: int
    max_model_len: int
    block_size: int
    num_kv_blocks: int
    """0 where not known yet."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), get_type_hints(EngineInfo)[field.name]
            if type(value) is not kind:
                raise ValueError(f"engine.{field.name} must be {kind.__name__}, got {value!r}")

    @classmethod
    def from_mapping(cls, values: object) -> "EngineInfo":
        """Return the engine in a JSON object. Raises ValueError or TypeError."""
        if not isinstance(values, dict):
            raise TypeError("engine is not an object")
        names = {field.name for field in fields(cls)}
        if names != set(values):
            wrong = ", ".join(sorted(names.symmetric_difference(values)))
            raise ValueError(f"engine lacks or does not know: {wrong}")
        return cls(**values)

    def as_mapping(self) -> Json:
        """Return a JSON object."""
        return asdict(self)

    def difference(self, other: "EngineInfo") -> str | None:
        """Return in what its step times differ from another's: "NAME this, not that"; or None."""
        for what, field in _DECIDES.items():
            mine, theirs = getattr(self, field), getattr(other, field)
            if mine != theirs and field == "architecture" and self.model != other.model:
                return f"{what} {self.model} ({mine}), not {other.model} ({theirs})"
            if mine != theirs:
                return f"{what} {mine}, not {theirs}"
        return None


_DECIDES = {
    "model": "architecture",
    "dtype": "dtype",
    "tensor parallel size": "tensor_parallel",
    "pipeline parallel size": "pipeline_parallel",
    "device": "device",
}
