# SPDX-License-Identifier: Apache-2.0
"""`vllm serve` with wrong HyGen settings stops with one line before a model is loaded."""

import json

import pytest

from tests.support.processes import ENGINE_ENVIRONMENT, run_process
from tests.support.vllm_server import VLLM

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1500)]
EXIT_LIMIT_S = 600.0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"latency_budgets": 1}, ["latency_budgets", 'did you mean "latency_budget_s"']),
        pytest.param(
            {"slos": ["tbt_p99=+10%"], "slo_reference": "missing.json"},
            ["missing.json", "No such file"],
            marks=pytest.mark.long,
        ),
        pytest.param("missing.yaml", ["missing.yaml", "No such file"], marks=pytest.mark.long),
    ],
)
def test_wrong_settings_stop_the_server_before_the_model_is_loaded(
    model, tmp_path, settings, words
):
    """The line names what was wrong and what would be right; no engine process was started."""
    log = tmp_path / "log"
    command = [str(VLLM), "serve", str(model), "--scheduler-cls", "hygen_vllm.HyGenScheduler"]
    command += ["--additional-config", json.dumps({"hygen": settings})]
    status = run_process(command, log, ENGINE_ENVIRONMENT, EXIT_LIMIT_S)
    assert status != 0
    text = log.read_text(encoding="utf-8")
    assert "Traceback" not in text
    assert "EngineCore" not in text
    (line,) = (line for line in text.splitlines() if line.startswith("hygen-vllm: "))
    assert all(word in line for word in words)
    assert line == text.splitlines()[-1]
