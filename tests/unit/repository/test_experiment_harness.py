# SPDX-License-Identifier: Apache-2.0
"""What experiments make of runs: baselines with hindsight, ratios, claims, and no run twice."""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "experiments"))

from harness import pool, store, tasks
from harness.claims import claim_of, largest
from harness.comparison import cells_of, comparison_cases, of_limit, table_of
from harness.constants import constants, scaled
from harness.experiment import Case, Done, load_config
from harness.record import check_backlog
from harness.spread import Spread, bars_of
from harness.tables import markdown, write_csv
from harness.troubles import findings_of_troubles

from hygen_vllm.lane import fair_share, inbox

CONFIG: dict[str, Any] = {
    "setups": {"one": {"title": "One", "flags": {"profile": "p", "online": "azure"}}},
    "seconds": 60,
    "seeds": [1, 2],
    "targets": ["tbt_p99=+10%"],
    "budgets_ms": [10, 20, 40],
    "rates": [0.5, 1.0],
}
ALONE_MS = 10.0


def _figures(tbt_ms: float | None, offline: float) -> dict[str, Any]:
    return {
        "tbt_mean_ms": tbt_ms,
        "tbt_p99_ms": tbt_ms,
        "ttft_p99_ms": 100.0,
        "offline_tokens_per_s": offline,
        "online_tokens_per_s": 50.0,
    }


def _runs(
    ours: tuple[float, float],
    budgets: Mapping[int, tuple[float | None, float]],
    rate_ms: float = 10.5,
    priority_ms: float = 30.0,
) -> list[Done]:
    """Return the runs of CONFIG: mean TBT in ms and offline tokens/s of ours and of each budget."""
    by_policy = {
        "online-only": (ALONE_MS, 0.0),
        "offline-only": (None, 500.0),
        "vllm-priority": (priority_ms, 400.0),
        "slo": ours,
        "rate-capped": (rate_ms, 20.0),
    }
    done = []
    for case in comparison_cases(CONFIG):
        policy = case.labels["policy"]
        found = by_policy.get(policy)
        if policy == "fixed-budget":
            found = budgets[int(case.labels["setting"].split()[0])]
        assert found is not None
        done.append(Done(case, _figures(*found)))
    return done


BUDGETS = {10: (10.2, 50.0), 20: (10.9, 80.0), 40: (14.0, 300.0)}
NOBODY_SERVED = dict.fromkeys(BUDGETS, (None, 90.0))


def test_runs_of_a_comparison_are_all_policies_with_each_seed() -> None:
    cases = comparison_cases(CONFIG)
    assert 2 * (3 + 3 + 2 + 2) == len(cases)
    ours = [c for c in cases if c.labels["policy"] == "slo" and c.labels["seed"] == 1]
    known, cold = (case.flags for case in ours)
    assert ["known", "cold"] == [case.labels["start"] for case in ours]
    assert ["tbt_p99=+10%"] == known["known_targets"]
    assert ['slos=["tbt_p99=+10%"]'] == cold["setting"]
    assert ("p", 60, 1) == tuple(known[name] for name in ("profile", "seconds", "seed"))
    alone = [case.flags for case in cases if case.labels["policy"] == "offline-only"]
    assert [None, None] == [flags["online"] for flags in alone], "the same for every online load"


def test_means_need_not_be_told_and_cold_starts_can_be_left_out() -> None:
    config = {**CONFIG, "targets": ["tbt_mean=+5%", "tbt_p99=+5%", "tbt_p99=+9%"]}
    cases = comparison_cases({**config, "cold_targets": ["tbt_p99=+9%"]})
    labels = [case.labels for case in cases if case.labels["policy"] == "slo"]
    expected = [("tbt_mean=+5%", "known"), ("tbt_p99=+5%", "known"), ("tbt_p99=+9%", "known")]
    expected.append(("tbt_p99=+9%", "cold"))
    assert 2 * expected == [(each["setting"], each["start"]) for each in labels]
    (mean, *_) = [case.flags for case in cases if case.labels["setting"] == "tbt_mean=+5%"]
    assert ['slos=["tbt_mean=+5%"]'] == mean["setting"]


