# SPDX-License-Identifier: Apache-2.0
"""Makes the modelled profiles in profiles/ from operator times measured by microsoft/vidur.

    python tools/device_profiles.py [--data FOLDER] [--out profiles]

FOLDER holds GPU/ORGANISATION/MODEL/mlp.csv as in vidur's data/profiling/compute (MIT licence);
default: device_ops in $HYGEN_DATA. See profiles/README.md for what is taken from them.
"""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hygen_vllm.latency.engine_info import EngineInfo
from hygen_vllm.profiler.fit import FittedProfile, fit_steps
from hygen_vllm.profiler.report import write_profile
from hygen_vllm.simulator.device_model import DeviceModel, save_device
from hygen_vllm.simulator.modelled_steps import modelled_steps

NUM_MIXES = 3000
BLOCK_SIZE = 16
NOTES = (
    "operators: medians measured by microsoft/vidur (MIT), one GPU, all operators of a layer but "
    "attention, times the number of layers; attention: roofline with the maker's peak figures"
)


@dataclass(frozen=True)
class Gpu:
    """The maker's figures: dense fp16 operations and bytes of memory traffic a second."""

    name: str
    peak_flops: float
    memory_bytes_per_s: float


@dataclass(frozen=True)
class Llm:
    """A Llama as its configuration file describes it."""

    name: str
    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    vocabulary: int

    @property
    def architecture(self) -> str:
        return (
            f"LlamaForCausalLM, {self.layers} layers, {self.hidden} hidden, {self.mlp} mlp, "
            f"{self.heads} heads, {self.kv_heads} kv heads, {self.vocabulary} vocabulary"
        )


A100 = Gpu("NVIDIA A100-SXM4-40GB", 312e12, 1.555e12)
A40 = Gpu("NVIDIA A40", 149.7e12, 0.696e12)
H100 = Gpu("NVIDIA H100 80GB HBM3", 989e12, 3.35e12)
LLAMA2_7B = Llm("Llama-2-7b-hf", 32, 4096, 11008, 32, 32, 32000)
LLAMA3_8B = Llm("Meta-Llama-3-8B", 32, 4096, 14336, 32, 8, 128256)


@dataclass(frozen=True)
class Modelled:
    """A profile to make: folder in --out, folder in --data, and the KV blocks that fit."""

    folder: str
    source: str
    gpu: Gpu
    llm: Llm
    num_kv_blocks: int


# KV blocks: 0.9 of the memory less the weights and 1 GiB for activations, rounded down.
PROFILES = (
    Modelled("a100/llama2-7b", "a100/meta-llama/Llama-2-7b-hf", A100, LLAMA2_7B, 2600),
    Modelled("a40/llama2-7b", "a40/meta-llama/Llama-2-7b-hf", A40, LLAMA2_7B, 3400),
    Modelled("h100/llama2-7b", "h100/meta-llama/Llama-2-7b-hf", H100, LLAMA2_7B, 6800),
    Modelled("a100/llama3-8b", "a100/meta-llama/Meta-Llama-3-8B", A100, LLAMA3_8B, 9300),
)


def device_of(modelled: Modelled, data: Path) -> DeviceModel:
    """Return the device model from a file of operator times, milliseconds."""
    table = pd.read_csv(data / modelled.source / "mlp.csv")
    table = table[table["num_tensor_parallel_workers"] == 1]
    operators = [name for name in table.columns if str(name).endswith(".median")]
    layer_ms = table[operators].sum(axis=1).groupby(table["num_tokens"]).median()
    gpu, llm = modelled.gpu, modelled.llm
    return DeviceModel(
        num_layers=llm.layers,
        num_heads=llm.heads,
        num_kv_heads=llm.kv_heads,
        head_size=llm.hidden // llm.heads,
        bytes_per_number=2,
        peak_flops=gpu.peak_flops,
        memory_bytes_per_s=gpu.memory_bytes_per_s,
        compute_share=0.6,
        memory_share=0.8,
        tokens=tuple(int(tokens) for tokens in layer_ms.index),
        operators_s=tuple(round(llm.layers * 1e-3 * ms, 9) for ms in layer_ms),
    )


def engine_of(modelled: Modelled) -> EngineInfo:
    return EngineInfo(
        model=modelled.llm.name,
        architecture=modelled.llm.architecture,
        dtype="float16",
        tensor_parallel=1,
        pipeline_parallel=1,
        device=modelled.gpu.name,
        vllm_version="none (modelled)",
        is_async=True,
        max_num_batched_tokens=512,
        max_num_seqs=128,
        max_model_len=4096,
        block_size=BLOCK_SIZE,
        num_kv_blocks=modelled.num_kv_blocks,
    )


def make(modelled: Modelled, data: Path, out: Path) -> FittedProfile:
    device, engine = device_of(modelled, data), engine_of(modelled)
    fitted = fit_steps(modelled_steps(device, engine, NUM_MIXES), source="modelled")
    write_profile(fitted, out / modelled.folder)
    save_device(device, out / modelled.folder, NOTES)
    return fitted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(os.environ.get("HYGEN_DATA", "."), "device_ops")
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--out", type=Path, default=Path("profiles"))
    options = parser.parse_args()
    for modelled in PROFILES:
        fitted = make(modelled, options.data, options.out)
        print(f"{modelled.folder}: MAPE {fitted.profile.fit['mape']:.2%}")


if __name__ == "__main__":
    main()
