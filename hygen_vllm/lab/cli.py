# SPDX-License-Identifier: Apache-2.0
"""The `hygen` command: parses arguments, then hands over to the module that does the work.

Results go to stdout or the named file, progress and diagnostics to stderr. Exit 0 on success, 2 for
bad arguments or input, or a package that is not installed, with a one-line reason, 1 for any other
failure. A new command is a function that adds its parser, listed in COMMANDS; heavy imports belong
inside its handler.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hygen_vllm import __version__
from hygen_vllm.batch.arguments import add_batch
from hygen_vllm.command_line import BAD_ARGUMENTS, OneLineParser, count, positive
from hygen_vllm.files import write_text
from hygen_vllm.lab.plan.arguments import add_plan
from hygen_vllm.lab.simulator.arguments import add_simulate
from hygen_vllm.lab.tune.arguments import add_tune

INSTALL_HINTS = {
    "vllm": "pip install 'hygen-vllm[vllm]', or 'hygen-vllm[cpu]' without a GPU",
    "ray": "pip install 'hygen-vllm[ray]'",
    **dict.fromkeys(("matplotlib", "pandas", "sklearn"), "pip install 'hygen-vllm[lab]'"),
}
"""What brings the packages that are not in the base installation."""


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
    except ModuleNotFoundError as error:
        hint = INSTALL_HINTS.get(error.name or "")
        return _fail(f"{error}: {hint}" if hint else error, BAD_ARGUMENTS)
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
    parser.add_argument("--version", action="version", version=f"hygen {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add_command in COMMANDS:
        add_command(commands)
    return parser


def _fail(reason: object, status: int) -> int:
    print(f"hygen: {' '.join(str(reason).split())}", file=sys.stderr)
    return status


def _add_demo(commands: "argparse._SubParsersAction[OneLineParser]") -> None:
    parser = commands.add_parser(
        "demo", help="serve a small real model on the CPU under six policies and compare them"
    )
    parser.add_argument(
        "--seconds", type=positive, default=27.0, help="measured seconds per policy (%(default)g)"
    )
    parser.add_argument(
        "--online-rate",
        type=positive,
        default=0.8,
        metavar="R",
        help="online requests per second (%(default)g)",
    )
    parser.add_argument("--seed", type=int, default=0, help="chooses the requests (%(default)s)")
    parser.add_argument(
        "--latency-budget-ms",
        type=positive,
        default=120.0,
        metavar="B",
        help="latency budget of a step under fixed-budget (%(default)g)",
    )
    parser.add_argument(
        "--slo-tbt-p99-ms",
        type=positive,
        default=250.0,
        metavar="L",
        help="the SLO, and the target under slo: online P99 TBT at most L (%(default)g)",
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
        "--profile",
        metavar="PROFILE",
        help="of fixed-budget and slo; else they learn",
    )
    parser.add_argument(
        "--trace",
        type=Path,
        metavar="FILE",
        help="record their steps in this CSV file",
    )
    parser.set_defaults(handle=_run_demo)


def _run_demo(arguments: argparse.Namespace) -> None:
    from hygen_vllm.lab.demo.policies import POLICIES, find_policies
    from hygen_vllm.lab.demo.run import DemoOptions, run_demo

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
        type=count,
        default=100,
        metavar="N",
        help="batches that mix decodes and prefills (%(default)s)",
    )
    parser.add_argument(
        "--repeats",
        type=count,
        default=3,
        metavar="N",
        help="visits to each batch, at different times (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="mixes and order (%(default)s)")
    parser.add_argument(
        "--minutes",
        type=positive,
        default=9.0,
        metavar="M",
        help="measure so long at most; start again to measure what is missing (%(default)g)",
    )
    parser.set_defaults(handle=_run_profile, engine_flags=[])


def _run_profile(arguments: argparse.Namespace) -> None:
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # stdout is for the report
    from hygen_vllm.lab.profile.engine_flags import parse_engine_flags
    from hygen_vllm.lab.profile.fit import fit_profile
    from hygen_vllm.lab.profile.report import write_profile
    from hygen_vllm.lab.profile.run import ProfileOptions, measure

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
    from hygen_vllm.lab.profile.fit import fit_profile
    from hygen_vllm.lab.profile.report import write_profile

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
    from hygen_vllm.lab.profile.fit import evaluate_profile
    from hygen_vllm.lab.profile.report import accuracy_table

    figures = evaluate_profile(arguments.profile, arguments.trace)
    text = json.dumps(figures, indent=2) + "\n"
    if arguments.json == "-":
        print(text, end="")
        return
    print(accuracy_table(figures))
    if arguments.json is not None:
        write_text(Path(arguments.json), text)


def _add_report(commands: "argparse._SubParsersAction[OneLineParser]") -> None:
    parser = commands.add_parser("report", help="show results of hygen simulate as one HTML page")
    parser.add_argument(
        "results",
        type=Path,
        nargs="+",
        metavar="RESULT",
        help="file written by hygen simulate --json; one row of the table each",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("report.html"),
        metavar="FILE",
        help="the page; it needs no other file (%(default)s)",
    )
    parser.set_defaults(handle=_run_report)


def _run_report(arguments: argparse.Namespace) -> None:
    from hygen_vllm.lab.report.report import write_report

    print(write_report(arguments.results, arguments.out))


COMMANDS: tuple[Callable[["argparse._SubParsersAction[OneLineParser]"], None], ...] = (
    _add_demo,
    _add_profile,
    _add_fit,
    _add_evaluate,
    add_simulate,
    add_tune,
    add_plan,
    _add_report,
    add_batch,
)

if __name__ == "__main__":
    sys.exit(main())
