# SPDX-License-Identifier: Apache-2.0
"""The arguments of `hygen plan`. Imports nothing heavy: every command reads this."""

import argparse
import os
from pathlib import Path
from typing import Any

from hygen_vllm.command_line import count, positive, setting
from hygen_vllm.config import DEFAULT_SLOS
from hygen_vllm.lab.simulator.arguments import add_engine_options, options_of
from hygen_vllm.slo import Slo


def add_plan(commands: "argparse._SubParsersAction[Any]") -> None:
    parser = commands.add_parser(
        "plan",
        help="say what share of the GPUs that serve a trace becomes offline work",
        allow_abbrev=False,
    )
    parser.add_argument("--profile", required=True, metavar="NAME|PATH", help="the engine")
    parser.add_argument(
        "--trace",
        dest="online",
        required=True,
        metavar="FILE|NAME",
        help="online requests: as --online of hygen simulate",
    )
    parser.add_argument(
        "--online-rate", type=positive, metavar="R", help="thin it to R requests/s, seeded"
    )
    parser.add_argument(
        "--seconds", type=positive, metavar="N", help="only so much of it; else all of it"
    )
    parser.add_argument(
        "--replicas", type=count, default=1, metavar="N", help="engines that share it (%(default)s)"
    )
    parser.add_argument(
        "--slo",
        action="append",
        default=[],
        metavar="S",
        help="like tbt_p99=45ms or ttft_mean=+10%%, relative to online-only; repeatable "
        f"({', '.join(DEFAULT_SLOS).replace('%', '%%')})",
    )
    parser.add_argument(
        "--offline", default="arxiv", metavar="FILE|NAME", help="offline requests (%(default)s)"
    )
    parser.add_argument(
        "--gpu-hour-price", type=positive, metavar="P", help="say what it is worth, in any currency"
    )
    parser.add_argument(
        "--levels", type=count, default=7, metavar="N", help="pieces to simulate (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="chooses all random numbers")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("plan"),
        metavar="DIR",
        help="folder for report.md, plan.png and plan.json (%(default)s)",
    )
    parser.add_argument("--setting", action="append", default=[], type=setting, help="of HyGen")
    parser.add_argument("--jobs", type=count, metavar="N", help="processes; else one a core")
    add_engine_options(parser)
    parser.set_defaults(handle=_run_plan)


def _run_plan(arguments: argparse.Namespace) -> None:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    arguments.slo = arguments.slo or DEFAULT_SLOS
    for text in arguments.slo:
        Slo.parse(text)
    from hygen_vllm.lab.plan.plan import PlanOptions, run_plan

    options = PlanOptions(
        simulation=options_of(arguments, policy="slo", replicas=None),
        replicas=arguments.replicas,
        levels=arguments.levels,
        out_dir=arguments.out,
        gpu_hour_price=arguments.gpu_hour_price,
        jobs=arguments.jobs,
    )
    print(run_plan(options))
