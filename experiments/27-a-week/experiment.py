# SPDX-License-Identifier: Apache-2.0
"""Days with all that happens in them: are targets kept, do all get their turn, what stays?"""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from harness.experiment import Case, Claim, Config, Done, Experiment, Findings, Row
from harness.tables import markdown

HEADER = (
    *("target", "windows kept", "worst window, of limit", "offline tokens/s"),
    *("offline requests finished", "longest wait, hours", "memory of the scheduler, MB"),
)
MEGA = 1e6


def cases(config: Config) -> list[Case]:
    return [
        Case(
            {"target": target, "seed": seed},
            {**config["week"], "slo": target.split(), "seed": seed},
            "27-a-week/days.py:days_task",
            keeps=("windows", "longest_wait_s", "memory_bytes"),
        )
        for target in config["targets"]
        for seed in config["seeds"]
    ]


def findings(config: Config, runs: Sequence[Done]) -> Findings:
    summary: list[Row] = []
    lines, claims = [], []
    days = config["week"]["days"]
    for run in runs:
        target, figures = run.case.labels["target"], run.figures
        summary += [
            {"target": target, "tenant": tenant, "longest_wait_h": seconds / 3600.0}
            for tenant, seconds in run.kept["longest_wait_s"].items()
        ]
        kept = [f"{each['kept']} of {each['count']}" for each in run.kept["windows"].values()]
        worst = [each["worst_of_limit"] for each in run.kept["windows"].values()]
        waits = run.kept["longest_wait_s"]
        lines.append(
            [
                target,
                ", ".join(kept),
                ", ".join("" if each is None else f"{each:.3f}" for each in worst),
                f"{figures['offline_tokens_per_s']:,.0f}",
                f"{figures['offline_finished']:,} of {figures['offline']:,}",
                ", ".join(f"{name} {seconds / 3600:.2f}" for name, seconds in waits.items()),
                ", ".join(f"{each / MEGA:.1f}" for each in run.kept["memory_bytes"]),
            ]
        )
        if figures["windows"]:
            claims.append(
                Claim(
                    result=f"{days:g} days with much happening, {target}: windows kept within 2 %",
                    ours=f"{figures['windows_kept']} of {figures['windows']}, the worst at "
                    f"{figures['worst_window']:.3f} of its limit",
                    note=f"{figures['aborted']:,} requests aborted, {figures['failed_loads']:,} of "
                    f"{figures['loads']:,} KV loads failed, {figures['restarts']} restarts",
                )
            )
    return Findings(summary, markdown(HEADER, lines, num_texts=1), claims)


def draw(config: Config, summary: Sequence[Row]) -> Any:
    targets = config["targets"]
    figure, ax = plt.subplots(figsize=(8, 3.2), layout="constrained")
    tenants = sorted({row["tenant"] for row in summary})
    width = 0.8 / len(targets)
    for number, target in enumerate(targets):
        rows = {row["tenant"]: row["longest_wait_h"] for row in summary if row["target"] == target}
        places = [place + number * width for place in range(len(tenants))]
        ax.bar(places, [rows.get(tenant, 0.0) for tenant in tenants], width, label=target)
    ax.set_xticks(range(len(tenants)), tenants)
    ax.set(ylabel="longest wait to start, hours")
    ax.legend(frameon=False)
    return figure


EXPERIMENT = Experiment(cases, findings, draw)
