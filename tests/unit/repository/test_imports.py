# SPDX-License-Identifier: Apache-2.0
"""The walls between the folders of the package: what each may import, and what it may touch."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[3] / "hygen_vllm"
FILES = sorted(PACKAGE.rglob("*.py"))
SERVES = [path for path in FILES if "lab" not in path.parts]
PLAIN = {"numpy", "pydantic", "pydantic_core", "scipy", "sortedcontainers", "yaml", "tqdm"}
"""What any folder may use."""
ENGINES = {"vllm", "torch", "transformers"}
MAY_IMPORT = {
    "engine": ENGINES,
    "ray_serving": {"ray", "vllm"},
    "batch": {"ray"},
    "lab": {*ENGINES, "jinja2", "pandas", "sklearn", "matplotlib"},
}
"""Beside PLAIN, by folder."""
NOT_VLLMS = {"_exit", "_SubParsersAction", "_engine_client", "_get_response"}
"""Of Python's libraries and Ray's."""
FACES = {PACKAGE / "__init__.py", PACKAGE / "lab" / "cli.py"}
"""They load on first use what people ask them for."""
MOST_AT_ROOT = 8


def _module(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


OURS = frozenset(map(_module, FILES))


def _folder(module: str) -> str:
    """Return the folder that a module of ours belongs to: one of lab's, or `root`."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    folder = path if path.is_dir() else path.parent
    return ".".join(folder.relative_to(PACKAGE).parts[:2]) or "root"


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
            assert child.module is not None
            # a name may be a module
            modules |= {child.module, *(f"{child.module}.{alias.name}" for alias in child.names)}
        elif not (at_once and is_later):
            modules |= _imported(child, at_once=at_once)
    return modules


@cache
def _imported_by(path: Path) -> frozenset[str]:
    return frozenset(_imported(ast.parse(path.read_text(encoding="utf-8"))))


def _foreign(path: Path) -> set[str]:
    """Return the libraries that a file imports."""
    return {module.partition(".")[0] for module in _imported_by(path)} - {"hygen_vllm"}


def _ours(path: Path) -> frozenset[str]:
    """Return the modules of ours that a file imports."""
    return _imported_by(path) & OURS


@pytest.mark.parametrize("path", FILES, ids=_module)
def test_folder_imports_only_its_libraries(path: Path) -> None:
    """What is not in engine/ knows no vLLM; what serves needs neither pandas nor scikit-learn."""
    allowed = MAY_IMPORT.get(_folder(_module(path)).partition(".")[0], set())
    assert set() == _foreign(path) - PLAIN - allowed - sys.stdlib_module_names


@pytest.mark.parametrize("path", SERVES, ids=_module)
def test_what_serves_imports_nothing_of_the_lab(path: Path) -> None:
    assert not {module for module in _ours(path) if module.split(".")[1:2] == ["lab"]}


def test_folders_import_each_other_in_one_direction() -> None:
    graph: dict[str, set[str]] = {}
    for path in set(FILES) - FACES:
        folder = _folder(_module(path))
        imported = {_folder(module) for module in _ours(path) - {"hygen_vllm"}}
        graph.setdefault(folder, set()).update(imported - {folder})
    TopologicalSorter(graph).prepare()  # CycleError names those of a cycle


@pytest.mark.parametrize(
    "path", [path for path in FILES if _folder(_module(path)) != "engine"], ids=_module
)
def test_only_the_engine_folder_uses_private_names_of_vllm(path: Path) -> None:
    """Elsewhere an attribute with an underscore is one of the same file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
    }
    of_self = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in {"self", "cls"}
    }
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert set() == used - of_self - defined - NOT_VLLMS


def test_few_files_lie_at_the_root() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_AT_ROOT


def test_imports_are_seen_in_functions_classes_and_branches() -> None:
    """The tests above would notice an import wherever it hides."""
    code = (
        "import a\nif TYPE_CHECKING:\n import b\ntry:\n from c.d import e\nexcept E:\n pass\n"
        "def f():\n import g\nclass H:\n import i\n async def j(self):\n  import k\n"
    )
    assert {"a", "b", "c.d", "c.d.e", "g", "i", "k"} == _imported(ast.parse(code))
    assert {"a", "c.d", "c.d.e", "i"} == _imported(ast.parse(code), at_once=True)


def test_the_scheduler_loads_nothing_that_measures() -> None:
    """Nor pandas, scikit-learn or matplotlib, beyond what vLLM has loaded."""
    code = "import sys, vllm.v1.core.sched.async_scheduler, hygen_vllm\n"
    code += "of_vllm = set(sys.modules)\nhygen_vllm.HyGenScheduler\n"
    code += "heavy = {'pandas', 'sklearn', 'matplotlib', 'hygen_vllm.lab'}\n"
    code += "print(sorted(heavy & (set(sys.modules) - of_vllm)), file=sys.stderr)"
    assert "[]" == _printed(code)[1].splitlines()[-1]


def test_importing_the_package_and_its_config_loads_no_engine() -> None:
    """Reading the configuration costs no engine start; the scheduler loads on first use."""
    code = "import sys, hygen_vllm, hygen_vllm.config\n"
    code += "loaded = {'vllm', 'torch', 'ray', 'pandas', 'hygen_vllm.engine.scheduler'}\n"
    code += "print(sorted(loaded & set(sys.modules)))"
    assert _printed(code) == ("[]\n", "")


def _printed(code: str) -> tuple[str, str]:
    """Return what a new interpreter prints: stdout and stderr."""
    result = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", code],  # torch cannot be imported in an ASCII locale
        capture_output=True,
        text=True,
        check=False,
        cwd=PACKAGE.parent,
    )
    return result.stdout, result.stderr
