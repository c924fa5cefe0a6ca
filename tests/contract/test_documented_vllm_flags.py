# SPDX-License-Identifier: Apache-2.0
"""The flags of vLLM's engine that the documents name are flags of each supported release."""

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.utils.argparse_utils import FlexibleArgumentParser

from tests.unit.repository.test_docs import VLLM_FLAGS


def test_flags_that_the_documents_name_are_vllms() -> None:
    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    known = {flag for action in parser._actions for flag in action.option_strings}
    assert VLLM_FLAGS - known == set()
