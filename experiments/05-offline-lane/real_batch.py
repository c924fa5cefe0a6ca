# SPDX-License-Identifier: Apache-2.0
"""A purely offline set through LLM(...).generate on a real engine: stock vLLM and HyGen.

    python experiments/05-offline-lane/real_batch.py --out real-batch.csv

Same engine, same prompts, greedy decoding in float32; each variant in a process of its own, in
turn, `--repeats` times. Prompts are MMLU 5-shot questions of some subjects, shuffled, and GSM8K
8-shot questions, with the small model's tokenizer. `--shape M` times a model of that shape on a
GPU instead, with random weights, whose outputs say little.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "auto")

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.apart import RESULT, run_apart
from harness.provenance import stamp_out
from runs import infinite_hits, write_rows
from tqdm import tqdm

from hygen_vllm.lab.small_model import prepare_small_model
from hygen_vllm.lab.workloads.sources import find_offline
from hygen_vllm.lab.workloads.tokenizers import load_tokenizer

MEASURES = (
    "serves",
    "requests",
    "small model",
    "experiments/05-offline-lane/real_batch.py",
    "experiments/05-offline-lane/runs.py",
)
HYGEN = {"scheduler_cls": "hygen_vllm.HyGenScheduler"}
VARIANTS: dict[str, dict[str, Any]] = {
    "stock vLLM": {},
    "HyGen, fcfs": {**HYGEN, "additional_config": {"hygen": {"offline_order": "fcfs"}}},
    "HyGen": HYGEN,
}
BLOCK_SIZE = 32
KV_TOKENS = 12_000
SUBJECT_PROMPTS = 10
"""Fewest of a subject."""

Prompts = list[tuple[list[int], int]]
"""(tokens, output tokens) of each."""


def kept_prompts_of(name: str, count: int, folder: Path | None) -> Prompts:
    """Return so many prompts of a set as they are in a folder, where they are put if missing."""
    if folder is None:
        return prompts_of(name, count)
    path = folder / f"{name}-{count}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(prompts_of(name, count)))
    pairs: Prompts = json.loads(path.read_text())
    return pairs


def prompts_of(name: str, count: int) -> Prompts:
    """Return so many prompts of a set, in its random order."""
    requests = find_offline(name, None, 0, load_tokenizer(prepare_small_model())).requests
    if name == "mmlu":  # whole subjects, so that a small set shares as much as the large one does
        by_subject: dict[tuple[int, ...], list[Any]] = {}
        for request in requests:
            by_subject.setdefault(tuple(request.token_ids(0)[:32]), []).append(request)
        chosen = list(by_subject.values())[: count // SUBJECT_PROMPTS]
        of_each = count // len(chosen)
        kept = {id(request) for some in chosen for request in some[:of_each]}
        requests = [request for request in requests if id(request) in kept]
    return [(request.token_ids(0), request.output_tokens) for request in requests[:count]]


def model_options(shape: str | None) -> dict[str, Any]:
    """Return the engine's options of the small model, or of a shape."""
    if shape is None:
        small = str(prepare_small_model())
        return {
            "model": small,
            "dtype": "float32",
            "max_num_batched_tokens": 1024,
        }
    return {"model": shape, "load_format": "dummy", "skip_tokenizer_init": True}


def serve(variant: str, pairs: Prompts, kv_tokens: int, shape: str | None) -> dict[str, Any]:
    """Serve prompts once; return seconds, tokens and outputs."""
    from vllm import LLM, SamplingParams

    llm = LLM(
        **model_options(shape),
        enforce_eager=True,
        max_model_len=4096,
        max_num_seqs=64,
        block_size=BLOCK_SIZE,
        num_gpu_blocks_override=kv_tokens // BLOCK_SIZE + 1,
        **VARIANTS[variant],
    )
    params = [
        SamplingParams(
            temperature=0.0,
            max_tokens=most,
            detokenize=False,
            extra_args={"slo_class": "offline"},
        )
        for _, most in pairs
    ]
    prompts = [{"prompt_token_ids": tokens} for tokens, _ in pairs]
    started_s = time.perf_counter()
    outputs = llm.generate(prompts, params, use_tqdm=False)
    return {
        "seconds": time.perf_counter() - started_s,
        "prompt_tokens": sum(len(tokens) for tokens, _ in pairs),
        "cached_tokens": sum(output.num_cached_tokens for output in outputs),
        "outputs": [list(output.outputs[0].token_ids) for output in outputs],
    }


def serve_apart(variant: str, pairs: Prompts, kv_tokens: int, shape: str | None) -> dict[str, Any]:
    """Serve in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder, "prompts.json")
        prompts.write_text(json.dumps(pairs))
        command = [__file__, "--kv-tokens", str(kv_tokens)]
        command += ["--serve", variant, str(prompts), str(Path(folder, RESULT))]
        command += [] if shape is None else ["--shape", shape]
        return run_apart(command, Path(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the table as CSV")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--mmlu", type=int, default=240, help="prompts")
    parser.add_argument("--gsm8k", type=int, default=40, help="prompts")
    parser.add_argument("--kv-tokens", type=int, default=KV_TOKENS)
    parser.add_argument("--shape", metavar="M", help="model whose shape is timed")
    parser.add_argument("--prompts", type=Path, help="folder in which prompts are kept")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        variant, prompts, result = options.serve
        pairs = json.loads(Path(prompts).read_text())
        found = serve(variant, pairs, options.kv_tokens, options.shape)
        Path(result).write_text(json.dumps(found))
        return
    rows = []
    counts = {"mmlu": options.mmlu, "gsm8k": options.gsm8k}
    workloads = {name: count for name, count in counts.items() if count > 0}
    bar = tqdm(total=len(VARIANTS) * options.repeats * len(workloads), unit="run", file=sys.stderr)
    for workload, count in workloads.items():
        pairs = kept_prompts_of(workload, count, options.prompts)
        infinite = infinite_hits((tokens for tokens, _ in pairs), BLOCK_SIZE)
        outputs: dict[str, list[Any]] = {}
        for repeat in range(options.repeats):
            for variant in VARIANTS:
                result = serve_apart(variant, pairs, options.kv_tokens, options.shape)
                outputs.setdefault(variant, result["outputs"])
                both = zip(outputs["stock vLLM"], result["outputs"], strict=True)
                hit_rate = result["cached_tokens"] / result["prompt_tokens"]
                rows.append(
                    {
                        "workload": workload,
                        "prompts": count,
                        "kv_tokens": options.kv_tokens,
                        "run": repeat + 1,
                        "variant": variant,
                        "seconds": round(result["seconds"], 1),
                        "prefix_hit_rate": round(hit_rate, 4),
                        "of_infinite_cache": round(hit_rate / infinite, 4),
                        "outputs_as_stock": sum(one == other for one, other in both),
                    }
                )
                write_rows(options.out, rows)
                bar.update()
    stamp_out(options.out, MEASURES)


if __name__ == "__main__":
    main()
