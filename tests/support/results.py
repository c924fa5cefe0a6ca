# SPDX-License-Identifier: Apache-2.0
"""Results of simulations that never ran, and what a browser makes of a page about them."""

import copy
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from hygen_vllm.lab.report.page import report_page
from hygen_vllm.lab.report.result_file import FORMAT, VERSION, Result

STATS = {"mean": 0.02, "p50": 0.02, "p90": 0.03, "p99": 0.04}
NO_STATS = dict.fromkeys(STATS)
ENGINE = {
    "model": "Tiny",
    "device": "Abacus",
    "dtype": "float16",
    "tensor_parallel": 1,
    "pipeline_parallel": 1,
    "is_async": False,
    "max_num_batched_tokens": 512,
    "max_num_seqs": 8,
    "max_model_len": 4096,
    "block_size": 16,
    "num_kv_blocks": 2600,
}
OPTIONS = {
    "profile": "tiny",
    "policy": "slo",
    "online": "azure",
    "online_rate": 2.0,
    "kv_blocks": 2600,
    "slo": ["tbt_p99=60ms", "tbt_mean=+20%"],
    "seconds": 1234567.25,
    "slowdown": [[2.0, 1.3]],
}
SERIES = {
    "bin_s": 1.0,
    "time_s": [0.5, 1.5, 2.5, 3.5],
    "online_arrivals_per_s": [1.0, 0.0, 2.0, 1.0],
    "step_s": [0.02, None, 0.03, 0.01],
    "limit_s": [0.1, None, 0.03, None],
    "online_tokens_per_s": [5.0, 0.0, 10.0, 5.0],
    "offline_tokens_per_s": [50.0, 60.0, 10.0, 40.0],
    "samples": {
        "time_s": [1.0, 2.0, 3.0],
        "online_kv_share": [0.1, 0.2, 0.3],
        "offline_kv_share": [0.5, 0.5, 0.6],
        "refusals": {"latency": [0, 3, 4], "blocks": [0, 0, 1]},
    },
}
DETAILS = {
    "format": FORMAT,
    "version": VERSION,
    "kind": "simulated",
    "policy": "HyGen with SLOs",
    "settings": {"mode": "fixed", "latency_budget_s": 0.19999999999999996},
    "engine": ENGINE,
    "workload": {"online": "conv.csv", "offline": "arxiv.csv"},
    "shortened": 0,
    "options": OPTIONS,
    "arrived": {"online": 4, "offline": 20},
    "unserved": 0,
    "predictor_mape": 0.0123,
    "quantiles": {
        "levels": [0.0, 0.5, 0.99, 1.0],
        "ttft_s": [0.1, 0.2, 0.4, 0.5],
        "tbt_s": [0.01, 0.02, 0.04, 0.05],
    },
    "series": SERIES,
}
RESULT = {
    "policy": "slo",
    "profile": "tiny",
    "seed": 0,
    "virtual_s": 4.0,
    "online": {"finished": 3, "tokens_per_s": 1417.46, "ttft_s": STATS, "tbt_s": STATS},
    "offline": {"finished": 7, "tokens_per_s": 1559.5, "prefix_hit_rate": 0.25, "preemptions": 3},
    "total_tokens_per_s": 2977.0,
    "slo": [
        {"slo": "tbt_p99=60ms", "limit_s": 0.06, "measured_s": 0.04, "met": True},
        {"slo": "tbt_mean=+20%", "limit_s": 0.0152, "measured_s": 0.02, "met": False},
    ],
    "details": DETAILS,
}


def document(**changes: Any) -> dict[str, Any]:
    """Return a result; a__b=x changes member b of member a, ... removes it."""
    result = copy.deepcopy(RESULT)
    for name, value in changes.items():
        *outer, last = name.split("__")
        place: Any = result
        for part in outer:
            place = place[part]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return result


def undrawn(name: str = "r.json", **changes: Any) -> Result:
    """Return a result without anything to draw, for tests of words."""
    series: dict[str, Any] = {member: [] for member in SERIES}
    samples: dict[str, Any] = {member: [] for member in SERIES["samples"]}
    series |= {"bin_s": 1.0, "samples": {**samples, "refusals": {}}}
    quantiles: dict[str, Any] = {"levels": [], "ttft_s": [], "tbt_s": []}
    nothing = {"details__series": series, "details__quantiles": quantiles}
    return result(name, **nothing, **changes)


def result(name: str = "r.json", **changes: Any) -> Result:
    members = document(**changes)
    return Result(Path(name), members, members.pop("details", None))


class Page(HTMLParser):
    """What a browser makes of a page: elements with attributes, and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        return " ".join(text for text in self.texts if text)

    @property
    def charts(self) -> list[str]:
        """Titles of the charts."""
        return [found["aria-label"] or "" for _, found in self.elements if "aria-label" in found]


def page(*results: Result) -> Page:
    return Page(report_page(results))
