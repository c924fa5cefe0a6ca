# SPDX-License-Identifier: Apache-2.0
"""Makes the modelled and derived profiles in profiles/ from operator times measured by vidur.

    python tools/device_profiles.py [--data FOLDER] [--out profiles] [NAME ...]

FOLDER holds GPU/ORGANISATION/MODEL/mlp.csv as in data/profiling/compute of microsoft/vidur (MIT
licence); default: device_ops in $HYGEN_DATA. See profiles/README.md for what is taken from them,
`operator_shapes.py` for how the times of another model or GPU follow.
"""

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import pandas as pd
from operator_shapes import Gpu, Llm, Split

from experiments.harness.provenance import ROOT, stamp
from hygen_vllm.cost.engine_info import EngineInfo
from hygen_vllm.lab.profile.fit import FittedProfile, fit_steps
from hygen_vllm.lab.profile.report import write_profile
from hygen_vllm.lab.simulator.device_model import DeviceModel, save_device
from hygen_vllm.lab.simulator.modelled_steps import modelled_steps

FILES = ("device.json", "profile.json", "report.md", "report.png")
MEASURES = (
    "fits",
    "hygen_vllm/lab/profile/report.py",
    "tools/device_profiles.py",
    "tools/operator_shapes.py",
)
NUM_MIXES = 3000
BLOCK_SIZE = 16
NOTES = (
    "operators: medians measured by microsoft/vidur (MIT), one GPU, all operators of a layer but "
    "attention, times the number of layers; attention: roofline with the maker's peak figures"
)


A100 = Gpu("NVIDIA A100-SXM4-40GB", 312e12, 1.555e12, link_bytes_per_s=300e9)
A40 = Gpu("NVIDIA A40", 149.7e12, 0.696e12)
A5000 = Gpu("NVIDIA RTX A5000", 111.1e12, 0.768e12)
H100 = Gpu("NVIDIA H100 80GB HBM3", 989e12, 3.35e12, link_bytes_per_s=450e9)
LLAMA2_7B = Llm("Llama-2-7b-hf", "LlamaForCausalLM", 32, 4096, 11008, 32, 32, 32000)
LLAMA3_8B = Llm("Meta-Llama-3-8B", "LlamaForCausalLM", 32, 4096, 14336, 32, 8, 128256)
MISTRAL_7B = Llm("Mistral-7B-v0.1", "MistralForCausalLM", 32, 4096, 14336, 32, 8, 32000)
QWEN_14B = Llm("Qwen-14B", "QWenLMHeadModel", 40, 5120, 13696, 40, 40, 152064)
SHEARED_2_7B = Llm("Sheared-LLaMA-2.7B", "LlamaForCausalLM", 32, 2560, 6912, 20, 20, 32000)
YI_34B = Llm("Yi-34B", "LlamaForCausalLM", 60, 7168, 20480, 56, 8, 64000)


@dataclass(frozen=True)
class Modelled:
    """A profile to make.

    Args:
        folder: in --out.
        source: folder in --data, and what was measured there.
        target: what it is for; None for what was measured.
        num_kv_blocks: that fit on its GPUs.
    """

    folder: str
    source: tuple[str, Split]
    num_kv_blocks: int
    target: Split | None = None

    @property
    def split(self) -> Split:
        return self.target or self.source[1]


ON_A100 = ("a100/meta-llama/Llama-2-7b-hf", Split(A100, LLAMA2_7B))
LLAMA3_ON_A100 = ("a100/meta-llama/Meta-Llama-3-8B", Split(A100, LLAMA3_8B))
ON_A40 = ("a40/meta-llama/Llama-2-7b-hf", Split(A40, LLAMA2_7B))
ON_H100 = ("h100/meta-llama/Llama-2-7b-hf", Split(H100, LLAMA2_7B))

