# SPDX-License-Identifier: Apache-2.0
"""Prints the releases under test; keeps vLLM quiet and off the network."""

import gc
import logging
import os
from collections.abc import Iterator
from importlib import metadata

import pytest

pytest.register_assert_rewrite("tests.support")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ["VLLM_CONFIGURE_LOGGING"] = "0"  # else pytest's caplog does not see its loggers
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
for name in ("HYGEN_CONFIG", "HYGEN_ALLOW_UNSUPPORTED_VLLM"):
    os.environ.pop(name, None)  # settings of whoever runs the tests


@pytest.fixture(autouse=True)
def level_of_vllm() -> Iterator[None]:
    """Let vLLM's logger say after a test what it said before: simulations silence it."""
    logger = logging.getLogger("vllm")
    level = logger.level
    yield
    logger.setLevel(level)


def pytest_collection_finish() -> None:
    """Keep the garbage collector from walking over all of vLLM and torch again and again."""
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()


def pytest_report_header() -> str:
    return ", ".join(f"{name}: {_version(name)}" for name in ("vllm", "torch"))


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"
