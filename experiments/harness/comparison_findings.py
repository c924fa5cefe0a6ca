# SPDX-License-Identifier: Apache-2.0
"""What most comparisons come to: a table of all cells, and a claim for each."""

from collections.abc import Sequence

from harness.claims import claim_of
from harness.comparison import cells_of, table_of
from harness.experiment import Config, Done, Findings


def findings_of_comparison(config: Config, runs: Sequence[Done]) -> Findings:
    """Return all cells, and a claim for each, named by the titles in the config."""
    cells = cells_of(config, runs)
    claims = []
    for cell in cells:
        setup = config["setups"][cell.setup]
        title = setup.get("title", cell.setup)
        result = f"{title}: offline tokens/s under {cell.target}"
        claims.append(claim_of(cell, result))
    return Findings([cell.row() for cell in cells], table_of(cells), claims)
