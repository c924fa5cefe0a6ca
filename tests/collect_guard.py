# SPDX-License-Identifier: Apache-2.0
"""A pytest plug-in: a run fails if a test file under its arguments collects no test.

Such a file looks green and checks nothing. A file skipped as a whole counts as empty: mark its
tests instead. Load it with `-p tests.collect_guard`.
"""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.hookimpl(tryfirst=True)  # before -k, -m and other plug-ins deselect tests
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    if session.testsfailed:  # a file did not import: pytest reports it
        return
    empty = sorted(_test_files(config) - {item.path for item in items})
    if empty:
        raise pytest.UsageError("test files that collect no test: " + ", ".join(map(str, empty)))


def _test_files(config: pytest.Config) -> set[Path]:
    roots = [config.invocation_params.dir / arg.partition("::")[0] for arg in config.args]
    named = {root for root in roots if root.is_file()}
    return named.union(*(root.rglob("test_*.py") for root in roots))
