# SPDX-License-Identifier: Apache-2.0
"""The `hygen` command: parses arguments, then hands over to the module that does the work.

Results go to stdout or the named file, progress and diagnostics to stderr. Exit 0 on success, 2 for
bad arguments or input with a one-line reason, 1 for any other failure. A new command is a function
that adds its parser, listed in COMMANDS; heavy imports belong inside its handler.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

BAD_ARGUMENTS = 2


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and the reason."""
        self.exit(BAD_ARGUMENTS, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    parser = build_parser()
    options, more = parser.parse_known_args(arguments)
    if more and not hasattr(options, "engine_flags"):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    options.engine_flags = more
    try:
        options.handle(options)
    except (ValueError, OSError) as error:
        return _fail(error, BAD_ARGUMENTS)
    except (ImportError, RuntimeError) as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    return 0


def build_parser() -> OneLineParser:
    """Return the parser of all commands."""
    parser = OneLineParser(
        prog="hygen", description="Serve online and offline requests in one vLLM engine."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add_command in COMMANDS:
        add_command(commands)
    return parser


def _fail(reason: object, status: int) -> int:
    print(f"hygen: {' '.join(str(reason).split())}", file=sys.stderr)
    return status


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be > 0, got {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be >= 1, got {text}")
    return value


def _add_demo(commands: "argparse._SubParsersAction[OneLineParser]") -> None:
    parser = commands.add_parser(
        "demo", help="serve a small real model on the CPU under five policies and compare them"
    )
    parser.add_argument(
        "--seconds", type=_positive, default=27.0, help="measured seconds per policy (%(default)g)"
    )
    parser.add_argument(
        "--online-rate",
        type=_positive,
        default=0.8,
        metavar="R",
        help="online requests per second (%(default)g)",
    )
    parser.add_argument("--seed", type=int, default=0, help="chooses the requests (%(default)s)")
    parser.add_argument(
        "--latency-budget-ms",
        type=_positive,
        default=120.0,
        metavar="B",
        help="hygen's latency budget for one step (%(default)g)",
    )
    parser.add_argument(
        "--slo-tbt-p99-ms",
        type=_positive,
        default=250.0,
        metavar="L",
        help="the SLO: online P99 TBT at most L (%(default)g)",
    )
    parser.add_argument(
        "--json", metavar="FILE", help='also write the figures here; "-" is stdout, without table'
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("demo-results"),
        metavar="DIR",
        help="folder for demo.png, demo.csv and engine.log (%(default)s)",
    )
    parser.add_argument(
        "--model", type=Path, metavar="PATH", help="a model folder instead of SmolLM2-135M-Instruct"
    )
    parser.add_argument("--policies", metavar="NAME,...", help="only these policies")
    parser.add_argument(
        "--profile", metavar="PROFILE", help="hygen starts with this profile instead of learning"
    )
    parser.add_argument(
        "--trace", type=Path, metavar="FILE", help="record every step of hygen in this CSV file"
    )
    parser.set_defaults(handle=_run_demo)


def _run_demo(arguments: argparse.Namespace) -> None:
    from hygen_vllm.demo.policies import POLICIES, find_policies
    from hygen_vllm.demo.run import DemoOptions, run_demo

    names = ",".join(policy.name for policy in POLICIES)
    if arguments.policies is not None:
        names = arguments.policies
    options = DemoOptions(
        policies=find_policies(names),
        seconds=arguments.seconds,
        online_rate_per_s=arguments.online_rate,
        seed=arguments.seed,
        latency_budget_s=arguments.latency_budget_ms / 1e3,
        slo_tbt_p99_s=arguments.slo_tbt_p99_ms / 1e3,
        out_dir=arguments.out,
        json_target=arguments.json,
        model=arguments.model,
        profile=arguments.profile,
        trace=arguments.trace,
    )
    run_demo(options)


def _add_profile(commands: "argparse._SubParsersAction[OneLineParser]") -> None:
    parser = commands.add_parser(
        "profile",
        help="measure the step times of an engine over a grid of batches and fit a profile",
        epilog="Further flags are vLLM's engine flags: give those you serve with.",
        allow_abbrev=False,
    )
    parser.add_argument("--model", required=True, metavar="M", help="as in vllm serve")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for trace.csv, profile.json, report.md and report.png; a trace begun in it is "
        "gone on with",
    )
    parser.add_argument(
        "--mixes",
        type=_count,
        default=100,
        metavar="N",
        help="batches that mix decodes and prefills (%(default)s)",
    )
    parser.add_argument(
        "--repeats",
        type=_count,
        default=3,
        metavar="N",
        help="visits to each batch, at different times (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="mixes and order (%(default)s)")
    parser.add_argument(
        "--minutes",
        type=_positive,
        default=9.0,
        metavar="M",
        help="measure so long at most; start again to measure what is missing (%(default)g)",
    )
    parser.set_defaults(handle=_run_profile, engine_flags=[])


def _run_profile(arguments: argparse.Namespace) -> None:
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # stdout is for the report
    from hygen_vllm.profiler.engine_flags import parse_engine_flags
    from hygen_vllm.profiler.fit import fit_profile
    from hygen_vllm.profiler.report import write_profile
    from hygen_vllm.profiler.run import ProfileOptions, measure

    options = ProfileOptions(
        engine_args=parse_engine_flags(["--model", arguments.model, *arguments.engine_flags]),
        out_dir=arguments.out,
        num_mixes=arguments.mixes,
        num_repeats=arguments.repeats,
        seed=arguments.seed,
        max_minutes=arguments.minutes,
    )
    measure(options)
    print(write_profile(fit_profile(options.trace), options.out_dir))


def _add_fit(commands: "argparse._SubParsersAction[OneLineParser]") -> None:
    parser = commands.add_parser("fit", help="fit a profile to a step trace")
    parser.add_argument("trace", type=Path, metavar="TRACE", help="CSV file of measured steps")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for profile.json, report.md and report.png",
    )
    parser.set_defaults(handle=_run_fit)


def _run_fit(arguments: argparse.Namespace) -> None:
    from hygen_vllm.profiler.fit import fit_profile
    from hygen_vllm.profiler.report import write_profile

    print(write_profile(fit_profile(arguments.trace), arguments.out))


def _add_evaluate(commands: "argparse._SubParsersAction[OneLineParser]") -> None:
    parser = commands.add_parser(
        "evaluate", help="say how well a profile predicts the steps of a trace"
    )
    parser.add_argument("profile", metavar="PROFILE", help="folder, file or name of a profile")
    parser.add_argument("trace", type=Path, metavar="TRACE", help="CSV file of measured steps")
    parser.add_argument(
        "--json", metavar="FILE", help='write the figures as JSON; "-" is stdout, without table'
    )
    parser.set_defaults(handle=_run_evaluate)


def _run_evaluate(arguments: argparse.Namespace) -> None:
    from hygen_vllm.profiler.fit import evaluate_profile
    from hygen_vllm.profiler.report import accuracy_table

    figures = evaluate_profile(arguments.profile, arguments.trace)
    text = json.dumps(figures, indent=2) + "\n"
    if arguments.json == "-":
        print(text, end="")
        return
    print(accuracy_table(figures))
    if arguments.json is not None:
        Path(arguments.json).write_text(text, encoding="utf-8")


def _add_simulate(commands: "argparse._SubParsersAction[OneLineParser]") -> None:
    from hygen_vllm.simulator.policies import NAMES

    parser = commands.add_parser(
        "simulate",
        help="serve a workload in virtual time with the real scheduler and a model of the device",
        allow_abbrev=False,
    )
    parser.add_argument("--profile", required=True, metavar="NAME|PATH", help="the engine")
    parser.add_argument(
        "--policy", required=True, choices=NAMES, metavar="P", help=", ".join(NAMES)
    )
    parser.add_argument(
        "--online",
        metavar="FILE|NAME",
        help="Azure CSV, Mooncake JSONL, or a name: azure, mooncake, poisson, gamma, diurnal, "
        "on-off, spike",
    )
    parser.add_argument(
        "--online-rate", type=_positive, metavar="R", help="thin it to R requests/s, seeded"
    )
    parser.add_argument(
        "--offline",
        metavar="FILE|NAME",
        help="CSV of lengths, JSONL of prompts, or a name: arxiv, sharegpt, mmlu, gsm8k",
    )
    parser.add_argument(
        "--offline-requests", type=_count, metavar="N", help="only N of them, drawn at random"
    )
    parser.add_argument(
        "--slo",
        action="append",
        default=[],
        metavar="S",
        help="like tbt_p99=45ms or ttft_mean=+10%%, relative to online-only; repeatable",
    )
    parser.add_argument(
        "--seconds", type=_positive, metavar="N", help="end after so many; else when all is done"
    )
    parser.add_argument("--seed", type=int, default=0, help="chooses all random numbers")
    parser.add_argument(
        "--json", required=True, metavar="FILE", help='write the result here; "-" is stdout'
    )
    _add_engine_options(parser)
    _add_policy_options(parser)
    parser.set_defaults(handle=_run_simulate)


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the engine, where it differs from the profile's")
    group.add_argument("--kv-blocks", type=_count, metavar="N")
    group.add_argument("--max-tokens-per-step", type=_count, metavar="N")
    group.add_argument("--max-seqs", type=_count, metavar="N", help="requests in a step")
    group.add_argument(
        "--max-model-len", type=_count, metavar="N", help="longer requests are cut to it"
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
        type=_pair,
        metavar="T:F",
        help="from T s on steps take F times as long; repeatable",
    )
    group.add_argument(
        "--stall",
        action="append",
        default=[],
        type=_pair,
        metavar="T:S",
        help="the step at T s takes S s longer; repeatable",
    )


def _add_policy_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the policy")
    group.add_argument(
        "--latency-budget-ms", type=_positive, metavar="B", help="of a step, for fixed-budget"
    )
    group.add_argument(
        "--offline-rate",
        type=_positive,
        metavar="R",
        help="offline requests started per second, for rate-capped",
    )
    group.add_argument(
        "--predictor-error",
        type=_share,
        default=0.0,
        metavar="X",
        help="MAPE of a systematic error of the predicted step times, a share: 0.2 is 20 %%",
    )


def _pair(text: str) -> tuple[float, float]:
    first, separator, second = text.partition(":")
    if not separator:
        raise argparse.ArgumentTypeError(f"must be like 200:1.3, got {text}")
    return float(first), float(second)


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a share from 0 to 1, got {text}")
    return value


def _run_simulate(arguments: argparse.Namespace) -> None:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    from hygen_vllm.simulator.command import SimulateOptions, run_simulate

    names = [field.name for field in dataclasses.fields(SimulateOptions)]
    run_simulate(SimulateOptions(**{name: getattr(arguments, name) for name in names}))


COMMANDS: tuple[Callable[["argparse._SubParsersAction[OneLineParser]"], None], ...] = (
    _add_demo,
    _add_profile,
    _add_fit,
    _add_evaluate,
    _add_simulate,
)

if __name__ == "__main__":
    sys.exit(main())
