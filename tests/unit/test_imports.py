# SPDX-License-Identifier: Apache-2.0
"""Imports point one way: policy files know nothing of the engine that they decide for."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "hygen_vllm"
LIBRARIES = {"numpy", "scipy", "sortedcontainers", "yaml"}
POLICY_FILES = [
    PACKAGE / "config.py",
    PACKAGE / "request_class.py",
    PACKAGE / "offline_queue.py",
    PACKAGE / "step_plan.py",
    PACKAGE / "offline_grant.py",
    PACKAGE / "step_feedback.py",
    PACKAGE / "vllm_release.py",
    *sorted((PACKAGE / "latency").glob("*.py")),
    *sorted((PACKAGE / "workloads").glob("*.py")),
]


def _module(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def _imported(path: Path) -> set[str]:
    """Return the modules a file imports, inside functions and for type checking too."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: relative import"
            modules.add(node.module or "")
    return modules


@pytest.mark.parametrize("path", POLICY_FILES, ids=_module)
def test_policy_file_imports_only_policy_and_plain_libraries(path: Path) -> None:
    """Nothing in a policy file imports vllm, torch, ray or a file of ours that does."""
    policy = {_module(path) for path in POLICY_FILES}
    foreign = {
        module
        for module in _imported(path) - policy
        if module.partition(".")[0] not in LIBRARIES | sys.stdlib_module_names
    }
    assert foreign == set()


def test_importing_the_package_and_its_config_loads_no_engine() -> None:
    """Reading the configuration costs no engine start; the scheduler loads on first use."""
    code = "import sys, hygen_vllm, hygen_vllm.config\n"
    code += "print(sorted({'vllm', 'torch', 'ray', 'hygen_vllm.scheduler'} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=PACKAGE.parent,
    )
    assert (result.stdout, result.stderr) == ("[]\n", "")
