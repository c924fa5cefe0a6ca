# SPDX-License-Identifier: Apache-2.0
"""Says that committed results measure this checkout: those of another machine, or of a command.

    python experiments/stamp.py experiments/00-demo/results.json experiments/real-gpu/h200.json

A result stands for all that its record in meta.json names, whose commit becomes that of this
checkout. Scripts of experiments write their records themselves.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from harness.provenance import TREE, Record, Tree, read_meta, write_meta


def restamp(result: Path, tree: Tree) -> str:
    """Give the record of a result the commit of a checkout; return that.

    Raises: ValueError if the result has no record.
    """
    folder = next((each for each in result.parents if (each / "meta.json").exists()), result.parent)
    entries = read_meta(folder)
    for entry in entries:
        if result in Record.of(folder, entry).files():
            entry["commit"] = tree.commit(entry["measures"])
            for name in ("dated_by", "versions"):  # of an earlier measurement
                entry.pop(name, None)
            write_meta(folder, entries)
            return str(entry["commit"])
    raise ValueError(f"no meta.json has a record of {result}")


def main(arguments: Sequence[str] | None = None, tree: Tree = TREE) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULT")
    for result in parser.parse_args(arguments).results:
        try:
            print(f"{result}: {restamp(result.resolve(), tree)}")
        except ValueError as error:
            parser.error(str(error))


if __name__ == "__main__":
    main()
