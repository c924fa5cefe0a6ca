# SPDX-License-Identifier: Apache-2.0
"""How much memory a scheduler holds on to."""

import gc
import sys
import types
from typing import Any


def reachable_bytes(scheduler: Any, apart: tuple[type, ...] = ()) -> int:
    """Return the bytes of all objects that a scheduler refers to, without code and settings.

    Args: apart: types of objects that are not its own.
    """
    apart = (*apart, type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)
    seen = {id(scheduler.vllm_config), id(sys.modules)}
    stack: list[Any] = [scheduler.__dict__]
    total = 0
    while stack:
        each = stack.pop()
        if id(each) in seen or isinstance(each, apart):
            continue
        seen.add(id(each))
        total += sys.getsizeof(each)
        stack += gc.get_referents(each)
    return total
