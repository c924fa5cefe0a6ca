# SPDX-License-Identifier: Apache-2.0
"""ResultsFile: results as they come, a line each, and what of them is there after a crash. Pure."""

import json
import os
from pathlib import Path

from hygen_vllm.files import naming
from hygen_vllm.json_types import Json


class ResultsFile:
    """An output file that is only ever added to.

    A line counts once it ends. One that was cut off by a crash is removed when the file is opened
    again, and its request runs again.

    Args:
        path: made if it does not exist.
        resume: go on with a file that has results.
    Raises: FileExistsError if it has and may not be gone on with; ValueError if what is there are
        no results.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self._path = path
        self.done: set[str | None] = set()
        """custom_ids with a result."""
        self.num_failed = 0
        """Results that are errors, those from before among them."""
        if path.is_file() and path.stat().st_size and not resume:
            raise FileExistsError(f"{path} has results: go on with --resume, or remove it")
        end = self._read() if path.is_file() else 0
        self._file = path.open("ab")
        self._file.truncate(end)

    def close(self) -> None:
        self._file.close()

    def write(self, row: Json) -> bool:
        """Add a result for good; False if there is one for its custom_id.

        Raises: OSError that names the file; what of the line is there then is cut off on resuming.
        """
        custom_id = row["custom_id"]
        if custom_id is not None and custom_id in self.done:
            return False
        with naming(self._path):
            self._file.write(json.dumps(row).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        self._note(row)
        return True

    def _note(self, row: Json) -> None:
        self.done.add(row["custom_id"])
        self.num_failed += row["error"] is not None

    def _read(self) -> int:
        """Note the results that are there; return where the last whole one ends."""
        end = 0
        with self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    self._note(json.loads(line))
                except (ValueError, KeyError, TypeError, RecursionError):
                    raise ValueError(f"{self._path}, line {number}: not a result") from None
                end += len(line)
        return end
