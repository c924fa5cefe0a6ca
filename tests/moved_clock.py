# SPDX-License-Identifier: Apache-2.0
"""A pytest plug-in: `--uptime SECONDS` lets the monotonic clock begin there.

For machines where `unshare --time` may not be used; subprocesses keep the machine's clock.
"""

import time

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--uptime", type=float, metavar="SECONDS", help="move time.monotonic() there")


def pytest_configure(config: pytest.Config) -> None:
    """Move the clock before a test file is imported."""
    uptime_s: float | None = config.getoption("--uptime")
    if uptime_s is None:
        return
    monotonic = time.monotonic
    offset_s = uptime_s - monotonic()
    time.monotonic = lambda: monotonic() + offset_s
    time.monotonic_ns = lambda: round(1e9 * time.monotonic())
