# SPDX-License-Identifier: Apache-2.0
"""`hygen simulate`: from what the command line asks for to a result file."""

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hygen_vllm.config import HyGenConfig
from hygen_vllm.files import write_text
from hygen_vllm.lab.policies import POLICIES, Policy, PolicyInput, find_policy
from hygen_vllm.lab.simulator.figures import WINDOW_S, Latencies, result_of, slo_results
from hygen_vllm.lab.simulator.fleet_figures import FleetRuns
from hygen_vllm.lab.simulator.fleet_run import PULLED, Fleet, simulate_fleet
from hygen_vllm.lab.simulator.options import (
    SimulateOptions,
    breaks_between,
    load_engine,
    load_workloads,
)
from hygen_vllm.lab.simulator.simulated_engine import SimulatedEngine
from hygen_vllm.lab.simulator.simulation import Requests, Run, progress_bar, simulate
from hygen_vllm.slo import Slo

ONLINE_ONLY = "online-only"


def run_simulate(options: SimulateOptions) -> None:
    """Simulate and write the result. Raises ValueError, ConfigError or OSError for bad input."""
    logging.getLogger("vllm").setLevel(logging.ERROR)
    path = Path(options.json)
    if options.json != "-" and (path.is_dir() or not path.parent.is_dir()):
        raise ValueError(f"--json must name a file in a folder that exists, got {path}")
    if options.seed < 0:
        raise ValueError(f"--seed must be >= 0, got {options.seed}")
    text = json.dumps(simulated_result(options), allow_nan=False) + "\n"
    if options.json == "-":
        print(text, end="")
    else:
        write_text(path, text)


def simulated_result(options: SimulateOptions) -> dict[str, Any]:
    """Return the result of one simulation. Raises as run_simulate."""
    policy = find_policy(options.policy)
    slos = [Slo.parse(text) for text in options.slo]
    breaks = breaks_between(options.offline_stretches)
    settings = _settings(options, policy, slos)  # first: what is wrong is said at once
    _note_what_has_no_effect(options, policy)
    engine = load_engine(options)
    online, offline = load_workloads(options, policy)
    requests, num_shortened = Requests(online.requests, offline.requests, breaks).fitted(
        engine.info.max_model_len
    )
    if num_shortened:
        _say(f"{num_shortened} requests were cut to {engine.info.max_model_len} tokens")
    alone = _served_alone(options, engine, policy, slos, requests)
    run = _run(options, engine, policy, settings, requests)
    latencies = _latencies_of(run)
    details = {
        "policy": policy.what,
        "settings": settings,
        "engine": asdict(engine.info),
        "workload": {"online": online.source, "offline": offline.source},
        "shortened": num_shortened,
        "online_only": {
            metric: asdict(stats) for metric, stats in (alone.stats() if alone else {}).items()
        },
        "options": _changed(options),
    }
    base = latencies if policy.name == ONLINE_ONLY else alone
    first = run.runs[0] if isinstance(run, FleetRuns) else run
    window_s = settings.get("slo_window_s", WINDOW_S)
    checked = slo_results(slos, latencies, base, first.virtual_s, window_s)
    if isinstance(run, FleetRuns):
        return run.result(options.profile, options.seed, checked, details)
    return result_of(run, options.profile, options.seed, checked, details)


def _served_alone(
    options: SimulateOptions,
    engine: SimulatedEngine,
    policy: Policy,
    slos: Sequence[Slo],
    requests: Requests,
) -> Latencies | None:
    """Return what the online requests get when they are served alone, if an SLO needs it."""
    is_needed = any(slo.rise is not None for slo in slos)
    if not (requests.online and is_needed) or policy.name == ONLINE_ONLY:
        return None
    online_only = Requests(requests.online, [])
    run = _run(options, engine, find_policy(ONLINE_ONLY), {}, online_only)
    return _latencies_of(run)


def _latencies_of(run: Run | FleetRuns) -> Latencies:
    return run.latencies() if isinstance(run, FleetRuns) else Latencies.of(run)


def _settings(options: SimulateOptions, policy: Policy, slos: Sequence[Slo]) -> dict[str, Any]:
    """Return the settings of a policy's scheduler. Raises ValueError, ConfigError."""
    settings = policy.settings(replace(_policy_input(options), slos=slos))
    given = dict(options.setting) if policy.is_hygen else {}
    for name in settings.keys() & given.keys():
        if settings[name] != given[name]:
            raise ValueError(
                f"--setting {name}={given[name]} contradicts --policy {policy.name} and its flags, "
                f"which set it to {settings[name]}; leave out one"
            )
    settings.update(given)
    of_the_config = {
        key: value for key, value in settings.items() if key not in policy.own_settings
    }
    mode = HyGenConfig.from_mapping(of_the_config, "--setting").gate_mode
    if policy.is_hygen and mode not in policy.modes:
        other = next(each.name for each in POLICIES if each.is_hygen and mode in each.modes)
        raise ValueError(
            f"--setting makes this mode {mode}, which is --policy {other}, not {policy.name}"
        )
    return settings


def _policy_input(options: SimulateOptions) -> PolicyInput:
    budget_ms = options.latency_budget_ms
    return PolicyInput(
        latency_budget_s=None if budget_ms is None else budget_ms / 1e3,
        offline_rate_per_s=options.offline_rate,
    )


def _note_what_has_no_effect(options: SimulateOptions, policy: Policy) -> None:
    if options.latency_budget_ms is not None and options.policy != "fixed-budget":
        _say(f"--latency-budget-ms has no effect under {options.policy}")
    if options.offline_rate is not None and options.policy != "rate-capped":
        _say(f"--offline-rate has no effect under {options.policy}")
    if options.online_rate is not None and options.online is None:
        _say("--online-rate has no effect without --online")
    if options.offline_requests is not None and options.offline is None:
        _say("--offline-requests has no effect without --offline")
    if options.router is not None and options.replicas is None:
        _say("--router has no effect without --replicas")
    if options.setting and not policy.is_hygen:
        _say(f"--setting has no effect under {options.policy}")
    if options.predictor_error and not policy.is_hygen:
        _say(f"--predictor-error has no effect under {options.policy}")
    if (options.offline_from or options.offline_until) and options.replicas is not None:
        raise ValueError("--offline-from and --offline-until need one engine: leave out --replicas")
    if options.predictor_error and options.unprofiled:
        raise ValueError("--predictor-error is about a profile; leave out --unprofiled")


def _run(
    options: SimulateOptions,
    engine: SimulatedEngine,
    policy: Policy,
    settings: dict[str, Any],
    requests: Requests,
) -> Run | FleetRuns:
    with progress_bar(options.until_s) as bar:
        bar.set_description(policy.name, refresh=False)
        times: dict[str, Any] = {
            "seed": options.seed,
            "until_s": options.until_s,
            "progress": lambda now_s: bar.update(round(now_s - bar.n, 1)),
        }
        if options.replicas is None:
            return simulate(engine, policy, settings, requests, **times)
        fleet = Fleet(options.replicas, options.router or PULLED)
        runs = simulate_fleet(fleet, engine, policy, settings, requests, **times)
        return FleetRuns(runs, fleet.router)


def _changed(options: SimulateOptions) -> dict[str, Any]:
    """Return the flags that were given, for a reader of the result."""
    given = {
        name: value
        for name, value in asdict(options).items()
        if value not in (None, [], 0.0, False)
    }
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in given.items()
        if name != "json"
    }


def _say(text: str) -> None:
    print(f"hygen simulate: {text}", file=sys.stderr)
