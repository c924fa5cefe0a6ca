# SPDX-License-Identifier: Apache-2.0
"""The page: header, table, charts, definitions and commands, as one HTML document."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from hygen_vllm.lab.report.charts import distributions, timeline_sections, timelines_of
from hygen_vllm.lab.report.comparison import Fact, best, differences, facts_of, labels_of
from hygen_vllm.lab.report.number_text import NOTHING, argument
from hygen_vllm.lab.report.result_file import Result
from hygen_vllm.lab.report.table import footnotes, row_of

NOT_IN_HEADER = ("kind", "seconds")


@dataclass(frozen=True)
class Report:
    """Results with what the whole page says about them."""

    results: Sequence[Result]
    labels: Sequence[str]
    facts: Sequence[Fact]

    @classmethod
    def of(cls, results: Sequence[Result]) -> "Report":
        """Return that of results, in their order."""
        return cls(results, labels_of(results), facts_of(results))

    @property
    def differences(self) -> list[Fact]:
        return differences(self.facts)

    @property
    def word(self) -> str:
        """What the numbers are: simulated or measured; "" where no result says it."""
        kinds = dict.fromkeys(result.kind for result in self.results if result.kind)
        return " and ".join(kinds).capitalize()


def report_page(results: Sequence[Result]) -> str:
    """Return the page about results, at least one."""
    report = Report.of(results)
    labels, timelines = report.labels, timelines_of(results, report.labels)
    found = best(results) if _is_comparison(report) else None
    pairs = [*zip(results, labels, strict=True)]
    rows = [row_of(result, label, is_best=result is found) for result, label in pairs]
    return _template().render(
        title=_title(report),
        is_comparison=_is_comparison(report),
        is_simulated=any(result.kind == "simulated" for result in results),
        differences=[f"{fact.name}: {_by_value(fact, report)}" for fact in report.differences],
        facts=_facts(report),
        rows=rows,
        best=next((row for row in rows if "best" in row["look"]), None),
        nothing=NOTHING,
        notes=footnotes(results, labels),
        undrawn=", ".join(label for result, label in pairs if result.details is None),
        distributions=distributions(results, labels, report.word) if timelines else None,
        timelines=timeline_sections(timelines),
        groups_look="groups single" if len(timelines) == 1 else "groups",
        commands="\n".join(_command(result) for result in results if result.details is not None),
    )


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader(__package__ or "", package_path=""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("page.html")


def _title(report: Report) -> str:
    engines = [r.details["engine"] for r in report.results if r.details is not None]
    names = dict.fromkeys(f"{engine['model']} on {engine['device']}" for engine in engines)
    where = f": {next(iter(names))}" if len(names) == 1 else ""
    return f"{report.word} online and offline serving".strip().capitalize() + where


def _is_comparison(report: Report) -> bool:
    """Return whether there are results that differ in their policy alone, and SLOs."""
    has_slos = any(result.figures["slo"] for result in report.results)
    return len(report.results) > 1 and has_slos and not report.differences


def _by_value(fact: Fact, report: Report) -> str:
    return "; ".join(
        f"{value} ({', '.join(labels)})" for value, labels in fact.by_value(report.labels)
    )


def _facts(report: Report) -> list[tuple[str, str]]:
    """Return the header's list: what all results share, and what came out differently."""
    shown = []
    for fact in report.facts:
        is_shared = len(fact.distinct) == 1
        if fact.name not in NOT_IN_HEADER and (is_shared or not fact.is_given):
            shown.append((fact.name, fact.distinct[0] if is_shared else _by_value(fact, report)))
    return shown


def _command(result: Result) -> str:
    """Return the command line of a simulation, or the options of another run."""
    assert result.details is not None
    words = ["hygen", "simulate"] if result.kind == "simulated" else ["#", "measured", "with"]
    for name, value in result.details["options"].items():
        for one in value if isinstance(value, list) else [value]:
            words += [shlex.quote(f"--{name.replace('_', '-')}"), shlex.quote(argument(one))]
    if result.kind == "simulated":
        words += ["--json", shlex.quote(result.path_text)]
    return " ".join(words)
