# SPDX-License-Identifier: Apache-2.0
"""Targets on a real engine: SmolLM2-135M on the CPU, the load of `hygen demo`.

    python experiments/04-slo-control/real_engine.py --runs 3

Each run serves the same requests alone, offline alone, and together under each target, which is
relative to what was measured alone in the same run. Prints a table and writes real-engine.csv.
"""

import argparse
import asyncio
import csv
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hygen_vllm.demo.client import Client
from hygen_vllm.demo.engine import DemoEngine, prepare_environment
from hygen_vllm.demo.measure import PolicyFigures, Window, measure_policy
from hygen_vllm.demo.policies import EngineKind, Policy
from hygen_vllm.demo.run import COOL_DOWN_S, WARM_UP_S
from hygen_vllm.demo.workload import Workload, make_workload
from hygen_vllm.slo.slo import Slo
from hygen_vllm.small_model import prepare_small_model
from hygen_vllm.workloads import data_dir
from hygen_vllm.workloads.tokenizers import load_tokenizer

HERE = Path(__file__).parent
TARGETS = ("tbt_p99=+20%", "tbt_mean=+20%")
ONLINE = Policy("online-only", EngineKind.STOCK, has_offline=False)
OFFLINE = Policy("offline-only", EngineKind.STOCK, has_online=False)
TOGETHER = Policy("hygen", EngineKind.HYGEN)


@dataclass(frozen=True)
class Row:
    """A target in a run."""

    seed: int
    slo: str
    alone_ms: float
    measured_ms: float
    of_limit: float
    offline_tokens_per_s: float
    of_offline_alone: float


async def serve(
    engine: DemoEngine, policy: Policy, workload: Workload, seconds: float
) -> PolicyFigures:
    """Serve the workload for a while after the warm-up."""
    window = Window(WARM_UP_S, WARM_UP_S + seconds)
    run_s = window.end_s + COOL_DOWN_S
    client = Client(engine.generate)
    await client.serve(
        workload.online if policy.has_online else [],
        iter(workload.offline) if policy.has_offline else None,
        run_s,
        lambda _: None,
    )
    return measure_policy(policy.name, client.logs, window, run_s, 1.0)


async def one_run(model: Path, seed: int, seconds: float, rate: float) -> list[Row]:
    """Measure all targets with one draw of requests."""
    run_s = WARM_UP_S + seconds + COOL_DOWN_S
    workload = make_workload(data_dir(), load_tokenizer(model), rate, run_s, seed)
    engine = DemoEngine(model, EngineKind.STOCK, {})
    try:
        alone = await serve(engine, ONLINE, workload, seconds)
        await engine.forget()
        offline = await serve(engine, OFFLINE, workload, seconds)
    finally:
        engine.stop()
    rows = []
    for text in TARGETS:
        engine = DemoEngine(model, EngineKind.HYGEN, {"slos": [text]})
        try:
            figures = await serve(engine, TOGETHER, workload, seconds)
        finally:
            engine.stop()
        rows.append(_row(seed, Slo.parse(text), alone, offline, figures))
        _say(rows[-1])
    return rows


def _row(
    seed: int, slo: Slo, alone: PolicyFigures, offline: PolicyFigures, figures: PolicyFigures
) -> Row:
    alone_s = getattr(getattr(alone.online, f"{slo.metric}_s"), slo.statistic)
    measured_s = getattr(getattr(figures.online, f"{slo.metric}_s"), slo.statistic)
    rate = figures.offline.tokens_per_s
    return Row(
        seed=seed,
        slo=str(slo),
        alone_ms=1e3 * alone_s,
        measured_ms=1e3 * measured_s,
        of_limit=measured_s / (alone_s * (1.0 + (slo.rise or 0.0))),
        offline_tokens_per_s=rate,
        of_offline_alone=rate / offline.offline.tokens_per_s,
    )


def _say(row: Row) -> None:
    print(
        f"| {row.seed} | {row.slo} | {row.alone_ms:.1f} | {row.measured_ms:.1f} | "
        f"{row.of_limit:.3f} | {row.offline_tokens_per_s:.0f} | {row.of_offline_alone:.1%} |",
        flush=True,
    )


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])))
        writer.writeheader()
        for row in rows:
            values = asdict(row).items()
            writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in values})


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=90.0, help="measured, of each policy")
    parser.add_argument("--rate", type=float, default=0.8, help="online requests a second")
    arguments = parser.parse_args()
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    prepare_environment()
    model = prepare_small_model()
    print(
        "| seed | target | alone, ms | measured, ms | of its limit | offline tokens/s | of alone |"
    )
    print("|---|---|---:|---:|---:|---:|---:|", flush=True)
    rows = []
    for seed in range(arguments.runs):
        rows += await one_run(model, seed, arguments.seconds, arguments.rate)
    write_rows(HERE / "real-engine.csv", rows)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
