# SPDX-License-Identifier: Apache-2.0
"""Targets on a real engine of your own, with traces as its load; for GPUs.

    python experiments/04-slo-control/any_engine.py --model M --online azure --online-rate 5 \
        --slo tbt_p99=+20% --slo tbt_mean=+20% --out engine.csv [vLLM's engine flags]

One engine serves the same requests again and again: online alone, offline alone, together without
any gate (online first), and together under each target, which is relative to what was measured
alone. What the scheduler learns of step times in one run it knows in the next.

    python experiments/04-slo-control/any_engine.py --simulate h200-llama3-8b [the same]

does so in the simulator; each scheduler then begins with nothing learned.
"""

import argparse
import dataclasses
import os
import sys
from pathlib import Path

from runs import Case, Row, options_of, run_all, write_rows
from tqdm import tqdm

from hygen_vllm.config import HyGenConfig
from hygen_vllm.latency.cost_learner import CostLearner
from hygen_vllm.latency.profile_file import load_profile
from hygen_vllm.latency.step_trace import TraceWriter
from hygen_vllm.profiler.engine_flags import parse_engine_flags
from hygen_vllm.simulator.simulation import Requests
from hygen_vllm.slo.slo import Slo
from hygen_vllm.slo_control import SloControl
from hygen_vllm.step_plan import LatencyGate
from hygen_vllm.tuner.engine_server import EngineServer
from hygen_vllm.tuner.served import Served
from hygen_vllm.tuner.simulated_server import find_requests
from hygen_vllm.vllm_engine import engine_info


def steer(server: EngineServer, slo: str) -> None:
    """Let a scheduler steer by a target from now on, without anything known of the last one."""
    scheduler = server.scheduler
    scheduler.hygen_config = HyGenConfig(slos=[slo])
    scheduler.slo_control = SloControl(scheduler)
    scheduler.gate = scheduler.slo_control.controller


def row(name: str, policy: str, slo: Slo | None, served: Served, alone: Served | None) -> Row:
    """Return the figures of a run."""
    ratio = served.ratio_of(slo, alone.stats) if slo is not None and alone is not None else 0.0
    stats = served.stats
    return Row(
        name=name,
        policy=policy,
        slos="" if slo is None else str(slo),
        worst_ratio=ratio,
        online_tokens_per_s=served.online_tokens_per_s,
        offline_tokens_per_s=served.offline_tokens_per_s,
        ttft_mean_ms=1e3 * (stats["ttft"].mean or 0.0),
        ttft_p99_ms=1e3 * (stats["ttft"].p99 or 0.0),
        tbt_mean_ms=1e3 * (stats["tbt"].mean or 0.0),
        tbt_p99_ms=1e3 * (stats["tbt"].p99 or 0.0),
    )


def measure(server: EngineServer, requests: Requests, slos: list[str], out: Path) -> list[Row]:
    """Serve everything; write what is there after each run."""
    rows: list[Row] = []

    def serve(name: str, policy: str, load: Requests, slo: Slo | None = None) -> Served:
        with tqdm(total=100, desc=f"{name:16}", file=sys.stderr, mininterval=5) as bar:
            served = server.serve_requests(load, lambda share: bar.update(int(100 * share) - bar.n))
        rows.append(row(name, policy, slo, served, alone))
        write_rows(out, rows)
        print(dataclasses.asdict(rows[-1]), flush=True)
        return served

    alone: Served | None = None
    server.scheduler.gate = LatencyGate.from_config(HyGenConfig(mode="tolerance"))
    serve("tolerance 20 %", "tolerance", requests)
    alone = serve("online alone", "online-only", Requests(requests.online, []))
    server.scheduler.gate = LatencyGate.from_config(HyGenConfig(mode="off"))
    serve("offline alone", "offline-only", Requests([], requests.offline))
    serve("online first", "online-first", requests)
    for text in slos:
        steer(server, text)
        serve(text, "slo", requests, Slo.parse(text))
        print(server.scheduler.slo_control.controller.status(), flush=True)
    return rows


def simulate(profile: str, flags: dict[str, object], slos: list[str]) -> list[Row]:
    """Do the same in virtual time."""
    flags = {**flags, "profile": profile}
    cases = [
        Case("online alone", "online-only", flags),
        Case("offline alone", "offline-only", flags),
        Case("online first", "online-first", flags),
    ]
    cases += [Case(slo, "slo", {**flags, "slo": [slo], "unprofiled": True}) for slo in slos]
    return run_all(cases)


def table(rows: list[Row]) -> str:
    """Return the figures as a Markdown table."""
    offline = next(row for row in rows if row.policy == "offline-only").offline_tokens_per_s
    header = (
        *("run", "TTFT mean / P99, ms", "TBT mean / P99, ms", "of its limit"),
        *("offline tokens/s", "of alone", "total / offline alone"),
    )
    lines = [f"| {' | '.join(header)} |", f"|---|{'---:|' * (len(header) - 1)}"]
    for each in rows:
        total = each.online_tokens_per_s + each.offline_tokens_per_s
        lines.append(
            f"| {each.name} | {each.ttft_mean_ms:.0f} / {each.ttft_p99_ms:.0f} "
            f"| {each.tbt_mean_ms:.1f} / {each.tbt_p99_ms:.1f} "
            f"| {f'{each.worst_ratio:.3f}' if each.slos else ''} "
            f"| {each.offline_tokens_per_s:,.0f} | {each.offline_tokens_per_s / offline:.1%} "
            f"| {total / offline:.1%} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--model")
    where.add_argument("--simulate", metavar="PROFILE")
    parser.add_argument("--online", default="azure")
    parser.add_argument("--online-rate", type=float, default=5.0)
    parser.add_argument("--offline", default="arxiv")
    parser.add_argument("--offline-requests", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each run")
    parser.add_argument("--seed", type=int, default=41)
    parser.add_argument("--slo", action="append", default=[])
    parser.add_argument("--hygen-profile", help="step times from the start")
    parser.add_argument("--trace", help="CSV file of all steps")
    parser.add_argument("--out", type=Path, default=Path("engine.csv"))
    arguments, flags = parser.parse_known_args()
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    names = ("online", "online_rate", "offline", "offline_requests", "seconds", "seed")
    load = {name: getattr(arguments, name) for name in names}
    if arguments.simulate:
        print(table(simulate(arguments.simulate, load, arguments.slo)))
        return
    requests = find_requests(options_of(Case("", "slo", load)), 0)
    given = load_profile(arguments.hygen_profile).cost if arguments.hygen_profile else None
    engine_args = parse_engine_flags(["--model", arguments.model, *flags])
    server = EngineServer(engine_args, lambda _: requests, arguments.seconds)
    server.scheduler.learner = CostLearner(given)
    if arguments.trace:
        scheduler = server.scheduler
        engine = engine_info(scheduler.vllm_config)
        scheduler.trace = TraceWriter(arguments.trace, engine, 10**6, scheduler.clock())
    try:
        rows = measure(server, requests, arguments.slo, arguments.out)
    finally:
        server.close()
    print(table(rows))


if __name__ == "__main__":
    main()