# KV blocks: 0.9 of the memory less the weights and 1 GiB for activations, rounded down.
PROFILES = (
    Modelled("a100/llama2-7b", ON_A100, 2600),
    Modelled("a40/llama2-7b", ON_A40, 3400),
    Modelled("h100/llama2-7b", ON_H100, 6800),
    Modelled("a100/llama3-8b", LLAMA3_ON_A100, 9300),
    Modelled("a100/mistral-7b", LLAMA3_ON_A100, 9700, Split(A100, MISTRAL_7B)),
    Modelled("a40/qwen-14b", ON_A40, 1000, Split(A40, QWEN_14B)),
    Modelled("a5000/sheared-llama-2.7b", ON_A40, 2800, Split(A5000, SHEARED_2_7B)),
    Modelled("a100x4/yi-34b", LLAMA3_ON_A100, 18000, Split(A100, YI_34B, tensor=2, pipeline=2)),
)


def device_of(modelled: Modelled, data: Path) -> DeviceModel:
    """Return the device model from a file of operator times, milliseconds."""
    folder, source = modelled.source
    table = pd.read_csv(data / folder / "mlp.csv")
    table = table[table["num_tensor_parallel_workers"] == 1].set_index("num_tokens")
    columns = [str(name) for name in table.columns if str(name).endswith(".median")]
    operators_s = 1e-3 * table[columns]
    operators_s.columns = [name.split(".")[1] for name in columns]
    split = modelled.split
    gpu, llm = split.gpu, split.llm

    def seconds(row: "pd.Series[float]") -> float:
        num_tokens = int(str(row.name))
        measured_s = {str(name): float(value) for name, value in row.items()}
        layer_s = split.layer_seconds(num_tokens, measured_s, source)
        return llm.layers * layer_s + split.hand_over_seconds(num_tokens)

    step_s = operators_s.apply(seconds, axis=1).groupby(level=0).median()
    return DeviceModel(
        num_layers=llm.layers,
        num_heads=llm.heads // split.tensor,
        num_kv_heads=llm.kv_heads // split.tensor,
        head_size=llm.head_size,
        bytes_per_number=2,
        peak_flops=gpu.peak_flops,
        memory_bytes_per_s=gpu.memory_bytes_per_s,
        compute_share=0.6,
        memory_share=0.8,
        tokens=tuple(int(tokens) for tokens in step_s.index),
        operators_s=tuple(round(seconds, 9) for seconds in step_s),
    )


def engine_of(modelled: Modelled) -> EngineInfo:
    split = modelled.split
    return EngineInfo(
        model=split.llm.name,
        architecture=split.llm.architecture,
        dtype="float16",
        tensor_parallel=split.tensor,
        pipeline_parallel=split.pipeline,
        device=split.gpu.name,
        vllm_version="none (modelled)",
        is_async=True,
        max_num_batched_tokens=512,
        max_num_seqs=128,
        max_model_len=4096,
        block_size=BLOCK_SIZE,
        num_kv_blocks=modelled.num_kv_blocks,
    )


def notes_of(modelled: Modelled) -> str:
    """Return where a profile comes from."""
    notes = NOTES
    if modelled.target is not None:
        of = modelled.source[1]
        notes += f"; derived from those of {of.llm.name} on {of.gpu.name} by their rooflines"
    return notes


def make(modelled: Modelled, data: Path, out: Path) -> FittedProfile:
    device, engine = device_of(modelled, data), engine_of(modelled)
    source = "modelled" if modelled.target is None else "derived"
    fitted = fit_steps(modelled_steps(device, engine, NUM_MIXES), source)
    write_profile(fitted, out / modelled.folder)
    save_device(device, out / modelled.folder, notes_of(modelled))
    return fitted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(os.environ.get("HYGEN_DATA", "."), "device_ops")
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--out", type=Path, default=Path("profiles"))
    parser.add_argument("names", nargs="*", metavar="NAME", help="like a100/llama2-7b; all if none")
    options = parser.parse_args()
    chosen = [m for m in PROFILES if not options.names or m.folder in options.names]
    for modelled in chosen:
        fitted = make(modelled, options.data, options.out)
        print(f"{modelled.folder}: MAPE {fitted.profile.fit['mape']:.2%}")
        if options.out.resolve() == ROOT / "profiles":
            command = f"python tools/device_profiles.py {modelled.folder}"
            stamp(options.out, [f"{modelled.folder}/{name}" for name in FILES], MEASURES, command)


if __name__ == "__main__":
    main()
