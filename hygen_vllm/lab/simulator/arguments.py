# SPDX-License-Identifier: Apache-2.0
"""The arguments of `hygen simulate`. Imports nothing heavy: every command reads this."""

import argparse
import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hygen_vllm.command_line import count, not_negative, pair, positive, setting, share
from hygen_vllm.fleet.routing import ROUTERS
from hygen_vllm.lab.policies import NAMES

if TYPE_CHECKING:
    from hygen_vllm.lab.simulator.options import SimulateOptions


def add_simulate(commands: "argparse._SubParsersAction[Any]") -> None:
    parser = commands.add_parser(
        "simulate",
        help="serve a workload in virtual time with the real scheduler and a model of the device",
        allow_abbrev=False,
    )
    parser.add_argument("--profile", required=True, metavar="NAME|PATH", help="the engine")
    parser.add_argument(
        "--policy", required=True, choices=NAMES, metavar="P", help=", ".join(NAMES)
    )
    add_workload(parser)
    for name, what in (("from", "it is there from S s on"), ("until", "and withdrawn at S s")):
        parser.add_argument(
            f"--offline-{name}",
            action="append",
            default=[],
            type=not_negative,
            metavar="S",
            help=f"the offline work: {what}; repeatable, in turn",
        )
    parser.add_argument(
        "--seconds", type=positive, metavar="N", help="end after so many; else when all is done"
    )
    parser.add_argument("--seed", type=int, default=0, help="chooses all random numbers")
    parser.add_argument(
        "--json", required=True, metavar="FILE", help='write the result here; "-" is stdout'
    )
    add_engine_options(parser)
    _add_policy_options(parser)
    _add_fleet_options(parser)
    parser.set_defaults(handle=_run_simulate)


def add_workload(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what is served, and which latencies it is to have."""
    parser.add_argument(
        "--online",
        metavar="FILE|NAME",
        help="Azure or BurstGPT CSV, Mooncake JSONL, or a name: azure, mooncake, poisson, gamma, "
        "diurnal, on-off, spike, steps",
    )
    parser.add_argument(
        "--online-rate", type=positive, metavar="R", help="thin it to R requests/s, seeded"
    )
    parser.add_argument(
        "--offline",
        metavar="FILE|NAME",
        help="CSV of lengths, JSONL of prompts, or a name: arxiv, sharegpt, "
        "cnn-dailymail, mmlu, gsm8k",
    )
    parser.add_argument(
        "--offline-requests", type=count, metavar="N", help="only N of them, drawn at random"
    )
    parser.add_argument(
        "--slo",
        action="append",
        default=[],
        metavar="S",
        help="like tbt_p99=45ms or ttft_mean=+10%%, relative to online-only; repeatable",
    )


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the engine, where it differs from the profile's")
    group.add_argument("--kv-blocks", type=count, metavar="N")
    group.add_argument("--max-tokens-per-step", type=count, metavar="N")
    group.add_argument("--max-seqs", type=count, metavar="N", help="requests in a step")
    group.add_argument(
        "--max-model-len", type=count, metavar="N", help="longer requests are cut to it"
    )
    group.add_argument("--stepping", choices=("sync", "async"), help="one or two steps in flight")
    group.add_argument(
        "--tokenizer", type=Path, metavar="DIR", help="a model's, for prompts that are text"
    )
    group.add_argument(
        "--noise", type=float, default=0.0, metavar="SD", help="of the logarithm of step times"
    )
    group.add_argument(
        "--slowdown",
        action="append",
        default=[],
        type=pair,
        metavar="T:F",
        help="from T s on steps take F times as long; repeatable",
    )
    group.add_argument(
        "--stall",
        action="append",
        default=[],
        type=pair,
        metavar="T:S",
        help="the step at T s takes S s longer; repeatable",
    )


def _add_fleet_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("several engines")
    group.add_argument("--replicas", type=count, metavar="N", help="engines that serve together")
    group.add_argument(
        "--router",
        choices=ROUTERS,
        metavar="R",
        help=f"which engine gets a request: {', '.join(ROUTERS)} (the default, with which offline "
        "requests wait for an engine that has room)",
    )


def _add_policy_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the policy")
    group.add_argument(
        "--latency-budget-ms", type=positive, metavar="B", help="of a step, for fixed-budget"
    )
    group.add_argument(
        "--offline-rate",
        type=positive,
        metavar="R",
        help="offline requests started per second, for rate-capped",
    )
    group.add_argument(
        "--setting",
        action="append",
        default=[],
        type=setting,
        metavar="NAME=VALUE",
        help="of HyGen's scheduler, as in its configuration; repeatable",
    )
    group.add_argument(
        "--predictor-error",
        type=share,
        default=0.0,
        metavar="X",
        help="MAPE of a systematic error of the predicted step times, as 0.2 or 20%%",
    )
    group.add_argument(
        "--unprofiled",
        action="store_true",
        help="HyGen's scheduler starts without a profile and learns from its own steps",
    )


def _run_simulate(arguments: argparse.Namespace) -> None:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    from hygen_vllm.lab.simulator.command import run_simulate

    run_simulate(options_of(arguments))


def options_of(arguments: argparse.Namespace, **fixed: Any) -> "SimulateOptions":
    """Return what a command was asked for that simulates; `fixed` is not the user's to say."""
    from hygen_vllm.lab.simulator.options import SimulateOptions

    names = {field.name for field in dataclasses.fields(SimulateOptions)}
    given = {name: value for name, value in vars(arguments).items() if name in names}
    return SimulateOptions(**{**given, **fixed})
