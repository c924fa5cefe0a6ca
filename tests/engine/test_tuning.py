# SPDX-License-Identifier: Apache-2.0
"""`hygen tune` on the real model: probes, what it writes, and settings that an engine takes."""

import json
import sys
from pathlib import Path

import pytest

from hygen_vllm.config import HyGenConfig
from hygen_vllm.slo import Slo
from hygen_vllm.targets.reference import find_reference
from tests.support.processes import ENGINE_ENVIRONMENT, log_tail, run_process

pytestmark = [pytest.mark.engine, pytest.mark.long, pytest.mark.timeout(1500)]

HYGEN = str(Path(sys.executable).with_name("hygen"))
LIMIT_S = 700.0
PROBES, SECONDS = 6, 3.0
LEAST_MS = 200.0
"""A budget into which an offline chunk fits on a busy machine too: a decode step of online alone,
from which budgets are tried otherwise, may leave nothing."""
ENGINE = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "512"]
ENGINE += ["--max-num-seqs", "8", "--max-num-batched-tokens", "64", "--block-size", "32"]


@pytest.fixture(scope="module")
def tuned(model, tmp_path_factory) -> Path:
    """Return the folder that a short search left behind; any budget meets its target."""
    folder = tmp_path_factory.mktemp("tuned")
    online, offline = folder / "online.csv", folder / "offline.csv"
    rows = [f"2023-11-16 18:00:{second:02}.0,40,12" for second in range(10)]
    online.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows, ""]))
    rows = ["60,20"] * 400
    offline.write_text("\n".join(["num_prefill_tokens,num_decode_tokens", *rows, ""]))
    command = [HYGEN, "tune", "--model", str(model), *ENGINE, "--out", str(folder / "out")]
    command += ["--online", str(online), "--offline", str(offline), "--slo", "tbt_p50=30s"]
    command += ["--seconds", str(SECONDS), "--probes", str(PROBES), "--low-ms", str(LEAST_MS)]
    status = run_process(command, folder / "log", ENGINE_ENVIRONMENT, LIMIT_S)
    assert status == 0, log_tail(folder / "log")
    return folder


def test_probes_of_a_real_engine_serve_both_classes(tuned):
    """Online requests come at their times; a backlog of offline ones keeps the engine busy."""
    found = json.loads((tuned / "out/tune.json").read_text(encoding="utf-8"))
    assert 1 <= sum(len(tried["ratios"]) for tried in found["tried"]) <= PROBES
    for tried in found["tried"]:
        assert min(tried["offline_tokens_per_s"]) > 0
        assert 0 < min(tried["ratios"])
        assert tried["met"]


def test_settings_found_on_a_real_engine_are_those_of_its_scheduler(tuned):
    """The largest budget tried met a target that nothing can miss."""
    found = json.loads((tuned / "out/tune.json").read_text(encoding="utf-8"))
    config = HyGenConfig.from_file(str(tuned / "out/hygen.yaml"))
    assert config.gate_mode == "fixed"
    largest_s = max(tried["budget_s"] for tried in found["tried"])
    assert pytest.approx(largest_s, rel=1e-4) == config.latency_budget_s


def test_reference_found_on_a_real_engine_can_be_served_with(tuned):
    """Relative targets are then relative to what was measured."""
    path = str(tuned / "out/online-alone.json")
    config = HyGenConfig(slos=["tbt_p99=+20%"], slo_reference=path)
    reference = find_reference(config)
    assert reference is not None
    assert reference.resolved(Slo.parse("ttft_mean=+10%")).limit_s > 0
