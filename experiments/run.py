# SPDX-License-Identifier: Apache-2.0
"""Runs experiments: all of them, or those whose folders begin with one of the given names.

Those whose config says `run_if_named` take long and run only if they are named.

    python experiments/run.py [--quick] [--out FOLDER] [NAME ...]

What was run before with the same code is not run again. Results go into the folders, and
RESULTS.md is made anew; with --quick, a short version of everything, they go elsewhere.
"""

import argparse
import importlib.util
import shutil
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from harness.experiment import Experiment, load_config
from harness.pool import Pool
from harness.record import Place, record
from harness.results_page import results_page
from harness.store import ROOT

HERE = Path(__file__).parent
QUICK_OUT = ROOT / ".cache" / "experiments-quick"


def find_folders(names: list[str]) -> list[Path]:
    """Return the folders of experiments. Raises ValueError for a name that fits none."""
    folders = sorted(path.parent for path in HERE.glob("[0-9]*/experiment.py"))
    for name in names:
        if not any(folder.name.startswith(name) for folder in folders):
            known = ", ".join(folder.name for folder in folders)
            raise ValueError(f"no experiment begins with {name!r}; there are {known}")
    return [f for f in folders if not names or any(f.name.startswith(name) for name in names)]


def load_experiment(folder: Path) -> Experiment:
    """Return the EXPERIMENT of a folder."""
    name = f"experiment_{folder.name.replace('-', '_')}"
    spec = importlib.util.spec_from_file_location(name, folder / "experiment.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Experiment = module.EXPERIMENT
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="like 10, or 10-slo-compliance")
    parser.add_argument("--quick", action="store_true", help="short runs of one seed")
    parser.add_argument("--out", type=Path, help="write results here instead")
    parser.add_argument("--jobs", type=int, help="runs at a time; as many as cores if left out")
    options = parser.parse_args()
    try:
        folders = find_folders(options.names)
    except ValueError as error:
        parser.error(str(error))
    out = options.out or (QUICK_OUT if options.quick else HERE)
    if out == QUICK_OUT:
        shutil.rmtree(out, ignore_errors=True)
    configs = {folder: load_config(folder, options.quick) for folder in folders}
    if not options.names:
        folders = [folder for folder in folders if not configs[folder].get("run_if_named")]
    experiments = {folder: load_experiment(folder) for folder in folders}
    cases = {folder: experiments[folder].cases(configs[folder]) for folder in folders}
    runs = iter(Pool(options.jobs).run([case for some in cases.values() for case in some]))
    for folder, experiment in experiments.items():
        done = [next(runs) for _ in cases[folder]]
        record(Place(folder, out / folder.name), experiment, configs[folder], done)
        print(f"{out / folder.name}: {len(done)} runs", file=sys.stderr)
    (out / "RESULTS.md").write_text(results_page(out), encoding="utf-8")


if __name__ == "__main__":
    main()
