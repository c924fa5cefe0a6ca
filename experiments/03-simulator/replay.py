# SPDX-License-Identifier: Apache-2.0
"""Does a simulated run come out as the real one did?

Replays what record.py recorded: the same requests at the same times, the same scheduler, steps as
long as a profile says that was measured before. Simulated figures are means over seeds of the noise
of step times. To their TTFT comes what the way from the client to the engine and back takes,
measured with lone requests. Prints and writes replay.csv, and draws replay.png.
"""

import csv
import gzip
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from harness.provenance import stamp
from record import LATENCY_BUDGET_S, LONE_TOKENS, POLICIES, RECORDED, RUN_S

from hygen_vllm.cost.composition import StepComposition
from hygen_vllm.cost.profile import load_profile
from hygen_vllm.lab.demo.client import RequestLog
from hygen_vllm.lab.demo.measure import Window, measure_offline, measure_online, token_gaps
from hygen_vllm.lab.policies import PolicyInput, find_policy
from hygen_vllm.lab.profile.read_trace import read_trace
from hygen_vllm.lab.simulator.run_log import STEP_COLUMNS
from hygen_vllm.lab.simulator.simulated_engine import SimulatedEngine
from hygen_vllm.lab.simulator.simulation import Requests, Run, simulate
from hygen_vllm.lab.simulator.step_time import Disturbance
from hygen_vllm.lab.workloads.arrivals import Arrival

HERE = Path(__file__).parent
MEASURES = (
    "simulates",
    "hygen_vllm/lab/demo/client.py",
    "hygen_vllm/lab/demo/measure.py",
    "hygen_vllm/lab/profile/read_trace.py",
    "experiments/03-simulator/record.py",
    "experiments/03-simulator/replay.py",
    "experiments/03-simulator/recorded/*",
    "experiments/03-simulator/profile/profile.json",
    "experiments/03-simulator/profile/trace.csv.gz",
)
PROFILE = HERE / "profile"
TRACE = PROFILE / "trace.csv.gz"
WINDOW = Window(12.0, RUN_S - 2.0)
NUM_SEEDS = 5
SIMULATED_AS = {"hygen": "fixed-budget"}
FIGURES = ("TTFT mean", "TTFT P99", "TBT mean", "TBT P99", "online tokens/s", "offline tokens/s")
AIMS = (0.1, 0.2, 0.1, 0.2, 0.1, 0.1)


def recorded(policy: str) -> list[RequestLog]:
    with gzip.open(RECORDED / f"{policy}.csv.gz", "rt", encoding="utf-8") as file:
        return [
            RequestLog(
                row["class"],
                float(row["arrival_s"]),
                int(row["prompt_tokens"]),
                int(row["output_tokens"]),
                [float(time_s) for time_s in row["token_times_s"].split()],
            )
            for row in csv.DictReader(file)
        ]


def requests_of(logs: list[RequestLog]) -> Requests:
    def of(slo_class: str) -> list[Arrival]:
        some = [log for log in logs if log.slo_class == slo_class]
        made = [Arrival(log.arrival_s, log.prompt_tokens, log.output_tokens) for log in some]
        return sorted(made, key=lambda arrival: arrival.time_s)

    return Requests(of("online"), of("offline"))


def step_noise() -> float:
    """Return the spread of step times around the median of their batch, outliers aside."""
    _, table = read_trace(TRACE)
    logs = np.log(table["seconds"])
    low, high = np.percentile(logs - logs.groupby(table["batch"]).transform("median"), (16, 84))
    return float(high - low) / 2


def client_delay() -> float:
    """Return the seconds that a lone request takes beyond its one step."""
    step = StepComposition()
    step.add_prefill(LONE_TOKENS, 0)
    ttft_s = [log.token_times_s[0] - log.arrival_s for log in recorded("delay")]
    return float(np.median(ttft_s)) - load_profile(PROFILE).cost.seconds(step)


def replay(policy: str, logs: list[RequestLog], seed: int) -> Run:
    chosen = find_policy(SIMULATED_AS.get(policy, policy))
    engine = SimulatedEngine.load(str(PROFILE))
    engine = replace(engine, disturbance=Disturbance(noise=step_noise()))
    settings = chosen.settings(PolicyInput(latency_budget_s=LATENCY_BUDGET_S))
    return simulate(engine, chosen, settings, requests_of(logs), seed=seed, until_s=RUN_S)


