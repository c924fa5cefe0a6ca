# SPDX-License-Identifier: Apache-2.0
"""RESULTS.md: all claims of all experiments, from their claims.json."""

import json
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
are tuned with hindsight until they just meet the target in the very runs in which they are
compared, interpolated between two settings. Ours is told the percentiles of online alone, without
which they could not be tuned either; means it estimates while serving, and from a cold start the
percentiles too. vLLM's priority policy is what users have without HyGen.

All of these runs but the last ones are simulated, 2 to 40 minutes long, on devices modelled from
published figures: `experiments/03-simulator` says how far to trust that. Real engines are in
`experiments/real-cpu`, which the last rows are from, and `experiments/real-gpu`.
"""
NOTES = "\n## What has to be known beside them\n\n"


def results_page(folder: Path) -> str:
    """Return the page of all experiments whose results are in a folder."""
    rows, notes = [], []
    for path in sorted(folder.glob("*/claims.json")):
        name = path.parent.name
        for claim in _claims(path):
            cells = [claim.paper, claim.baseline, claim.fixed, claim.ours, claim.ratio]
            rows.append([claim.result, *(cell or "" for cell in cells), f"[{name}]({name})"])
            if claim.note:
                notes.append(f"- {claim.result}: {claim.note}")
    page = f"{OPENING}\n{markdown(HEADER, rows)}\n"
    return page + (NOTES + "\n".join(notes) + "\n" if notes else "")


def _claims(path: Path) -> list[Claim]:
    return [Claim(**claim) for claim in json.loads(path.read_text(encoding="utf-8"))]
