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
    PACKAGE / "output_file.py",
    PACKAGE / "request_class.py",
    PACKAGE / "step_plan.py",
    PACKAGE / "offline_grant.py",
    PACKAGE / "step_feedback.py",
    PACKAGE / "vllm_release.py",
    PACKAGE / "profiler" / "batch_shapes.py",
    PACKAGE / "offline_rate.py",
    PACKAGE / "kv_pace.py",
    PACKAGE / "online_headroom.py",
    PACKAGE / "openai_request.py",
    PACKAGE / "batch_job" / "batch_file.py",
    PACKAGE / "batch_job" / "results_file.py",
    PACKAGE / "ray_serving" / "app_config.py",
    PACKAGE / "ray_serving" / "resources.py",
    *sorted((PACKAGE / "fleet").glob("*.py")),
    PACKAGE / "simulator" / "device_model.py",
    PACKAGE / "simulator" / "step_work.py",
    PACKAGE / "simulator" / "step_time.py",
    PACKAGE / "simulator" / "predictor.py",
    *sorted((PACKAGE / "offline_lane").glob("*.py")),
    *sorted((PACKAGE / "slo").glob("*.py")),
    *sorted((PACKAGE / "latency").glob("*.py")),
    *sorted((PACKAGE / "workloads").glob("*.py")),
]


def _module(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def _imported(node: ast.AST, *, at_once: bool = False) -> set[str]:
    """Return the modules imported anywhere in a file, or only those imported as it is."""
    modules = set()
    for child in ast.iter_child_nodes(node):
        is_later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        is_later |= isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        if isinstance(child, ast.Import):
            modules |= {alias.name for alias in child.names}
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: relative import"
            modules.add(child.module or "")
        elif not (at_once and is_later):
            modules |= _imported(child, at_once=at_once)
    return modules


def _libraries(path: Path) -> set[str]:
    """Return the libraries that a policy file may import."""
    is_latency, is_estimator = path.parent.name == "latency", path.name == "estimator.py"
    return (
        LIBRARIES
        | ({"pandas"} if is_latency else set())
        | ({"sklearn"} if is_latency and is_estimator else set())
        | ({"transformers"} if path.name == "tokenizers.py" else set())
    )


@pytest.mark.parametrize("path", POLICY_FILES, ids=_module)
def test_policy_file_imports_only_policy_and_plain_libraries(path: Path) -> None:
    """Nothing in a policy file imports vllm, torch, ray or a file of ours that does."""
    policy = {_module(path) for path in POLICY_FILES}
    foreign = {
        module
        for module in _imported(ast.parse(path.read_text(encoding="utf-8"))) - policy
        if module.partition(".")[0] not in _libraries(path) | sys.stdlib_module_names
    }
    assert foreign == set()


@pytest.mark.parametrize("path", POLICY_FILES, ids=_module)
def test_policy_file_imports_pandas_only_where_it_needs_it(path: Path) -> None:
    """Inside a function, or for types: importing the file does not import pandas."""
    modules = _imported(ast.parse(path.read_text(encoding="utf-8")), at_once=True)
    assert "pandas" not in {module.partition(".")[0] for module in modules}


def test_imports_are_seen_in_functions_classes_and_branches() -> None:
    """The tests above would notice an import wherever it hides."""
    code = (
        "import a\nif TYPE_CHECKING:\n import b\ntry:\n from c.d import e\nexcept E:\n pass\n"
        "def f():\n import g\nclass H:\n import i\n async def j(self):\n  import k\n"
    )
    assert {"a", "b", "c.d", "g", "i", "k"} == _imported(ast.parse(code))
    assert {"a", "c.d", "i"} == _imported(ast.parse(code), at_once=True)


def test_importing_what_a_serving_engine_needs_loads_neither_pandas_nor_sklearn() -> None:
    """Learning, profiles and traces of an engine need only the plain libraries."""
    code = "import sys, hygen_vllm.latency.cost_learner, hygen_vllm.latency.profile_file\n"
    code += "import hygen_vllm.latency.step_trace\n"
    code += "print(sorted({'vllm', 'torch', 'pandas', 'sklearn'} & set(sys.modules)))"
    assert _printed(code) == ("[]\n", "")


def test_importing_the_package_and_its_config_loads_no_engine() -> None:
    """Reading the configuration costs no engine start; the scheduler loads on first use."""
    code = "import sys, hygen_vllm, hygen_vllm.config\n"
    code += "print(sorted({'vllm', 'torch', 'ray', 'hygen_vllm.scheduler'} & set(sys.modules)))"
    assert _printed(code) == ("[]\n", "")


def _printed(code: str) -> tuple[str, str]:
    """Return what a new interpreter prints: stdout and stderr."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=PACKAGE.parent,
    )
    return result.stdout, result.stderr
