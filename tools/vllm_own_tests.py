# SPDX-License-Identifier: Apache-2.0
"""Run a vLLM release's own scheduler tests with our schedulers in the place of vLLM's.

Without offline requests the schedule is vLLM's, so a test that passes with vLLM's classes has to
pass with ours. Those that fail run again with vLLM's classes: a test that fails with both tells
about this environment only. Takes a minute and a half.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from other_vllm import CACHE, own_tests, prepare_release

TOOLS = Path(__file__).resolve().parent
MIN_PASSED = {"0.31": 900, "0.32": 1100, "0.33": 1300}
"""Tests that pass; with fewer the set-up does not fit the release."""

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
    """Run the tests; exit with a message if one passes with vLLM's scheduler only."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("version", help="for example 0.33.0")
    version = parser.parse_args().version
    run = OwnTests(version, CACHE / "vllm-own-tests" / version)
    passed, failed = run.outcomes("hygen", TESTS)
    print(f"vLLM {version}'s own tests: {len(passed)} pass with HyGen's scheduler", end="")
    problems = []
    if failed:
        lost, not_ours = run.outcomes("stock", sorted(failed))
        print(f", {len(not_ours)} fail with vLLM's own, too", end="")
        problems = [f"fails with HyGen's scheduler only: {test}" for test in sorted(lost)]
    print()
    least = MIN_PASSED[".".join(version.split(".")[:2])]
    if len(passed) < least:
        problems.append(f"expected {least} tests to pass")
    if problems:
        sys.exit("\n".join([*problems, f"logs: {run.logs}"]))


class OwnTests:
    """The tests of a release.

    Args: logs: a folder, made anew.
    """

    def __init__(self, version: str, logs: Path) -> None:
        self.logs = logs
        self._release_path = prepare_release(version, with_tests=True)
        self._folder = own_tests(version)
        shutil.rmtree(logs, ignore_errors=True)
        self._write_models()

    def outcomes(self, scheduler: str, tests: Sequence[str]) -> tuple[set[str], set[str]]:
        """Run tests with the "stock" or the "hygen" scheduler; return (passed, failed)."""
        env = {
            "PYTHONPATH": os.pathsep.join([self._release_path, str(TOOLS), str(TOOLS.parent)]),
            "HF_HUB_OFFLINE": "1",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "VLLM_MODEL_REDIRECT_PATH": str(self.logs / "models.json"),
            "VLLM_NO_USAGE_STATS": "1",
        }
        # Neither this project's settings nor its tests: vLLM's package `tests` is another one.
        options = ["-c", os.devnull, "--rootdir=tests/v1", "-p", "no:cacheprovider", "-W", "ignore"]
        options += ["-q", "--tb=short", "--continue-on-collection-errors"]
        options += ["--disable-plugin-autoload", "-p", "anyio", "-p", "timeout", "--timeout=300"]
        options += ["-p", "vllm_own_tests_plugin", f"--scheduler={scheduler}"]
        options += [f"--outcomes={self.logs / scheduler}.json", *(f"tests/v1/{t}" for t in tests)]
        log = self.logs / f"{scheduler}.txt"
        with log.open("wb") as file:
            command = [sys.executable, "-m", "pytest", *options]
            run = subprocess.run(
                command,
                check=False,
                cwd=self._folder,
                env=os.environ | env,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        if run.returncode not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
            sys.exit(f"pytest ended with {run.returncode}, see {log}")
        found = json.loads((self.logs / f"{scheduler}.json").read_text(encoding="utf-8"))
        passed = {test for test, outcome in found.items() if outcome == "passed"}
        return passed, {test for test, outcome in found.items() if outcome == "failed"}

    def _write_models(self) -> None:
        """Write the models' folders and the file that leads vLLM from a name to a folder."""
        for name, config in MODELS.items():
            write_json(self.logs / name / "config.json", config)
            write_json(self.logs / name / "tokenizer.json", TOKENIZER)
            write_json(self.logs / name / "tokenizer_config.json", TOKENIZER_CONFIG)
        write_json(self.logs / "models.json", {name: str(self.logs / name) for name in MODELS})


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    main()
