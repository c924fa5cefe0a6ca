# SPDX-License-Identifier: Apache-2.0
"""A pytest plug-in: a run fails if a test file under its arguments collects no test.

Such a file looks green and checks nothing. A file skipped as a whole counts as empty: mark its
tests instead. Load it with `-p tests.collect_guard`. With pytest-xdist the workers collect, and
their controller fails the run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

WORKER_OUTPUT = "files_without_tests"
EMPTY = pytest.StashKey[str]()


@pytest.hookimpl(tryfirst=True)  # before -k, -m and other plug-ins deselect tests
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    if session.testsfailed:  # a file did not import: pytest reports it
        return
    empty = sorted(_test_files(config) - {item.path for item in items})
    if not empty:
        return
    message = "test files that collect no test: " + ", ".join(map(str, empty))
    if not hasattr(config, "workeroutput"):
        raise pytest.UsageError(message)
    config.workeroutput[WORKER_OUTPUT] = message


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker of pytest-xdist has found."""
    message = getattr(node, "workeroutput", {}).get(WORKER_OUTPUT)
    if message:
        node.config.stash[EMPTY] = message


def pytest_sessionfinish(session: pytest.Session) -> None:
    if EMPTY in session.config.stash:
        session.exitstatus = pytest.ExitCode.USAGE_ERROR


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if EMPTY in config.stash:
        terminalreporter.write_line(f"ERROR: {config.stash[EMPTY]}", red=True)


def _test_files(config: pytest.Config) -> set[Path]:
    roots = [config.invocation_params.dir / arg.partition("::")[0] for arg in config.args]
    named = {root for root in roots if root.is_file()}
    return named.union(*(root.rglob("test_*.py") for root in roots))
