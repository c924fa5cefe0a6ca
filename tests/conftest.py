# SPDX-License-Identifier: Apache-2.0
"""Prints the releases under test; keeps vLLM quiet and off the network."""

import os

os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


def pytest_report_header() -> str:
    try:
        import torch
        import vllm
    except ImportError as error:
        return f"vllm: {error}"
    return f"vllm: {vllm.__version__}, torch: {torch.__version__}"
