# SPDX-License-Identifier: Apache-2.0
"""`hygen tune` with an engine that answers from a formula: probes, files, report."""

import json
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from hygen_vllm.config import HyGenConfig
from hygen_vllm.lab.tune.served import Progress, Served
from hygen_vllm.lab.tune.tune import WIDEST, TuneOptions, run_tune
from hygen_vllm.slo import LatencyStats, Slo
from hygen_vllm.targets.reference import load_reference

TTFT = LatencyStats(0.2, 0.2, 0.3, 0.35, 0.4)
NOTHING = LatencyStats(None, None, None, None, None)


def _stats(tbt_s: float) -> LatencyStats:
    """Return statistics of TBT of which all but P99 are half as large."""
    return LatencyStats(*[tbt_s / 2] * 4, tbt_s)


def _served(tbt_s: float, offline: float = 0.0, ttft: LatencyStats = TTFT) -> Served:
    return Served({"ttft": ttft, "tbt": _stats(tbt_s)}, 0, 100.0, offline)


class _Server:
    """P99 TBT is 40 ms alone, else the budget and 20 ms; offline work is 1000 budgets."""

    description = "a formula"

    def __init__(self, answer: Callable[[float | None, int], Served] | None = None) -> None:
        self.calls: list[tuple[float | None, int]] = []
        self.num_closed = 0
        self._answer = answer or self._usual

    @staticmethod
    def _usual(budget_s: float | None, _: int) -> Served:
        return _served(0.04) if budget_s is None else _served(budget_s + 0.02, 1e3 * budget_s)

    def serve(self, latency_budget_s: float | None, repeat: int, progress: Progress) -> Served:
        for share in (0.0, 0.5, 1.25):  # a step may end after the probe should
            progress(share)
        self.calls.append((latency_budget_s, repeat))
        return self._answer(latency_budget_s, repeat)

    def close(self) -> None:
        self.num_closed += 1


def _options(folder: Path, *slos: str, **changes: Any) -> TuneOptions:
    values = {"seconds": 10.0, "out_dir": folder / "out", "max_probes": 40} | changes
    return TuneOptions(slos=[Slo.parse(text) for text in slos or ("tbt_p99=+50%",)], **values)


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Draw nothing, which takes longest, and leave the log of others alone."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    level = logging.getLogger("vllm").level
    yield
    logging.getLogger("vllm").setLevel(level)


