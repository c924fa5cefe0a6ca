# SPDX-License-Identifier: Apache-2.0
"""Does the prediction become right, and stay right, while serving?

Simulated (default): the real scheduler in virtual time on the A100 device model, three questions,
several seeds; writes learning.csv and learning.png. With --trace FILE: the same picture of a trace
recorded by a real engine.

A step counts as gated if it has offline work and its online part alone fits the budget.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from harness.provenance import command_line, stamp
from serving import PROFILES, Disturbance, DisturbedDevice, ServedStep, serve
from tables import write_table
from tqdm import tqdm

from hygen_vllm.cost.learner import CostLearner
from hygen_vllm.cost.profile import load_profile
from hygen_vllm.lab.profile.read_trace import read_trace
from hygen_vllm.lab.simulator.device_model import load_device

HERE = Path(__file__).parent
THIS = "experiments/02-latency-predictor/learning.py"
MEASURES = (
    "simulates",
    "hygen_vllm/lab/profile/read_trace.py",
    THIS,
    "experiments/02-latency-predictor/serving.py",
    "profiles/a100/llama2-7b/*.json",
)
TRACED = "hygen demo --policies fixed-budget --seconds 60 --trace real-run.csv"
PROFILE = PROFILES / "a100/llama2-7b"
BUDGET_S = 0.05
NOISE = 0.03
NUM_STEPS = 1600
CHANGE_AT = 800
SLOWER = 1.3
STRAY = 10.0
STRAY_AT = 400
WINDOW = 50
AIM_LEARNING = 0.15
AIM_DRIFT = 0.1


def slower(step: int) -> float:
    return SLOWER if step >= CHANGE_AT else 1.0


CASES = {
    "no profile": (False, Disturbance(NOISE)),
    "no profile, then 30 % slower": (False, Disturbance(NOISE, slower)),
    "profile, then 30 % slower": (True, Disturbance(NOISE, slower)),
}


def run(name: str, seed: int) -> list[ServedStep]:
    has_profile, disturbance = CASES[name]
    device = DisturbedDevice(load_device(PROFILE), disturbance, seed)
    given = load_profile(PROFILE).cost if has_profile else None
    return serve(device, {"latency_budget_s": BUDGET_S}, NUM_STEPS, seed=seed, given=given)


def errors(steps: Sequence[ServedStep]) -> np.ndarray:
    """Return predicted / true - 1 of each step, NaN while nothing was predicted."""
    return np.array([(s.predicted_s or np.nan) / s.true_s - 1.0 for s in steps])


def figures(name: str, seed: int, steps: Sequence[ServedStep]) -> dict[str, object]:
    error = errors(steps)
    gated = [s.true_s / BUDGET_S for s in steps if s.has_offline and s.online_s <= BUDGET_S]
    after = np.abs(error[CHANGE_AT:])
    moving = np.convolve(after, np.ones(WINDOW) / WINDOW, mode="valid")
    settled = np.flatnonzero(moving <= AIM_DRIFT)
    return {
        "case": name,
        "seed": seed,
        "mape_after_300": round(float(np.nanmean(np.abs(error[300:CHANGE_AT]))), 4),
        "largest_step_over_budget": round(max(gated), 3),
        "gated_steps": len(gated),
        "steps_back_to_10_percent": int(settled[0]) if len(settled) else None,
        "mape_200_after_change": round(float(np.nanmean(after[200:])), 4),
        "stray_moves": round(stray_moves(steps, CASES[name][0]), 4),
    }


def stray_moves(steps: Sequence[ServedStep], has_profile: bool) -> float:
    """Return the largest share by which one step, 10 times as long, changes any later prediction.

    The same measured steps are learned twice, once with the stray among them.
    """
    given = load_profile(PROFILE).cost if has_profile else None
    without, with_stray = CostLearner(given), CostLearner(given)
    moves = [0.0]
    for i, step in enumerate(steps[:CHANGE_AT]):
        if i > STRAY_AT:
            pair = with_stray.predict(step.composition), without.predict(step.composition)
            moves.append(abs(pair[0] / pair[1] - 1.0))
        without.observe(step.composition, step.measured_s)
        with_stray.observe(step.composition, step.measured_s * (STRAY if i == STRAY_AT else 1.0))
    return max(moves)


def draw(path: Path, title: str, series: dict[str, np.ndarray]) -> None:
    """Draw the mean of |error| over the last WINDOW steps, in percent."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 4.5), constrained_layout=True)
    for name, error in series.items():
        size = np.abs(np.nan_to_num(error, nan=1.0))
        means = np.convolve(size, np.ones(WINDOW) / WINDOW, mode="valid")
        axes.plot(WINDOW + np.arange(len(means)), 100 * means, lw=1.3, label=name)
    axes.axhline(100 * AIM_LEARNING, c="grey", ls="--", lw=1, label="aim while learning")
    axes.axhline(100 * AIM_DRIFT, c="grey", ls=":", lw=1, label="aim 200 steps after a change")
    axes.set(xlabel="step", ylabel=f"|error|, %, mean of {WINDOW} steps", ylim=(0, 40), title=title)
    axes.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def simulate(num_seeds: int) -> None:
    rows, series = [], {}
    runs = [(name, seed) for name in CASES for seed in range(num_seeds)]
    for name, seed in tqdm(runs, unit="run", file=sys.stderr):
        steps = run(name, seed)
        rows.append(figures(name, seed, steps))
        series.setdefault(name, errors(steps))
    write_table(HERE / "learning.csv", rows)
    title = f"Simulated: Llama-2-7B on an A100 model, {NOISE:.0%} noise, prediction against truth"
    draw(HERE / "learning.png", title, series)
    stamp(HERE, ["learning.csv", "learning.png"], MEASURES)


def show_trace(path: Path) -> None:
    """Draw a real engine's trace, and say how good its predictions were."""
    engine, table = read_trace(path)
    error = (table["predicted_s"] / table["seconds"] - 1.0).to_numpy()
    for first, last in ((0, 100), (100, 300), (300, len(error))):
        mape = np.nanmean(np.abs(error[first:last]))
        print(f"steps {first} to {last}: MAPE {mape:.2%}")
    title = f"Measured: {engine.model} on {engine.device}, no profile, prediction against measured"
    draw(HERE / "real-run.png", title, {"from the first step on": error})
    stamp(HERE, ["real-run.png"], ["demo", THIS], f"{TRACED}; {command_line(sys.argv)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="simulated runs a case (%(default)s)")
    parser.add_argument("--trace", type=Path, help="draw this trace of a real engine instead")
    options = parser.parse_args()
    if options.trace is not None:
        show_trace(options.trace)
    else:
        simulate(options.seeds)


if __name__ == "__main__":
    main()
