# SPDX-License-Identifier: Apache-2.0
"""The patches apply to the release under test, and HyGen uses what they add."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import vllm

ROOT = Path(__file__).parents[2]
PATCH = ROOT / "patches" / f"vllm-{vllm.__version__}" / "0001-limit-num-new-tokens.patch"
SCHEDULER = Path("vllm/v1/core/sched/scheduler.py")

RUN_ON_PATCHED_VLLM = """
import importlib.util, sys
name = "vllm.v1.core.sched.scheduler"
spec = importlib.util.spec_from_file_location(name, sys.argv[1])
sys.modules[name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[name])

from hygen_vllm import HyGenScheduler
from hygen_vllm.lab.bare_scheduler import Limits, make_request, make_scheduler
from tests.support.fake_engine import FakeEngine, expected_tokens

assert "_reserve_prefill_lookahead" not in vars(HyGenScheduler)
engine = FakeEngine(make_scheduler(HyGenScheduler, Limits(), {"latency_budget_s": 1e-6}))
prompts = {f"r{i}": list(range(i, 40 + i)) for i in range(12)}
for i, (request_id, prompt) in enumerate(prompts.items()):
    slo_class = ["online", "offline"][i % 2]
    engine.add(make_request(request_id, prompt, slo_class=slo_class, max_tokens=30))
engine.run()
for request_id, prompt in prompts.items():
    assert engine.outputs[request_id] == expected_tokens(prompt, 30)
assert engine.scheduler.hygen.offline_log.refusals, "the gate was never asked"
"""


@pytest.fixture
def patched_scheduler(tmp_path: Path) -> Path:
    """Return a copy of the release's scheduler.py with the patch applied."""
    copy = tmp_path / SCHEDULER
    copy.parent.mkdir(parents=True)
    shutil.copy(Path(vllm.__file__).parents[1] / SCHEDULER, copy)
    subprocess.run(["git", "apply", "-p1", str(PATCH)], cwd=tmp_path, check=True)
    return copy


def test_patch_applies_to_the_release_under_test(patched_scheduler):
    """The patched file calls the new method in both loops."""
    assert 2 == patched_scheduler.read_text().count("= self.limit_num_new_tokens(")


def test_hygen_on_patched_vllm_uses_the_public_method(patched_scheduler):
    """With the method in place HyGen overrides it instead of the private one."""
    command = [sys.executable, "-c", RUN_ON_PATCHED_VLLM, str(patched_scheduler)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert 0 == result.returncode, result.stderr