def test_a_tuned_budget_lies_between_the_runs_around_the_target() -> None:
    (cell,) = cells_of(CONFIG, _runs((10.8, 100.0), BUDGETS))
    tuned = 80.0 + (11.0 - 10.9) / (14.0 - 10.9) * (300.0 - 80.0)
    assert pytest.approx(tuned) == cell.spread("fixed").median
    ratio = cell.ratio("fixed")
    assert ratio is not None
    assert pytest.approx(100.0 / tuned) == ratio.median
    assert pytest.approx(10.8 / 11.0) == cell.spread("of_limit").median
    assert pytest.approx(150.0 / 50.0) == cell.spread("total_over_alone").median
    assert pytest.approx(150.0 / 500.0) == cell.spread("share_of_whole").median


def test_a_table_has_no_columns_of_what_was_not_run() -> None:
    runs = _runs((10.8, 100.0), BUDGETS)
    warm = [run for run in runs if run.case.labels["start"] != "cold"]
    with_cold, without = (table_of(cells_of(CONFIG, some)).splitlines() for some in (runs, warm))
    assert ["set-up", "one"] == [line.split("|")[1].strip() for line in (without[0], without[2])]
    assert "cold start: of its limit" in with_cold[0]
    assert "cold" not in without[0]
    assert [line.count("|") - 2 for line in with_cold] == [line.count("|") for line in without]


def test_below_the_least_budget_is_online_alone() -> None:
    (cell,) = cells_of(CONFIG, _runs((10.8, 100.0), dict.fromkeys(BUDGETS, (12.0, 90.0))))
    assert pytest.approx(45.0) == cell.spread("fixed").median


def test_baselines_may_miss_a_target_as_far_as_ours_does() -> None:
    (cell,) = cells_of(CONFIG, _runs((14.5, 310.0), BUDGETS))
    assert 300.0 == cell.spread("fixed").median
    assert "the target is missed by 31.8%" in claim_of(cell, "x").note


def test_no_baseline_within_a_target_is_no_ratio() -> None:
    (cell,) = cells_of(CONFIG, _runs((10.8, 100.0), NOBODY_SERVED))
    assert cell.ratio("fixed") is None
    claim = claim_of(cell, "x")
    assert ("none meets it", "") == (claim.fixed, claim.ratio)


def test_what_is_behind_says_so() -> None:
    (cell,) = cells_of(CONFIG, _runs((10.8, 60.0), BUDGETS))
    claim = claim_of(cell, "x", "2 times")
    assert "31.1% behind the best fixed budget" == claim.note
    assert ("0.69", "2 times") == (claim.ratio, claim.paper)
    assert cell is largest([cell], "rate")


def test_what_is_behind_a_rate_cap_or_vllm_itself_says_so() -> None:
    """vLLM's priority policy counts only where it keeps the target."""
    behind_rate = "20.0% behind the best rate cap"
    behind_vllm = "96.0% behind vLLM's priority policy, which keeps the target too"
    for priority_ms, words in ((30.0, behind_rate), (10.9, f"{behind_rate}; {behind_vllm}")):
        runs = _runs((10.8, 16.0), NOBODY_SERVED, priority_ms=priority_ms)
        (cell,) = cells_of(CONFIG, runs)
        assert words == claim_of(cell, "x").note


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("tbt_mean=+10%", 12.0 / 11.0),
        ("ttft_p99=+25%", 0.8),
        ("ttft_p99=+25% tbt_mean=+10%", 12.0 / 11.0),
    ],
)
def test_of_several_targets_the_worst_counts(target: str, expected: float) -> None:
    assert pytest.approx(expected) == of_limit(target, _figures(12.0, 0.0), _figures(ALONE_MS, 0.0))


