# SPDX-License-Identifier: Apache-2.0
"""Searches the largest fixed latency budget that meets the targets, and keeps what it found."""

import logging
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from hygen_vllm.lab.tune.budget_search import ProbeResult, SearchLimits, SearchResult, search_budget
from hygen_vllm.lab.tune.report import write_report
from hygen_vllm.lab.tune.served import Served, Server
from hygen_vllm.slo import Slo

WIDEST = 32.0
"""Largest over smallest budget that is tried, if none is given: from a step of online alone to one
that nobody would want."""
FEWEST_S = 1.0
LEAST_S, MOST_S = 1e-6, 1e6
"""Stand for budgets that are not given, while those that are given are checked."""


@dataclass(frozen=True)
class TuneOptions:
    """What `hygen tune` was asked for.

    Args:
        low_s, high_s: budgets to search between; None for what follows from online alone.
    """

    slos: Sequence[Slo]
    seconds: float
    out_dir: Path
    max_probes: int
    low_s: float | None = None
    high_s: float | None = None


@dataclass
class Tuning:
    """Everything that was found.

    Args:
        alone: the online requests alone, by repeat.
        probes: (budget_s, what was served), in order.
    """

    description: str
    slos: Sequence[Slo]
    alone: list[Served] = field(default_factory=list)
    probes: list[tuple[float, Served]] = field(default_factory=list)
    result: SearchResult | None = None


def run_tune(options: TuneOptions, make_server: Callable[[], Server]) -> str:
    """Probe, write the folder, and return the report's text.

    Raises: ValueError, one line, for bad input or if nothing can be measured.
    """
    if not options.slos:
        raise ValueError("tuning needs a target, for example --slo tbt_p99=+20%")
    if options.seconds < FEWEST_S:
        raise ValueError(f"a probe must last >= {FEWEST_S:g} s, got {options.seconds:g}")
    SearchLimits(options.low_s or LEAST_S, options.high_s or MOST_S, max_probes=options.max_probes)
    logging.getLogger("vllm").setLevel(logging.ERROR)
    options.out_dir.mkdir(parents=True, exist_ok=True)
    server = make_server()
    try:
        tuning = _tune(options, server)
    finally:
        server.close()
    return write_report(tuning, options.out_dir)


def _tune(options: TuneOptions, server: Server) -> Tuning:
    tuning = Tuning(server.description, options.slos)
    with closing(_ProbeBar(options.max_probes + 1)) as bar:
        tuning.alone.append(server.serve(None, 0, bar.begin("online alone")))
        low_s, high_s = _range(options, tuning.alone[0])

        def probe(budget_s: float, repeat: int) -> ProbeResult:
            if repeat == len(tuning.alone):
                tuning.alone.append(server.serve(None, repeat, bar.begin("online alone")))
            served = server.serve(budget_s, repeat, bar.begin(f"{1e3 * budget_s:.1f} ms"))
            tuning.probes.append((budget_s, served))
            ratio = served.ratio(options.slos, tuning.alone[repeat].stats)
            return ProbeResult(ratio, served.offline_tokens_per_s)

        limits = SearchLimits(low_s, high_s, max_probes=options.max_probes)
        tuning.result = search_budget(probe, limits)
    return tuning


def _range(options: TuneOptions, alone: Served) -> tuple[float, float]:
    """Return the budgets to search between."""
    step_s = alone.stats["tbt"].p50
    low_s, high_s = options.low_s, options.high_s
    if low_s is None:
        if step_s is None:
            raise ValueError("no online request got two tokens: probe longer, or give --low-ms")
        low_s = step_s
    return low_s, WIDEST * low_s if high_s is None else high_s


class _ProbeBar:
    """A bar of probes on stderr that moves within a probe too."""

    def __init__(self, most_probes: int) -> None:
        self._bar = tqdm(
            total=most_probes,
            unit="probe",
            file=sys.stderr,
            bar_format="{desc:14} |{bar:30}| {n:.1f} of at most {total} probes, {elapsed}",
            mininterval=0.5 if sys.stderr.isatty() else 10.0,
        )
        self._done = 0

    def close(self) -> None:
        self._bar.close()

    def begin(self, name: str) -> Callable[[float], None]:
        """Return what a probe calls with the share of it that is done."""
        self._done = math.ceil(self._bar.n)
        self._bar.total = max(self._bar.total or 0, self._done + 1)
        self._bar.set_description_str(name, refresh=False)
        return lambda share: self._move(min(0.99, share))

    def _move(self, share: float) -> None:
        self._bar.update(self._done + share - self._bar.n)
