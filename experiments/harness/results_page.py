# SPDX-License-Identifier: Apache-2.0
"""RESULTS.md: all claims of all experiments, from their claims.json."""

import json
from collections.abc import Sequence
from pathlib import Path

from harness.experiment import Claim
from harness.tables import markdown

HEADER = (
    *(
        "result",
        "paper",
        "vLLM or HyGen*",
        "fixed budget (the paper's HyGen)",
        "ours",
        "ours / fixed",
    ),
    "from",
)
OPENING = """# Results

Made by `make experiments` from the `claims.json` of each experiment; nothing here is typed. Numbers
are medians over seeds, in brackets the lowest and the highest. "Paper" is *HyGen* (NeurIPS 2025,
arXiv 2501.14808), whose testbed had other kernels, other engines and its own scheduler: its ratios
can be compared, its seconds cannot. The fixed budget (the paper's HyGen) and the rate cap (HyGen*)
are the best ones for the very runs in which they are compared, picked with hindsight. Ours is told
the percentiles of online alone, without which they could not be picked either; means it estimates
while serving, and from a cold start the percentiles too. vLLM's priority policy is what users have
without HyGen.

All of these runs are simulated, 200 to 400 s long, on devices modelled from published figures:
`experiments/03-simulator` says how far to trust that. Real engines are in `experiments/real-cpu`
and `experiments/real-gpu`.
"""
NOTES = "\n## What has to be known beside them\n\n"


def results_page(folders: Sequence[Path]) -> str:
    """Return the page."""
    rows, notes = [], []
    for folder in folders:
        for claim in _claims(folder):
            cells = [claim.paper, claim.baseline, claim.fixed, claim.ours, claim.ratio]
            rows.append(
                [claim.result, *(cell or "" for cell in cells), f"[{folder.name}]({folder.name})"]
            )
            if claim.note:
                notes.append(f"- {claim.result}: {claim.note}")
    page = f"{OPENING}\n{markdown(HEADER, rows)}\n"
    return page + (NOTES + "\n".join(notes) + "\n" if notes else "")


def _claims(folder: Path) -> list[Claim]:
    path = folder / "claims.json"
    if not path.exists():
        return []
    return [Claim(**claim) for claim in json.loads(path.read_text(encoding="utf-8"))]
