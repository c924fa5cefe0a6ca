# SPDX-License-Identifier: Apache-2.0
"""Every target of a grid, against the best fixed budget and the best rate cap for it.

    python experiments/04-slo-control/cells.py azure mooncake

For each workload: the baselines once (online alone, offline alone, budgets and rates from low to
high), then our policy for each target. Baselines chosen with hindsight, from these very runs; ours
knows neither them nor what online has alone. Prints a table and writes cells-WORKLOAD.csv.
"""

import argparse
from collections.abc import Sequence

from runs import HERE, METRICS, STATISTICS, Case, Row, read_rows, run_all, write_rows

WORKLOADS = {"azure": 1.1, "mooncake": 0.5}
"""Online requests per second."""
RISES = (5, 10, 20, 50)
BUDGETS_MS = (
    *(10, 10.5, 11, 11.5, 12, 12.5, 13, 13.5, 14, 15, 16, 17, 18, 20, 22, 24, 26, 28, 30, 33),
    *(36, 40, 45, 50, 60, 80),
)
RATES = (0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 0.9, 1.1, 1.3, 1.5)
FIXED, RATE = "fixed-budget", "rate-capped"


def baselines(flags: dict[str, object]) -> list[Case]:
    """Return what our policy is compared with."""
    cases = [Case("online alone", "online-only", flags), Case("offline", "offline-only", flags)]
    budgets = [Case(f"{ms:g} ms", FIXED, {**flags, "latency_budget_ms": ms}) for ms in BUDGETS_MS]
    rates = [Case(f"{rate:g}/s", RATE, {**flags, "offline_rate": rate}) for rate in RATES]
    return [*cases, *budgets, *rates]


def targets(flags: dict[str, object]) -> list[Case]:
    """Return our policy for each target of the grid."""
    texts = [f"{m}_{s}=+{rise}%" for m in METRICS for s in STATISTICS for rise in RISES]
    return [Case(text, "slo", {**flags, "slo": [text]}) for text in texts]


def best_of(rows: Sequence[Row], policy: str, target: Row, alone: Row) -> Row | None:
    """Return the run of a baseline with most offline work that meets a target."""
    name, _, rise = target.slos.partition("=+")
    metric, _, statistic = name.partition("_")
    limit_ms = alone.latency_ms(metric, statistic) * (1 + float(rise.rstrip("%")) / 100)
    met = [
        row
        for row in rows
        if row.policy == policy and row.latency_ms(metric, statistic) <= limit_ms
    ]
    return max(met, key=lambda row: row.offline_tokens_per_s, default=None)


def table(rows: Sequence[Row]) -> str:
    """Return the comparison as a Markdown table."""
    alone = next(row for row in rows if row.policy == "online-only")
    offline = next(row for row in rows if row.policy == "offline-only").offline_tokens_per_s
    header = [
        *("target", "of its limit", "offline tokens/s", "best fixed budget", "ratio"),
        *("best rate cap", "ratio", "total / offline alone", "total / online alone"),
    ]
    lines = [f"| {' | '.join(header)} |", f"|---|{'---:|' * (len(header) - 1)}"]
    for row in (row for row in rows if row.policy == "slo"):
        cells = [row.slos, f"{row.worst_ratio:.3f}", f"{row.offline_tokens_per_s:,.0f}"]
        for policy in (FIXED, RATE):
            best = best_of(rows, policy, row, alone)
            if best is None:
                cells += ["none", ""]
                continue
            ratio = row.offline_tokens_per_s / best.offline_tokens_per_s
            cells += [f"{best.offline_tokens_per_s:,.0f} ({best.name})", f"{ratio:.2f}"]
        total = row.online_tokens_per_s + row.offline_tokens_per_s
        cells += [f"{total / offline:.1%}", f"{total / alone.online_tokens_per_s:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", choices=[*WORKLOADS, []], default=[*WORKLOADS])
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--table", action="store_true", help="only print what was measured before")
    arguments = parser.parse_args()
    for workload in arguments.workloads:
        path = HERE / f"cells-{workload}.csv"
        if not arguments.table:
            flags: dict[str, object] = {
                "online": workload,
                "online_rate": WORKLOADS[workload],
                "offline_requests": int(4 * arguments.seconds),
                "seconds": arguments.seconds,
                "seed": arguments.seed,
            }
            write_rows(path, run_all([*baselines(flags), *targets(flags)]))
        print(f"\n{workload} at {WORKLOADS[workload]} requests/s\n\n{table(read_rows(path))}")


if __name__ == "__main__":
    main()
