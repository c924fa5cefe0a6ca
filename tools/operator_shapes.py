# SPDX-License-Identifier: Apache-2.0
"""What a transformer layer's operators compute and move, to carry measured times to other shapes.

An operator that was measured on one GPU for one model is taken to be as far from its roofline on
another GPU or for another model as it was there, at the same number of tokens:

    derived seconds = measured seconds * roofline(other) / roofline(measured)

The roofline of a matrix product of n tokens is the larger of its arithmetic at the peak and of
moving its weights, inputs and outputs at the memory's bandwidth (Williams et al., CACM 2009); that
of an operator on single numbers is moving them. A layer split over t GPUs has 1 / t of each
matrix, and two all-reduces, each of which sends 2 (t - 1) / t of the activations over a link.
"""

from collections.abc import Mapping
from dataclasses import dataclass

BYTES = 2
"""Of a number, float16."""
LINK_SHARE = 0.8
"""What a transfer reaches of a link's bandwidth; an assumption."""
LINK_LATENCY_S = 10e-6
"""Of a transfer, and of each step of an all-reduce; an assumption."""


@dataclass(frozen=True)
class Gpu:
    """The maker's figures: dense fp16 operations, bytes of memory and of link traffic a second."""

    name: str
    peak_flops: float
    memory_bytes_per_s: float
    link_bytes_per_s: float | None = None
    """To another GPU, one direction; None: not used with others."""

    def product_seconds(self, num_tokens: int, inputs: float, outputs: float) -> float:
        """Return the roofline of a matrix product."""
        flops = 2.0 * num_tokens * inputs * outputs
        numbers = inputs * outputs + num_tokens * (inputs + outputs)
        return max(flops / self.peak_flops, self.moving_seconds(numbers))

    def moving_seconds(self, numbers: float) -> float:
        """Return the seconds of moving numbers to or from memory."""
        return BYTES * numbers / self.memory_bytes_per_s


@dataclass(frozen=True)
class Llm:
    """A model as its configuration file describes it; all have gated MLPs."""

    name: str
    kind: str
    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    vocabulary: int

    @property
    def architecture(self) -> str:
        return (
            f"{self.kind}, {self.layers} layers, {self.hidden} hidden, {self.mlp} mlp, "
            f"{self.heads} heads, {self.kv_heads} kv heads, {self.vocabulary} vocabulary"
        )

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads

    def products(self, tensor_parallel: int = 1) -> dict[str, tuple[float, float]]:
        """Return (inputs, outputs) of each matrix product of a layer on one GPU."""
        query, key = self.heads * self.head_size, self.kv_heads * self.head_size
        return {
            "attn_pre_proj": (self.hidden, (query + 2 * key) / tensor_parallel),
            "attn_post_proj": (query / tensor_parallel, self.hidden),
            "mlp_up_proj": (self.hidden, 2 * self.mlp / tensor_parallel),
            "mlp_down_proj": (self.mlp / tensor_parallel, self.hidden),
        }

    def widths(self, tensor_parallel: int = 1) -> dict[str, float]:
        """Return the numbers a token has in each other operator of a layer on one GPU."""
        rotated = (self.heads + self.kv_heads) * self.head_size
        whole = ("emb", "input_layernorm", "post_attention_layernorm", "add")
        return {
            **dict.fromkeys(whole, float(self.hidden)),
            "attn_rope": rotated / tensor_parallel,
            "mlp_act": self.mlp / tensor_parallel,
        }


@dataclass(frozen=True)
class Split:
    """A model on a kind of GPU: each layer over `tensor`, the layers over `pipeline` of them."""

    gpu: Gpu
    llm: Llm
    tensor: int = 1
    pipeline: int = 1

    def roofline_s(self, operator: str, num_tokens: int) -> float:
        """Return the roofline of one of a layer's operators, seconds."""
        products = self.llm.products(self.tensor)
        if operator in products:
            return self.gpu.product_seconds(num_tokens, *products[operator])
        return self.gpu.moving_seconds(num_tokens * self.llm.widths(self.tensor)[operator])

    def layer_seconds(
        self, num_tokens: int, measured_s: Mapping[str, float], source: "Split"
    ) -> float:
        """Return the seconds of a layer but for attention.

        Args:
            measured_s: seconds by operator, measured with that many tokens.
            source: on what.
        """
        operators_s = sum(
            seconds * self.roofline_s(name, num_tokens) / source.roofline_s(name, num_tokens)
            for name, seconds in measured_s.items()
        )
        return operators_s + 2.0 * self._all_reduce_s(num_tokens)

    def hand_over_seconds(self, num_tokens: int) -> float:
        """Return the seconds of sending a step's activations from stage to stage."""
        num_transfers = self.pipeline - 1
        return self._sending_s(num_transfers * num_tokens * self.llm.hidden, num_transfers)

    def _all_reduce_s(self, num_tokens: int) -> float:
        steps = 2 * (self.tensor - 1)
        return self._sending_s(steps / self.tensor * num_tokens * self.llm.hidden, steps)

    def _sending_s(self, numbers: float, num_transfers: int) -> float:
        if not num_transfers:
            return 0.0
        if self.gpu.link_bytes_per_s is None:
            raise ValueError(f"{self.gpu.name} has no link to another")
        transfer_s = BYTES * numbers / (LINK_SHARE * self.gpu.link_bytes_per_s)
        return num_transfers * LINK_LATENCY_S + transfer_s
