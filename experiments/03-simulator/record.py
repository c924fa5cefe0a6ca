# SPDX-License-Identifier: Apache-2.0
"""Serves a real model on a real engine and records what the client saw and what each step took.

    record.py --delay     lone requests on an idle engine: what the way there and back takes
    record.py             one run for each policy, all with the same requests

Writes recorded/POLICY.csv.gz with a row for each request: class, arrival, lengths and the times of
its tokens; lone requests into recorded/delay.csv.gz.
"""

import argparse
import asyncio
import csv
import gzip
from pathlib import Path

from hygen_vllm.lab.demo.client import Client
from hygen_vllm.lab.demo.engine import DemoEngine, prepare_environment
from hygen_vllm.lab.demo.policies import EngineKind, Policy, find_policies
from hygen_vllm.lab.demo.streams import engine_log
from hygen_vllm.lab.demo.workload import DemoRequest, Workload, make_workload
from hygen_vllm.lab.small_model import prepare_small_model
from hygen_vllm.lab.workloads import data_dir
from hygen_vllm.lab.workloads.tokenizers import load_tokenizer

HERE = Path(__file__).parent
RECORDED = HERE / "recorded"
ONLINE_PER_S = 0.8
RUN_S = 100.0
LATENCY_BUDGET_S = 0.12
POLICIES = "online-only,vllm-priority,hygen"
NUM_LONE = 40
LONE_TOKENS = 64
LONE_GAP_S = 0.7


async def serve(policy: Policy, hygen: dict, workload: Workload, model: Path) -> Client:
    engine = DemoEngine(model, policy.engine, hygen)
    client = Client(engine.generate)
    offline = iter(workload.offline) if policy.has_offline else None
    try:
        await client.serve(workload.online, offline, RUN_S, lambda _: None)
        await engine.forget()
    finally:
        engine.stop()
    return client


async def serve_alone(model: Path) -> Client:
    """Send requests of LONE_TOKENS prompt tokens and one output token, each to an idle engine."""
    engine = DemoEngine(model, EngineKind.STOCK, {})
    client = Client(engine.generate)
    tokens = range(1000, 1000 + LONE_TOKENS)
    requests = [
        DemoRequest("online", [token + i for token in tokens], 1, arrival_s=i * LONE_GAP_S)
        for i in range(NUM_LONE)
    ]
    try:
        await client.serve(requests, None, NUM_LONE * LONE_GAP_S, lambda _: None)
    finally:
        engine.stop()
    return client


def write(path: Path, client: Client) -> None:
    with gzip.open(path, "wt", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("class", "arrival_s", "prompt_tokens", "output_tokens", "token_times_s"))
        for log in client.logs:
            times = " ".join(f"{time_s:.4f}" for time_s in log.token_times_s)
            writer.writerow(
                (log.slo_class, f"{log.arrival_s:.4f}", log.prompt_tokens, log.output_tokens, times)
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay", action="store_true", help="send lone requests instead")
    parser.add_argument("--policies", default=POLICIES, help="%(default)s")
    parser.add_argument("--profile", help="profile that hygen starts with")
    options = parser.parse_args()
    prepare_environment()
    model = prepare_small_model()
    RECORDED.mkdir(exist_ok=True)
    with engine_log(RECORDED.parent / "engine.log") as terminal:
        if options.delay:
            write(RECORDED / "delay.csv.gz", asyncio.run(serve_alone(model)))
            return
        hygen = {"latency_budget_s": LATENCY_BUDGET_S}
        if options.profile:
            hygen["profile"] = options.profile
        workload = make_workload(data_dir(), load_tokenizer(model), ONLINE_PER_S, RUN_S, seed=0)
        for policy in find_policies(options.policies):
            print(f"{policy.name}: {RUN_S:.0f} s", file=terminal.stderr, flush=True)
            client = asyncio.run(serve(policy, hygen, workload, model))
            write(RECORDED / f"{policy.name}.csv.gz", client)


if __name__ == "__main__":
    main()