def online_logs(run: Run) -> list[RequestLog]:
    return [
        RequestLog(
            "online",
            record.arrival.time_s,
            record.arrival.prompt_tokens,
            record.arrival.output_tokens,
            record.token_times_s,
        )
        for record in run.log.records.values()
        if not record.is_offline
    ]


def simulated_figures(run: Run) -> list[float]:
    steps = run.log.steps()
    is_in = [WINDOW.holds(time_s) for time_s in steps[:, STEP_COLUMNS.index("ends_s")]]
    done = steps[is_in, STEP_COLUMNS.index("offline_tokens_done")].sum()
    mean, p99, *others = online_figures(online_logs(run))
    delay_ms = 1e3 * client_delay()
    return [mean + delay_ms, p99 + delay_ms, *others, done / WINDOW.duration_s]


def measured_figures(logs: list[RequestLog]) -> list[float]:
    online = [log for log in logs if log.slo_class == "online"]
    offline = [log for log in logs if log.slo_class == "offline"]
    return [*online_figures(online), measure_offline(offline, WINDOW).tokens_per_s]


def online_figures(logs: list[RequestLog]) -> list[float]:
    found = measure_online(logs, WINDOW, RUN_S)
    times = (found.ttft_s.mean, found.ttft_s.p99, found.tbt_s.mean, found.tbt_s.p99)
    return [*(1e3 * (time_s or 0.0) for time_s in times), found.tokens_per_s]


def rows(policy: str, measured: list[float], runs: list[Run]) -> Iterator[dict]:
    simulated = np.array([simulated_figures(run) for run in runs])
    mean, spread = simulated.mean(axis=0), simulated.std(axis=0)
    columns = zip(FIGURES, measured, mean, spread, AIMS, strict=True)
    for name, real, virtual, deviation, aim in columns:
        if real == 0:
            continue
        yield {
            "policy": policy,
            "figure": name + ("" if "tokens" in name else ", ms"),
            "measured": round(real, 1),
            "simulated": round(virtual, 1),
            "spread": round(deviation, 1),
            "difference_percent": round(100 * (virtual / real - 1), 1),
            "aim_percent": round(100 * aim),
        }


def draw(gaps: dict[str, tuple[list[float], list[float]]]) -> None:
    """Draw the share of tokens with a longer TBT: measured and simulated."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(gaps), figsize=(13, 4), constrained_layout=True)
    for panel, (policy, pair) in zip(np.atleast_1d(axes), gaps.items(), strict=True):
        for gaps_s, name, style in zip(pair, ("measured", "simulated"), ("0.5", "C0"), strict=True):
            times_ms = 1e3 * np.sort(gaps_s)
            share = 100 * (1 - np.arange(len(times_ms)) / len(times_ms))
            panel.plot(times_ms, share, c=style, label=f"{name} (n={len(times_ms)})")
        panel.set(title=policy, xlabel="online TBT, ms", yscale="log", ylim=(0.1, 100))
        panel.legend(frameon=False)
    np.atleast_1d(axes)[0].set_ylabel("output tokens with a longer TBT, %")
    figure.suptitle("Measured on the CPU, and simulated from a profile of another run")
    figure.savefig(HERE / "replay.png", dpi=110)
    plt.close(figure)


def main() -> None:
    table, gaps = [], {}
    for policy in POLICIES.split(","):
        logs = recorded(policy)
        runs = [replay(policy, logs, seed) for seed in range(NUM_SEEDS)]
        table += rows(policy, measured_figures(logs), runs)
        online = [log for log in logs if log.slo_class == "online"]
        pair = (token_gaps(online), token_gaps(online_logs(runs[0])))
        gaps[policy] = tuple([gap for t, gap in some if WINDOW.holds(t)] for some in pair)
    with (HERE / "replay.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    print(f"client delay {1e3 * client_delay():.1f} ms, step noise {step_noise():.1%}")
    print(*table[0], sep="\t")
    for row in table:
        print(*row.values(), sep="\t")
    draw(gaps)
    stamp(HERE, ["replay.csv", "replay.png"], MEASURES)


if __name__ == "__main__":
    main()
