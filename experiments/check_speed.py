# SPDX-License-Identifier: Apache-2.0
"""Checks that nothing has become much slower than committed tables say, in a few minutes.

    python experiments/check_speed.py [NAME ...]

Runs the short version of each benchmark that has one, one after the other, and compares ratios of
times in one run, on which the machine's speed has no effect. What is too slow is measured again
before it counts, see harness/regression.py. Exit status 1 if a ratio is more than 15 % above the
committed one, or cannot be measured.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.regression import WORSE, Verdict, cells_of, table_of

HERE = Path(__file__).parent
CHECKS = {
    "scheduler": ("01-scheduler-cost/run.py", "01-scheduler-cost/results.csv"),
    "scheduler-slo": ("01-scheduler-cost/run.py", "01-scheduler-cost/results-slo.csv", "--slos"),
    "predictor": ("02-latency-predictor/speed.py", "02-latency-predictor/speed.csv"),
    "simulator": ("03-simulator/speed.py", "03-simulator/speed.csv"),
    "offline-queue": ("05-offline-lane/scale.py", "05-offline-lane/scale.csv"),
}
"""Script, committed table and further flags by name."""
FAILED = "failed"


def verdicts_of(script: Path, table: Path, flags: Sequence[str]) -> list[Verdict]:
    """Return what a script says of a table."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "verdicts.json"
        command = [sys.executable, script, "--check", table, "--verdicts", out, *flags]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        found = out.read_text(encoding="utf-8") if out.exists() else "[]"
        verdicts = [Verdict(**each) for each in json.loads(found)]
        if done.returncode and not any(each.is_bad for each in verdicts):
            verdicts.append(Verdict("", None, None, FAILED))
        return verdicts


def run(checks: Mapping[str, Sequence[str]], folder: Path = HERE) -> int:
    """Run checks and print what came of them; return the exit status."""
    found = []
    for name, (script, table, *flags) in checks.items():
        print(f"{name}: {script}", file=sys.stderr, flush=True)
        verdicts = verdicts_of(folder / script, folder / table, flags)
        found += [(name, each) for each in verdicts or [Verdict("", None, None, FAILED)]]
    header = ("benchmark", "row", "committed", "measured", "verdict")
    print(table_of([header, *((name, *cells_of(each)) for name, each in found)]))
    num_bad = sum(each.is_bad for _, each in found)
    num_worse = sum(each.verdict == WORSE for _, each in found)
    print(f"{len(found)} rows, {num_worse} worse, {num_bad - num_worse} that cannot be measured")
    return int(num_bad > 0)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join(CHECKS)}; all if none"
    )
    names = parser.parse_args(arguments).names or [*CHECKS]
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        parser.error(f"no check {unknown[0]!r}; there are {', '.join(CHECKS)}")
    return run({name: CHECKS[name] for name in names})


if __name__ == "__main__":
    sys.exit(main())