def test_latency_of_nobody_misses_every_target() -> None:
    figures, alone = _figures(None, 0.0), _figures(ALONE_MS, 0.0)
    assert math.inf == of_limit("tbt_mean=+10%", figures, alone)
    assert math.isnan(of_limit("tbt_mean=+10%", {}, alone)), "no such run"


def test_budget_under_trouble_is_the_one_that_was_best_without() -> None:
    setups = {"none": CONFIG["setups"]["one"], "drift": CONFIG["setups"]["one"]}
    config = {**CONFIG, "setups": setups, "rates": [], "starts": ["cold"]}
    config["policies"] = ["online-only", "vllm-priority"]
    done = []
    for case in comparison_cases(config):
        policy, is_calm = case.labels["policy"], case.labels["setup"] == "none"
        found = {"online-only": (ALONE_MS, 0.0), "vllm-priority": (30.0, 400.0)}.get(policy)
        if policy == "fixed-budget":
            tbt_ms, offline = BUDGETS[int(case.labels["setting"].split()[0])]
            found = (tbt_ms + (0.0 if is_calm else 3.0), offline)
        done.append(Done(case, _figures(*(found or (10.8, 100.0 if is_calm else 70.0)))))
    findings = findings_of_troubles(config, done)
    calm, drift = findings.summary
    assert ("20 ms", "20 ms") == (calm["fixed_setting"], drift["fixed_setting"])
    assert pytest.approx(13.9 / 11.0) == drift["fixed_of_limit"]
    assert "| -30% |" in findings.table
    (claim,) = findings.claims
    assert "" == claim.ratio, "a budget that misses the target is no measure"


def test_spread_shows_its_ends_only_where_they_differ() -> None:
    assert "2.0 (1.0 to 4.0)" == Spread.of([4.0, 1.0, 2.0]).text(".1f")
    assert "50%" == Spread.of([0.5, 0.5]).text(".0%")
    row = Spread.of([4.0, 1.0, 2.0]).columns("x")
    assert Spread(2.0, 1.0, 4.0) == Spread.from_row(row, "x")
    values, errors = bars_of([row], "x", 10.0)
    assert ([20.0], [[10.0], [20.0]]) == (values.tolist(), errors.tolist())


def test_tables_for_people_and_programs(tmp_path: Path) -> None:
    assert "| a | b |\n| --- | ---: |\n| x | 1 |" == markdown(["a", "b"], [["x", "1"]])
    write_csv(tmp_path / "t.csv", [{"a": 1.23456789}, {"a": None, "b": "x"}])
    assert "a,b\n1.23457,\n,x\n" == (tmp_path / "t.csv").read_text(encoding="utf-8")


