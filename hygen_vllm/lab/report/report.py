# SPDX-License-Identifier: Apache-2.0
"""`hygen report`: from result files to the file of the page."""

from collections.abc import Sequence
from pathlib import Path

from hygen_vllm.files import write_text
from hygen_vllm.lab.report.page import report_page
from hygen_vllm.lab.report.result_file import read_results


def write_report(paths: Sequence[Path], out: Path) -> Path:
    """Write the page about results; return its file.

    Raises: ConfigError, ValueError or OSError for bad input, ModuleNotFoundError for matplotlib,
        each one line; nothing is written then.
    """
    if not out.parent.is_dir() or out.is_dir():
        raise ValueError(f"--out must name a file in a folder that exists, got {out}")
    if out in paths:
        raise ValueError(f"--out must not be one of the results, got {out}")
    write_text(out, report_page(read_results(list(paths))))
    return out
