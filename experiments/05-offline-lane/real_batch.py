# SPDX-License-Identifier: Apache-2.0
"""A purely offline set through LLM(...).generate on the real CPU engine: stock vLLM and HyGen.

    python experiments/05-offline-lane/real_batch.py --out real-batch.csv

Same engine, same prompts, greedy decoding in float32; each variant in a process of its own, in
turn, `--repeats` times. Prompts are MMLU 5-shot questions of some subjects, shuffled, and GSM8K
8-shot questions, with the model's own tokenizer.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "auto")

from runs import infinite_hits, write_rows
from tqdm import tqdm

from hygen_vllm.small_model import prepare_small_model
from hygen_vllm.workloads.sources import find_offline
from hygen_vllm.workloads.tokenizers import load_tokenizer

HYGEN = {"scheduler_cls": "hygen_vllm.HyGenScheduler"}
VARIANTS: dict[str, dict[str, Any]] = {
    "stock vLLM": {},
    "HyGen, fcfs": {**HYGEN, "additional_config": {"hygen": {"offline_order": "fcfs"}}},
    "HyGen": HYGEN,
}
BLOCK_SIZE = 32
KV_TOKENS = 12_000
SUBJECT_PROMPTS = 10

Prompts = list[tuple[list[int], int]]
"""(tokens, output tokens) of each."""


def prompts_of(name: str, count: int) -> Prompts:
    """Return so many prompts of a set, in its random order."""
    requests = find_offline(name, None, 0, load_tokenizer(prepare_small_model())).requests
    if name == "mmlu":  # whole subjects, so that a small set shares as much as the large one does
        by_subject: dict[tuple[int, ...], list[Any]] = {}
        for request in requests:
            by_subject.setdefault(tuple(request.token_ids(0)[:32]), []).append(request)
        chosen = list(by_subject.values())[: count // SUBJECT_PROMPTS]
        kept = {id(request) for some in chosen for request in some[:SUBJECT_PROMPTS]}
        requests = [request for request in requests if id(request) in kept]
    return [(request.token_ids(0), request.output_tokens) for request in requests[:count]]


def serve(variant: str, pairs: Prompts, kv_tokens: int) -> dict[str, Any]:
    """Serve prompts once; return seconds, tokens and outputs."""
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=str(prepare_small_model()),
        dtype="float32",
        enforce_eager=True,
        max_model_len=4096,
        max_num_seqs=64,
        max_num_batched_tokens=1024,
        block_size=BLOCK_SIZE,
        num_gpu_blocks_override=kv_tokens // BLOCK_SIZE + 1,
        **VARIANTS[variant],
    )
    extra_args = {"slo_class": "offline"}
    params = [
        SamplingParams(temperature=0.0, max_tokens=most, extra_args=extra_args) for _, most in pairs
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


def serve_apart(variant: str, pairs: Prompts, kv_tokens: int) -> dict[str, Any]:
    """Serve in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        prompts, result = Path(folder, "prompts.json"), Path(folder, "result.json")
        prompts.write_text(json.dumps(pairs))
        command = [sys.executable, __file__, "--kv-tokens", str(kv_tokens)]
        command += ["--serve", variant, str(prompts), str(result)]
        with Path(folder, "log").open("w") as log:
            done = subprocess.run(command, stdout=log, stderr=log, check=False)
        if done.returncode:
            sys.exit(Path(folder, "log").read_text()[-3000:])
        found: dict[str, Any] = json.loads(result.read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the table as CSV")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--mmlu", type=int, default=240, help="prompts")
    parser.add_argument("--gsm8k", type=int, default=40, help="prompts")
    parser.add_argument("--kv-tokens", type=int, default=KV_TOKENS)
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        variant, prompts, result = options.serve
        pairs = json.loads(Path(prompts).read_text())
        Path(result).write_text(json.dumps(serve(variant, pairs, options.kv_tokens)))
        return
    rows = []
    counts = {"mmlu": options.mmlu, "gsm8k": options.gsm8k}
    workloads = {name: count for name, count in counts.items() if count > 0}
    bar = tqdm(total=len(VARIANTS) * options.repeats * len(workloads), unit="run", file=sys.stderr)
    for workload, count in workloads.items():
        pairs = prompts_of(workload, count)
        infinite = infinite_hits((tokens for tokens, _ in pairs), BLOCK_SIZE)
        outputs: dict[str, list[Any]] = {}
        for repeat in range(options.repeats):
            for variant in VARIANTS:
                result = serve_apart(variant, pairs, options.kv_tokens)
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


if __name__ == "__main__":
    main()
