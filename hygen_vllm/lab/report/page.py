# SPDX-License-Identifier: Apache-2.0
"""The page: header, table, charts, definitions and commands, as one HTML document."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from hygen_vllm.lab.report.charts import charts_html
from hygen_vllm.lab.report.comparison import Fact, best, differences, facts_of, labels_of
from hygen_vllm.lab.report.number_text import argument, rounded
from hygen_vllm.lab.report.page_style import CSS
from hygen_vllm.lab.report.result_file import Result
from hygen_vllm.lab.report.table import footnotes, results_table

DEFINITIONS = """<dl>
<dt>TTFT</dt><dd>from a request's arrival to its first token. The wait of an online request that has
no token when the run ends counts as its TTFT: a lower bound.</dd>
<dt>TBT</dt><dd>the gap between two output tokens of a request, one sample a token.</dd>
<dt>tokens/s</dt><dd>prompt and output tokens of work done inside the run, of finished and
unfinished requests alike, each token once; prompt tokens found in the prefix cache count.</dd>
<dt>prefix hits</dt><dd>share of the prompt tokens of requests that started which the prefix cache
had.</dd>
<dt>preemptions</dt><dd>how often an offline request lost its KV blocks and waited again.</dd>
<dt>predictor MAPE</dt><dd>mean of |predicted / true - 1| over the steps whose time the scheduler
predicted.</dd>
</dl>"""
SIMULATED = (
    "Simulated: the real scheduler ran in virtual time, the seconds of its steps come from a model "
    "of the device. Nothing was run on the device itself."
)
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
    title = _title(report)
    parts = [
        f"<header><h1>{escape(title)}</h1>",
        _lead(report),
        _differences(report),
        _facts(report),
        "</header>",
        "<section><h2>Results by policy</h2>",
        results_table(results, report.labels, _highlighted(report)),
        _list("notes", footnotes(results, report.labels)),
        "</section>",
        charts_html(results, report.labels, report.word),
        f"<footer><h2>Definitions</h2>\n{DEFINITIONS}\n{_commands(report)}</footer>",
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n{body}\n"
        "</body>\n</html>\n"
    )


def _title(report: Report) -> str:
    engines = [r.details["engine"] for r in report.results if r.details is not None]
    names = dict.fromkeys(f"{engine['model']} on {engine['device']}" for engine in engines)
    where = f": {next(iter(names))}" if len(names) == 1 else ""
    return f"{report.word} online and offline serving".strip().capitalize() + where


def _highlighted(report: Report) -> Result | None:
    return best(report.results) if _is_comparison(report) else None


def _is_comparison(report: Report) -> bool:
    """Return whether there are results that differ in their policy alone, and SLOs."""
    has_slos = any(result.figures["slo"] for result in report.results)
    return len(report.results) > 1 and has_slos and not report.differences


def _lead(report: Report) -> str:
    """Return what the results come to, and that they are simulated."""
    lines = []
    found = _highlighted(report)
    if found is not None:
        label = report.labels[list(report.results).index(found)]
        rate = rounded(found.figures["offline"]["tokens_per_s"])
        lines.append(
            f'<p class="lead">Most offline work with all SLOs met: <b>{escape(label)}</b>, '
            f"{rate} offline tokens/s.</p>"
        )
    elif _is_comparison(report):
        lines.append('<p class="lead">No policy does offline work with all SLOs met.</p>')
    if any(result.kind == "simulated" for result in report.results):
        lines.append(f'<p class="soft">{SIMULATED}</p>')
    return "\n".join(lines)


def _differences(report: Report) -> str:
    found = report.differences
    if not found:
        return ""
    items = _list("", [f"{fact.name}: {_by_value(fact, report)}" for fact in found])
    return (
        '<div class="warning">These results differ in more than the policy, so the table does not '
        f"compare policies alone:{items}</div>"
    )


def _by_value(fact: Fact, report: Report) -> str:
    return "; ".join(
        f"{value} ({', '.join(labels)})" for value, labels in fact.by_value(report.labels)
    )


def _facts(report: Report) -> str:
    """Return the header's list: what all results share, and what came out differently."""
    rows = []
    for fact in report.facts:
        is_shared = len(fact.distinct) == 1
        if fact.name not in NOT_IN_HEADER and (is_shared or not fact.is_given):
            text = fact.distinct[0] if is_shared else _by_value(fact, report)
            rows.append(f"<dt>{escape(fact.name)}</dt><dd>{escape(text)}</dd>")
    return "<dl>\n" + "\n".join(rows) + "\n</dl>"


def _list(look: str, items: Sequence[str]) -> str:
    rows = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f'<ul class="{look}">{rows}</ul>' if items else ""


def _commands(report: Report) -> str:
    """Return the commands that made the results, as far as they say it."""
    known = [result for result in report.results if result.details is not None]
    if not known:
        return ""
    text = "\n".join(_command(result) for result in known)
    return f"<h2>Made with</h2>\n<pre>{escape(text)}</pre>"


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
