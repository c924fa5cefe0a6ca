# SPDX-License-Identifier: Apache-2.0
"""Reads vLLM's engine flags from the command line of `hygen profile`."""

from collections.abc import Sequence
from typing import Any, NoReturn

from vllm.engine.arg_utils import EngineArgs
from vllm.utils.argparse_utils import FlexibleArgumentParser


def parse_engine_flags(flags: Sequence[str]) -> Any:
    """Return vLLM's EngineArgs of command-line flags. Raises ValueError with vLLM's reason."""
    parser = _EngineFlags(prog="hygen", add_help=False)
    return EngineArgs.from_cli_args(EngineArgs.add_cli_args(parser).parse_args(list(flags)))


class _EngineFlags(FlexibleArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)