def _json(path: Path) -> Any:
    """Return what is in a file of strict JSON."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


# --- what one probe finds ----------------------------------------------------------------------

ALONE: Mapping[str, LatencyStats] = {"ttft": TTFT, "tbt": _stats(0.04)}


@pytest.mark.parametrize(
    ("text", "ratio"),
    [
        ("tbt_p99=+50%", 1.5),
        ("tbt_p99=45ms", 2.0),
        ("tbt_mean=+125%", 1.0),
        ("ttft_p90=+0%", 1.0),
        ("ttft_p99=500ms", 0.8),
    ],
)
def test_ratio_of_a_target_is_measured_over_its_limit(text: str, ratio: float) -> None:
    """A relative limit is that of the same statistic of online alone."""
    assert pytest.approx(ratio) == _served(0.09).ratio_of(Slo.parse(text), ALONE)


def test_ratio_of_several_targets_is_the_largest() -> None:
    """All are to be met."""
    slos = [Slo.parse(text) for text in ("ttft_p99=500ms", "tbt_p99=45ms", "tbt_mean=+125%")]
    assert pytest.approx(2.0) == _served(0.09).ratio(slos, ALONE)


def test_ratio_of_what_was_not_measured_is_infinite() -> None:
    """Requests without tokens meet no target."""
    assert math.inf == _served(0.09, ttft=NOTHING).ratio_of(Slo.parse("ttft_p99=+5%"), ALONE)


@pytest.mark.parametrize("alone", [{}, {"ttft": NOTHING}])
def test_ratio_to_online_alone_without_samples_is_refused_in_one_line(
    alone: Mapping[str, LatencyStats],
) -> None:
    """The line says what is missing, for what, and what to do."""
    with pytest.raises(ValueError, match="probe longer") as caught:
        _served(0.09).ratio_of(Slo.parse("ttft_p99=+5%"), alone)
    assert "no TTFT was measured for ttft_p99=+5%: probe longer" == str(caught.value)
    assert 0.8 == _served(0.09).ratio_of(Slo.parse("ttft_p99=500ms"), alone)


# --- probing -----------------------------------------------------------------------------------


def test_tuning_finds_the_budget_that_meets_the_target(tmp_path: Path) -> None:
    """60 ms are 40 ms and the 20 ms that every step takes."""
    server = _Server()
    run_tune(_options(tmp_path), lambda: server)
    config = HyGenConfig.from_file(str(tmp_path / "out" / "hygen.yaml"))
    assert "fixed" == config.gate_mode
    assert 0.04 / 1.02 <= (config.latency_budget_s or 0.0) <= 0.04
    found = _json(tmp_path / "out" / "tune.json")
    assert pytest.approx(found["latency_budget_s"], rel=1e-5) == config.latency_budget_s
    assert 1 == server.num_closed


def test_tuning_probes_online_alone_first_and_once_a_repeat(tmp_path: Path) -> None:
    """A repeat has other requests, and is compared with the same ones alone."""
    server = _Server()
    run_tune(_options(tmp_path), lambda: server)
    assert (None, 0) == server.calls[0]
    assert [0, 1, 2] == [repeat for budget_s, repeat in server.calls if budget_s is None]
    seen: set[int] = set()
    for budget_s, repeat in server.calls:
        assert budget_s is None or repeat in seen
        seen.add(repeat)


def test_tuning_compares_each_repeat_with_its_own_online_alone(tmp_path: Path) -> None:
    """Requests that are slower alone may be slower under the budget."""

    def answer(budget_s: float | None, repeat: int) -> Served:
        slow = 1.0 + repeat
        return _served(slow * (0.04 if budget_s is None else budget_s + 0.02), 1.0)

    run_tune(_options(tmp_path), lambda: _Server(answer))
    found = _json(tmp_path / "out" / "tune.json")
    assert 0.04 / 1.02 <= found["latency_budget_s"] <= 0.04
    assert pytest.approx(0.0, abs=1e-9) == found["noise"]
    assert 0.04 == load_reference(tmp_path / "out" / "online-alone.json").stats["tbt"]["p99"]


@pytest.mark.parametrize(
    ("changes", "low_s", "high_s"),
    [
        ({}, 0.02, WIDEST * 0.02),
        ({"low_s": 0.03}, 0.03, WIDEST * 0.03),
        ({"high_s": 0.5}, 0.02, 0.5),
        ({"low_s": 0.03, "high_s": 0.5}, 0.03, 0.5),
    ],
)
def test_tuning_tries_budgets_from_a_step_of_online_alone_on(
    tmp_path: Path, changes: dict[str, float], low_s: float, high_s: float
) -> None:
    """Its median TBT, if no other is given, and so many times as much."""
    server = _Server()
    run_tune(_options(tmp_path, **changes), lambda: server)
    budgets_s = [budget_s for budget_s, _ in server.calls if budget_s is not None]
    assert (low_s, high_s) == (min(budgets_s), max(budgets_s))


def test_tuning_makes_no_more_probes_than_asked_for(tmp_path: Path) -> None:
    """Those of online alone come on top."""
    server = _Server()
    run_tune(_options(tmp_path, max_probes=7), lambda: server)
    assert 7 == sum(budget_s is not None for budget_s, _ in server.calls)


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"slos": []}, "tuning needs a target, for example --slo tbt_p99=+20%"),
        ({"seconds": 0.5}, "a probe must last >= 1 s, got 0.5"),
    ],
)
def test_bad_input_is_refused_before_a_server_is_made(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    """In one line, and no folder is left behind."""
    options = {"slos": [Slo.parse("tbt_p99=1s")], "seconds": 10.0, "max_probes": 8} | changes
    with pytest.raises(ValueError, match=r"must|needs") as caught:
        run_tune(TuneOptions(out_dir=tmp_path / "out", **options), lambda: pytest.fail("made"))
    assert expected == str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"max_probes": 5}, "max_probes must be >= 6, twice max_repeats, got 5"),
        ({"low_s": 0.5, "high_s": 0.1}, "budgets to search must be > 0 and rise, got 0.5 to 0.1"),
    ],
)
def test_limits_that_cannot_be_searched_are_refused_in_one_line(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    """No budget is probed."""
    server = _Server()
    with pytest.raises(ValueError, match="must be") as caught:
        run_tune(_options(tmp_path, **changes), lambda: server)
    assert expected == str(caught.value)
    assert not any(budget_s for budget_s, _ in server.calls)


def test_online_load_without_two_tokens_needs_a_smallest_budget(tmp_path: Path) -> None:
    """There is no step to begin with."""
    alone = Served({"ttft": TTFT, "tbt": NOTHING}, 0, 1.0, 0.0)
    server = _Server(lambda budget_s, _: alone if budget_s is None else _served(0.1))
    with pytest.raises(
        ValueError, match="no online request got two tokens: probe longer, or give --low-ms"
    ):
        run_tune(_options(tmp_path, "tbt_p99=1s"), lambda: server)
    assert 1 == server.num_closed
    run_tune(_options(tmp_path, "tbt_p99=1s", low_s=0.01), lambda: server)
    assert "TBT mean unknown, P99 unknown." in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize("fails_at", [1, 3])
def test_server_is_closed_when_a_probe_fails(tmp_path: Path, fails_at: int) -> None:
    """Its workers would stay otherwise; what it raised is not hidden, and nothing is written."""

    def answer(budget_s: float | None, repeat: int) -> Served:
        if len(server.calls) == fails_at:
            raise RuntimeError("out of memory")
        return _Server._usual(budget_s, repeat)

    server = _Server(answer)
    with pytest.raises(RuntimeError, match=r"^out of memory$"):
        run_tune(_options(tmp_path), lambda: server)
    assert (1, []) == (server.num_closed, [*(tmp_path / "out").iterdir()])


# --- what is written ---------------------------------------------------------------------------


def test_files_are_written_into_a_folder_that_is_made(tmp_path: Path) -> None:
    """The report is what is returned too."""
    options = _options(tmp_path, out_dir=tmp_path / "a" / "b")
    text = run_tune(options, _Server)
    names = ["hygen.yaml", "online-alone.json", "report.md", "tune.json"]
    assert names == sorted(path.name for path in options.out_dir.iterdir())
    assert text == (options.out_dir / "report.md").read_text(encoding="utf-8")
    settings_file = options.out_dir / "hygen.yaml"
    hint = "No picture: it needs matplotlib (pip install 'hygen-vllm[lab]').\n"
    assert text.endswith(f"\nServe with it: HYGEN_CONFIG={settings_file}\n{hint}")
    assert text == run_tune(options, _Server)


def test_reference_is_what_online_had_alone(tmp_path: Path) -> None:
    """Relative targets can be steered by it; what was not measured is not in it."""
    ttft = LatencyStats(0.2, 0.2, None, None, 0.4)
    run_tune(
        _options(tmp_path),
        lambda: _Server(lambda b, _: _served(0.04 if b is None else b + 0.02, 1.0, ttft)),
    )
    path = tmp_path / "out" / "online-alone.json"
    stats = {"ttft": {"mean": 0.2, "p50": 0.2, "p99": 0.4}}
    stats["tbt"] = {"mean": 0.02, "p50": 0.02, "p90": 0.02, "p95": 0.02, "p99": 0.04}
    assert stats == load_reference(path).stats
    assert "a formula" == _json(path)["source"]


def test_json_has_every_budget_in_the_order_in_which_it_was_tried(tmp_path: Path) -> None:
    """With each of its probes."""
    server = _Server()
    run_tune(_options(tmp_path, "tbt_p99=60ms", "ttft_mean=1s"), lambda: server)
    found = _json(tmp_path / "out" / "tune.json")
    assert ("a formula", ["tbt_p99=60ms", "ttft_mean=1000ms"]) == (
        found["description"],
        found["slos"],
    )
    assert found["latency_budget_s"] == max(t["budget_s"] for t in found["tried"] if t["met"])
    probed_s = [budget_s for budget_s, _ in server.calls if budget_s is not None]
    listed_s = [tried["budget_s"] for tried in found["tried"] for _ in tried["ratios"]]
    assert probed_s == listed_s
    for tried in found["tried"]:
        ratio = (tried["budget_s"] + 0.02) / 0.06
        assert all(pytest.approx(ratio) == each for each in tried["ratios"])
        assert {1e3 * tried["budget_s"]} == set(tried["offline_tokens_per_s"])
        assert (ratio <= 1) == tried["met"]


def test_no_budget_that_meets_the_target_writes_no_settings(tmp_path: Path) -> None:
    """The report says so; the figures are there."""
    text = run_tune(_options(tmp_path, "tbt_p99=1ms"), _Server)
    assert "No budget that was tried meets the targets.\n" in text
    assert "HYGEN_CONFIG" not in text
    assert not (tmp_path / "out" / "hygen.yaml").exists()
    assert _json(tmp_path / "out" / "tune.json")["latency_budget_s"] is None


def test_json_of_requests_without_tokens_has_no_infinity(tmp_path: Path) -> None:
    """JSON knows none: what is infinite is null."""
    nothing = Served({"ttft": NOTHING, "tbt": NOTHING}, 3, 0.0, 7.0)
    server = _Server(lambda b, _: _served(0.04) if b is None or b < 0.1 else nothing)
    text = run_tune(_options(tmp_path), lambda: server)
    found = _json(tmp_path / "out" / "tune.json")
    ratios = {tried["budget_s"] < 0.1: tried["ratios"] for tried in found["tried"]}
    assert ({True, False}, [None]) == (set(ratios), ratios[False])
    assert "| inf% | 7 | missed |" in text


def test_report_has_a_row_for_each_budget_by_its_size(tmp_path: Path) -> None:
    """Probes, each target of its limit, offline work, and whether all are met."""

    def answer(budget_s: float | None, repeat: int) -> Served:
        if budget_s is None:
            return _served(0.04)
        tbt_s = {0.02: 0.03, 0.08: 0.09}.get(budget_s, 0.057 + 0.003 * repeat)
        return _served(tbt_s, 1234.5 if budget_s < 0.05 else 2000)

    options = _options(tmp_path, "tbt_p99=60ms", "tbt_mean=+100%", max_probes=7, high_s=0.08)
    lines = run_tune(options, lambda: _Server(answer)).splitlines()
    header = ["budget", "probes", "tbt_p99=60ms, of its limit", "tbt_mean=+100%, of its limit"]
    assert [
        "# Latency budget for tbt_p99=60ms, tbt_mean=+100%",
        "",
        "a formula",
        "",
        "Online alone: TTFT mean 200.0 ms, P99 400.0 ms",
        "TBT mean 20.0 ms, P99 40.0 ms.",
        "",
        f"| {' | '.join(header)} | offline tokens/s |  |",
        "| ---: | ---: | ---: | ---: | ---: |  |",
        "| 20.00 ms | 1 | 50.0% | 37.5% | 1,234 | met |",
        "| 40.00 ms | 3 | 100.0% | 75.0% | 1,234 | met |",
    ] == lines[:11]
    at = lines.index("| 80.00 ms | 1 | 150.0% | 112.5% | 2,000 | missed |")
    assert [
        "",
        "Noise of a probe: 4.56% of the limit.",
        "",
        "The largest budget that meets them is 56.57 ms: 2,000 offline tokens/s.",
    ] == lines[at + 1 : at + 5]


def test_report_compares_each_repeat_with_its_own_online_alone(tmp_path: Path) -> None:
    """As the search does."""

    def answer(budget_s: float | None, repeat: int) -> Served:
        alone_s = 0.04 * (1 + repeat)
        return _served(alone_s if budget_s is None else 1.5 * alone_s)

    text = run_tune(_options(tmp_path, max_probes=6), lambda: _Server(answer))
    assert "| 20.00 ms | 3 | 100.0% | 0 | met |" in text


def test_progress_counts_the_probes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr; the last has all that were made, also where there were more than expected."""
    server = _Server()
    run_tune(_options(tmp_path, max_probes=7), lambda: server)
    captured = capsys.readouterr()
    assert "" == captured.out
    last = captured.err.split("\r")[-1]
    assert f" {len(server.calls)}.0 of at most {len(server.calls)} probes, " in last
    assert " of at most 8 probes, " in captured.err


def test_picture_is_drawn_where_it_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Budgets under which requests got no tokens are not in it."""
    monkeypatch.undo()
    axes = pytest.importorskip("matplotlib.axes").Axes
    drawn_ms: list[float] = []
    plot = axes.plot

    def note(self: Any, budgets_ms: list[float], *values: Any, **style: Any) -> Any:
        drawn_ms.extend(budgets_ms)
        return plot(self, budgets_ms, *values, **style)

    monkeypatch.setattr(axes, "plot", note)
    nothing = Served({"ttft": NOTHING, "tbt": NOTHING}, 3, 0.0, 7.0)
    server = _Server(lambda b, _: nothing if (b or 0) > 0.1 else _Server._usual(b, 0))
    text = run_tune(_options(tmp_path), lambda: server)
    assert "No picture" not in text
    assert 20.0 == min(drawn_ms) <= max(drawn_ms) < 100.0
    assert (tmp_path / "out" / "tune.png").read_bytes().startswith(b"\x89PNG")
