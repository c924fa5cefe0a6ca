# SPDX-License-Identifier: Apache-2.0
"""The `hygen batch` command and its arguments."""

import argparse
from pathlib import Path

from hygen_vllm.command_line import OneLineParser, count

CONCURRENCY = 256


def add_batch(commands: "argparse._SubParsersAction[OneLineParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("batch", help="offline work for an application on Ray")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    run = actions.add_parser(
        "run", help="send a file of requests in OpenAI's batch format, write one of results"
    )
    run.add_argument("input", type=Path, metavar="INPUT.jsonl")
    run.add_argument("--out", type=Path, required=True, metavar="OUTPUT.jsonl")
    run.add_argument(
        "--app", default="default", metavar="NAME", help="Serve application (%(default)s)"
    )
    run.add_argument(
        "--address", default="auto", help="of the Ray cluster (%(default)s: that of this machine)"
    )
    run.add_argument(
        "--concurrency",
        type=count,
        default=CONCURRENCY,
        help="requests under way at a time, most of which wait for a replica (%(default)s)",
    )
    run.add_argument(
        "--resume", action="store_true", help="go on with an output file that has results"
    )
    run.set_defaults(handle=_run)


def _run(arguments: argparse.Namespace) -> None:
    from hygen_vllm.batch.command import run_file

    run_file(arguments)
