# SPDX-License-Identifier: Apache-2.0
"""Run a vLLM release's own scheduler tests with vLLM's schedulers and with ours in their place.

Without offline requests the schedule is vLLM's, so a test that passes with vLLM's classes has to
pass with ours. A test that fails with both tells about this environment only. Takes 2 minutes.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from other_vllm import CACHE, own_tests, prepare_release

TOOLS = Path(__file__).resolve().parent
LOGS = CACHE / "vllm-own-tests"
MIN_PASSED = 1300
"""Tests that pass with vLLM's own classes; with fewer the set-up does not fit the release."""

TESTS = [
    "core/prefix_cache/test_mamba_eagle_resume_checkpoint.py",
    "core/prefix_cache/test_partial_prefix_cache_hits.py",
    "core/prefix_cache/test_partial_prefix_cache_primitives.py",
    "core/test_async_scheduler.py",
    "core/test_deferred_block_free.py",
    "core/test_mamba_align_chunk_split.py",
    "core/test_prefix_replay.py",
    "core/test_priority_preemption_bug.py",
    "core/test_priority_scheduler_random.py::test_priority_scheduling_blast[preemption-5-True]",
    "core/test_priority_scheduler_random.py::test_priority_scheduling_blast[preemption-None-True]",
    "core/test_scheduler.py",
    "core/test_swa_inflight_window_free.py",
    "core/test_worker_slot_overflow.py",
    "ec_connector/unit/test_ec_transfer_params.py",
    "ec_connector/unit/test_scheduler_nixl_consumer.py",
    "kv_connector/unit/offloading_connector/test_scheduler.py",
    "kv_connector/unit/test_cache_pollution_prevention.py",
    "kv_connector/unit/test_error_propagation.py",
    "kv_connector/unit/test_invalid_blocks_correctness.py",
    "kv_connector/unit/test_kv_load_failure_recovery.py",
    "kv_connector/unit/test_remote_decode_lifecycle.py",
    "kv_connector/unit/test_remote_prefill_lifecycle.py",
    "kv_connector/unit/test_scheduler_kv_connector_override.py",
    "simple_kv_offload/test_kv_events.py",
    "simple_kv_offload/test_scheduler.py",
    "spec_decode/test_dynamic_sd.py",
    "streaming_input/test_scheduler_streaming.py",
]
"""Under tests/v1; the cases of test_priority_scheduling_blast left out take minutes."""

UNSUPPORTED: dict[str, str] = {}
"""Tests that have to fail with our classes, with the reason."""

OPT = {"model_type": "opt", "architectures": ["OPTForCausalLM"]}
LLAVA = {
    "model_type": "llava",
    "architectures": ["LlavaForConditionalGeneration"],
    "text_config": {"model_type": "llama", "max_position_embeddings": 4096},
}
QWEN3_NEXT = {"model_type": "qwen3_next", "architectures": ["Qwen3NextForCausalLM"]}

MODELS = {
    "facebook/opt-125m": OPT,
    "facebook/opt-350m": OPT,
    "llava-hf/llava-1.5-7b-hf": LLAVA,
    "Qwen/Qwen2.5-VL-3B-Instruct": LLAVA,
    "Qwen/Qwen3-Next-80B-A3B-Instruct": QWEN3_NEXT,
}
"""What the tests read of a model is its configuration; sizes are the defaults of transformers."""

TOKENIZER = {
    "added_tokens": [],
    "model": {"type": "WordLevel", "vocab": {"word": 0}, "unk_token": "word"},
}
TOKENIZER_CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast"}


def main() -> None:
    """Run the tests twice at the same time; exit with a message if they tell a difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("version", help="for example 0.33.0")
    version = parser.parse_args().version
    release_path = prepare_release(version, with_tests=True)
    shutil.rmtree(LOGS, ignore_errors=True)
    write_models()
    folder = own_tests(version)
    runs = {name: start_pytest(name, folder, release_path) for name in ("stock", "hygen")}
    stock, hygen = (passed_tests(name, run) for name, run in runs.items())
    lost = stock - hygen
    print(f"vLLM {version}'s own tests: {len(stock)} pass with vLLM's scheduler, ", end="")
    print(f"{len(stock) - len(lost)} of them with HyGen's; {len(UNSUPPORTED)} are known not to")
    problems = [f"fails with HyGen's scheduler only: {test}" for test in lost - UNSUPPORTED.keys()]
    if len(stock) < MIN_PASSED:
        problems.append(f"expected {MIN_PASSED} tests to pass with vLLM's scheduler")
    problems += [f"no longer differs: {test}" for test in UNSUPPORTED.keys() - lost]
    if problems:
        sys.exit("\n".join([*sorted(problems), f"logs: {LOGS}"]))


def write_models() -> None:
    """Write the models' folders and the file that leads vLLM from a name to a folder."""
    for name, config in MODELS.items():
        write_json(LOGS / name / "config.json", config)
        write_json(LOGS / name / "tokenizer.json", TOKENIZER)
        write_json(LOGS / name / "tokenizer_config.json", TOKENIZER_CONFIG)
    write_json(LOGS / "models.json", {name: str(LOGS / name) for name in MODELS})


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def start_pytest(scheduler: str, folder: Path, release_path: str) -> subprocess.Popen[bytes]:
    """Start the tests with the "stock" or the "hygen" scheduler."""
    env = {
        "PYTHONPATH": os.pathsep.join([release_path, str(TOOLS), str(TOOLS.parent)]),
        "HF_HUB_OFFLINE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_MODEL_REDIRECT_PATH": str(LOGS / "models.json"),
        "VLLM_NO_USAGE_STATS": "1",
    }
    # Neither this project's settings nor its tests: the folder has a package `tests` of its own.
    options = ["-c", os.devnull, "--rootdir=tests/v1", "-p", "no:cacheprovider", "-W", "ignore"]
    options += ["-q", "--tb=short", "--continue-on-collection-errors"]
    options += ["-p", "vllm_own_tests_plugin", f"--scheduler={scheduler}"]
    options += [f"--outcomes={LOGS / scheduler}.json", *(f"tests/v1/{test}" for test in TESTS)]
    with (LOGS / f"{scheduler}.txt").open("wb") as log:
        command = [sys.executable, "-m", "pytest", *options]
        return subprocess.Popen(
            command, cwd=folder, env=os.environ | env, stdout=log, stderr=subprocess.STDOUT
        )


def passed_tests(scheduler: str, run: subprocess.Popen[bytes]) -> set[str]:
    """Wait for the run and return the tests that passed."""
    if run.wait() not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
        sys.exit(f"pytest ended with {run.returncode}, see {LOGS / scheduler}.txt")
    outcomes = json.loads((LOGS / f"{scheduler}.json").read_text(encoding="utf-8"))
    return {test for test, outcome in outcomes.items() if outcome == "passed"}


if __name__ == "__main__":
    main()
