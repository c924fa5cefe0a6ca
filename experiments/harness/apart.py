# SPDX-License-Identifier: Apache-2.0
"""Runs a script in a process of its own, which takes with it whatever it started."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULT = "result.json"
MOST_SHOWN = 6000
"""Characters of the end of the log that are shown if it fails."""


def run_apart(command: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run a script that writes JSON to RESULT in a folder; return that."""
    log = folder / "log"
    with log.open("w") as file:
        done = subprocess.run([sys.executable, *command], stdout=file, stderr=file, check=False)
    if done.returncode:
        sys.exit(log.read_text()[-MOST_SHOWN:])
    found: dict[str, Any] = json.loads((folder / RESULT).read_text())
    return found
