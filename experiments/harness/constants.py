# SPDX-License-Identifier: Apache-2.0
"""The named numbers of the policy, and what happens if one of them is another."""

import ast
import importlib
import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import hygen_vllm

PACKAGE = Path(hygen_vllm.__file__).parent
POLICY = ("cost", "kv", "lane", "step", "targets", "engine")
"""Folders whose numbers decide something."""


@dataclass(frozen=True)
class Constant:
    """A number that a module gives a name.

    Args:
        place: "folder.module:NAME".
        why: what is written below it, in one line; "" for nothing.
    """

    place: str
    value: float
    why: str


def constants() -> list[Constant]:
    """Return the numbers of the policy's modules, by place.

    Those that are made of others, and those of classes, are not among them.
    """
    return [
        found
        for folder in POLICY
        for path in sorted((PACKAGE / folder).glob("*.py"))
        for found in _numbers_of(path, f"{folder}.{path.stem}")
    ]


def _numbers_of(path: Path, module: str) -> Iterator[Constant]:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    for node, below in zip(body, [*body[1:], None], strict=True):
        if not isinstance(node, ast.Assign):
            continue
        for name, value in _named(node):
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if is_number and 0 < value < math.inf:
                yield Constant(f"{module}:{name}", value, _text_of(below))


def _named(node: ast.Assign) -> Iterator[tuple[str, float]]:
    """Yield name and value of each number that is assigned, written or worked out of others."""
    (target,) = node.targets
    targets = target.elts if isinstance(target, ast.Tuple) else [target]
    values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
    if len(targets) != len(values):
        return
    for each, expression in zip(targets, values, strict=True):
        if any(isinstance(part, ast.Name | ast.Call) for part in ast.walk(expression)):
            continue
        if isinstance(each, ast.Name) and isinstance(expression, ast.Constant | ast.BinOp):
            yield each.id, eval(ast.unparse(expression), {"__builtins__": {}})  # noqa: S307 - ours


def _text_of(node: ast.stmt | None) -> str:
    if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        return ""
    return " ".join(str(node.value.value).split())


@contextmanager
def scaled(place: str, factor: float) -> Iterator[None]:
    """Multiply a constant in this process, in each module that has it; whole ones stay whole."""
    module, _, name = place.partition(":")
    owner = importlib.import_module(f"hygen_vllm.{module}")
    value = getattr(owner, name)
    other = max(1, round(value * factor)) if isinstance(value, int) else value * factor
    with ExitStack() as stack:
        for each in [*sys.modules.values()]:
            is_ours = getattr(each, "__name__", "").startswith("hygen_vllm.")
            if is_ours and getattr(each, name, None) is value:
                stack.enter_context(mock.patch.object(each, name, other))
        yield