def test_quick_config_replaces_and_one_of_another_has_its_runs(tmp_path: Path) -> None:
    for name, text in (("a", "x: 1\ny: 2\nquick: {y: 3}\n"), ("b", "runs_of: a\nz: 4\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(text, encoding="utf-8")
    assert {"x": 1, "y": 2} == load_config(tmp_path / "a", is_quick=False)
    assert {"x": 1, "y": 3, "z": 4} == load_config(tmp_path / "b", is_quick=True)


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """Return the flags of what a Pool ran, in this process; one run fails."""
    ran: list[Any] = []

    def task(flags: Any) -> Any:
        if flags.get("fails"):
            raise RuntimeError("as told")
        ran.append(dict(flags))
        return {"twice": 2 * flags["x"]}, {"series": [flags["x"]], "other": 0}

    def here(function: Any, items: Any, _: Any) -> Any:
        return ((number, function(item)) for number, item in enumerate(items))

    monkeypatch.setattr(store, "CACHE", tmp_path)
    monkeypatch.setattr(pool, "TASKS", {"simulate": task})
    monkeypatch.setattr(pool, "in_processes", here)
    return ran


def _case(x: int, **more: Any) -> Case:
    return Case({"x": x}, {"x": x, **more}, keeps=("series",))


def test_equal_runs_are_done_once_and_answers_are_in_order(simulated: list[Any]) -> None:
    done = pool.Pool(1).run([_case(3), _case(1), _case(3)])
    assert [{"x": 3}, {"x": 1}] == simulated
    assert [6, 2, 6] == [each.figures["twice"] for each in done]
    assert {"series": [3]} == done[0].kept
    assert {"x": 1, "twice": 2} == done[1].row


def test_runs_that_ended_before_one_failed_are_not_done_again(simulated: list[Any]) -> None:
    with pytest.raises(RuntimeError, match="as told"):
        pool.Pool(1).run([_case(1), _case(2, fails=True), _case(3)])
    pool.Pool(1).run([_case(1), _case(3)])
    assert [{"x": 1}, {"x": 3}] == simulated


def test_run_with_other_flags_or_other_code_is_another(
    simulated: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.Pool(1).run([_case(1)])
    pool.Pool(1).run([_case(1, y=2)])
    monkeypatch.setattr(store, "_code", lambda: "other")
    pool.Pool(1).run([_case(1)])
    assert [{"x": 1}, {"x": 1, "y": 2}, {"x": 1}] == simulated
    kept = [*store.CACHE.glob("*.json")]
    assert 3 == len(kept)
    assert {"figures", "kept", "wall_s"} == set(json.loads(kept[0].read_text()))


def test_online_alone_is_simulated_once_for_all_who_want_to_know_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its own run, known targets, whatever offline work is beside it; another seed is another."""
    ran: list[Any] = []

    def simulate(flags: Any) -> Any:
        ran.append(flags)
        return {"details": {"of": "a run"}}

    monkeypatch.setattr(store, "CACHE", tmp_path)
    monkeypatch.setattr("hygen_vllm.lab.simulator.many_runs.simulate", simulate)
    monkeypatch.setattr(tasks, "figures_of", lambda _: {"tbt_p99_ms": 10.0 * ran[-1]["seed"]})
    online = {"profile": "p", "online": "azure", "seed": 1}
    assert 10.0 == tasks.simulate_task({**online, "policy": "online-only"})[0]["tbt_p99_ms"]
    ours = {**online, "offline": "arxiv", "policy": "slo"}
    tasks.simulate_task({**ours, "known_targets": ["tbt_p99=+10%", "tbt_mean=+5%"]})
    tasks.simulate_task({**ours, "known_targets": ["tbt_p99=+20%"], "seed": 2})
    assert [
        ("online-only", 1, None),
        ("slo", 1, ['slos=["tbt_p99=11.000000ms", "tbt_mean=+5%"]']),
        ("online-only", 2, None),
        ("slo", 2, ['slos=["tbt_p99=24.000000ms"]']),
    ] == [(flags["policy"], flags["seed"], flags.get("setting")) for flags in ran]


def test_a_run_in_which_offline_requests_ran_out_is_refused() -> None:
    flags = {"online": "azure", "offline_requests": 8}
    lasted, ran_out = (
        Done(Case({}, flags), {**_figures(10.0, 1.0), "offline_finished": finished})
        for finished in (7, 8)
    )
    drained = Done(Case({}, {**flags, "online": None}), ran_out.figures)
    check_backlog([lasted, drained])
    with pytest.raises(ValueError, match="offline requests ran out"):
        check_backlog([lasted, ran_out])


def test_each_number_of_the_policy_has_a_reason() -> None:
    """In the line below it."""
    found = constants()
    assert len(found) > 50
    assert [] == [each.place for each in found if not each.why]


def test_number_is_another_wherever_it_is_used_and_comes_back() -> None:
    """In its own module and where it was imported; whole ones stay whole."""
    before = fair_share.MOST_TENANTS
    with scaled("lane.fair_share:MOST_TENANTS", 2.0):
        assert (2 * before, 2 * before) == (fair_share.MOST_TENANTS, inbox.MOST_TENANTS)
        assert isinstance(inbox.MOST_TENANTS, int)
    assert (before, before) == (fair_share.MOST_TENANTS, inbox.MOST_TENANTS)
