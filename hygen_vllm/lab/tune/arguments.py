# SPDX-License-Identifier: Apache-2.0
"""The arguments of `hygen tune`. Imports nothing heavy: every command reads this."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hygen_vllm.command_line import count, positive
from hygen_vllm.lab.simulator.arguments import add_engine_options, add_workload, options_of
from hygen_vllm.slo import Slo

if TYPE_CHECKING:
    from hygen_vllm.lab.tune.served import Server


def add_tune(commands: "argparse._SubParsersAction[Any]") -> None:
    parser = commands.add_parser(
        "tune",
        help="search the largest fixed latency budget that meets latency targets",
        epilog="With --model further flags are vLLM's engine flags: give those you serve with.",
        allow_abbrev=False,
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--profile", metavar="NAME|PATH", help="probe the simulator")
    where.add_argument("--model", metavar="M", help="probe a real engine, as in vllm serve")
    add_workload(parser)
    parser.add_argument(
        "--seconds", type=positive, default=120.0, metavar="N", help="of a probe (%(default)g)"
    )
    parser.add_argument(
        "--probes", type=count, default=16, metavar="N", help="at most (%(default)s)"
    )
    parser.add_argument("--low-ms", type=positive, metavar="B", help="smallest budget to try")
    parser.add_argument("--high-ms", type=positive, metavar="B", help="largest budget to try")
    parser.add_argument("--seed", type=int, default=0, help="chooses the requests")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for report.md, tune.png, tune.json, online-alone.json and hygen.yaml",
    )
    add_engine_options(parser)
    parser.set_defaults(handle=_run_tune, engine_flags=[])


def _run_tune(arguments: argparse.Namespace) -> None:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    from hygen_vllm.lab.tune.tune import TuneOptions, run_tune

    if arguments.profile is not None and arguments.engine_flags:
        raise ValueError(f"unrecognized arguments: {' '.join(arguments.engine_flags)}")
    if arguments.online is None or arguments.offline is None:
        raise ValueError("tuning needs --online and --offline")
    options = TuneOptions(
        slos=[Slo.parse(text) for text in arguments.slo],
        seconds=arguments.seconds,
        out_dir=arguments.out,
        max_probes=arguments.probes,
        low_s=_seconds(arguments.low_ms),
        high_s=_seconds(arguments.high_ms),
    )
    print(run_tune(options, lambda: _server(arguments)))


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1e3


def _server(arguments: argparse.Namespace) -> "Server":
    from hygen_vllm.lab.tune.simulated_server import SimulatedServer, find_requests

    options = options_of(arguments, policy="fixed-budget")
    if arguments.profile is not None:
        return SimulatedServer(options)
    from hygen_vllm.lab.profile.engine_flags import parse_engine_flags
    from hygen_vllm.lab.tune.engine_server import EngineServer

    engine_args = parse_engine_flags(["--model", arguments.model, *arguments.engine_flags])
    return EngineServer(
        engine_args, lambda repeat: find_requests(options, repeat), arguments.seconds
    )
