# SPDX-License-Identifier: Apache-2.0
import csv
import json
import math

import pytest

from hygen_vllm.lab.demo.client import RequestLog
from hygen_vllm.lab.demo.measure import (
    Window,
    measure_online,
    measure_policy,
    throughput_over_time,
)
from hygen_vllm.lab.demo.picture import draw
from hygen_vllm.lab.demo.policies import (
    ENGINE_SETTINGS,
    POLICIES,
    EngineKind,
    find_policies,
    number_format,
    scheduler_settings,
)
from hygen_vllm.lab.demo.report import PolicyRun, footnotes, format_table, to_json, write_csv

WINDOW = Window(start_s=10.0, end_s=20.0)
RUN_S = 22.0
SLO_S = 0.25


def online(arrival_s: float, *token_times_s: float, output_tokens: int = 3) -> RequestLog:
    return RequestLog("online", arrival_s, 100, output_tokens, list(token_times_s))


def offline(*token_times_s: float) -> RequestLog:
    return RequestLog("offline", 10.0, 50, 10, list(token_times_s))


def measure(logs: list[RequestLog], policy: str = "slo"):
    return measure_policy(policy, logs, WINDOW, RUN_S, SLO_S)


def test_ttft_runs_from_arrival_to_first_token():
    figures = measure_online([online(11.0, 11.5), online(12.0, 13.5)], WINDOW, RUN_S)
    assert figures.ttft_s.mean == pytest.approx(1.0)
    assert figures.ttft_s.samples == 2


def test_tbt_has_a_sample_for_each_token_after_the_first():
    figures = measure_online([online(11.0, 11.5, 11.6, 11.9)], WINDOW, RUN_S)
    assert figures.tbt_s.samples == 2
    assert figures.tbt_s.mean == pytest.approx(0.2)


def test_tokens_that_arrive_together_count_one_gap_each():
    """What a user sees: the first comes late, the others at once."""
    figures = measure_online([online(11.0, 11.5, 11.9, 11.9)], WINDOW, RUN_S)
    assert figures.tbt_s.samples == 2
    assert figures.tbt_s.mean == pytest.approx(0.2)


def test_warm_up_and_cool_down_are_not_counted():
    logs = [online(1.0, 9.0, 9.5, 9.9), online(20.0, 20.5, 21.0, 21.5)]
    figures = measure_online(logs, WINDOW, RUN_S)
    assert (figures.arrived, figures.finished, figures.tokens_per_s) == (0, 0, 0)
    assert measure_online(logs, Window(9.0, 22.0), RUN_S).finished == 2
    assert (figures.ttft_s.samples, figures.tbt_s.samples) == (0, 0)


def test_request_that_spans_the_window_counts_the_tokens_in_it():
    """Arrived before, so no TTFT; the gap that ends in the window counts whole."""
    figures = measure_online([online(5.0, 9.0, 10.5, 21.0)], WINDOW, RUN_S)
    assert figures.ttft_s.samples == 0
    assert (figures.tbt_s.samples, figures.tbt_s.mean) == (1, 1.5)
    assert figures.tokens_per_s == pytest.approx(1 / 10)


def test_throughput_counts_a_prompt_at_its_first_token_and_unfinished_requests():
    figures = measure([online(11.0, 11.5, 11.6), offline(12.0, 12.1, 12.2)])
    assert figures.online.tokens_per_s == pytest.approx((100 + 2) / 10)
    assert figures.offline.tokens_per_s == pytest.approx((50 + 3) / 10)
    assert figures.total_tokens_per_s == pytest.approx(155 / 10)
    assert figures.online.finished == 0


def test_throughput_over_time_adds_up_to_the_tokens_in_the_window():
    logs = [offline(9.9, 10.0, 14.9, 15.0, 19.9, 20.0)]
    assert throughput_over_time(logs, WINDOW, 5.0) == [(2.5, 2 / 5), (7.5, 2 / 5)]


def test_request_without_a_token_counts_the_time_it_has_waited():
    figures = measure([online(12.0), online(13.0, 13.5)])
    assert figures.online.unserved == 1
    assert figures.online.ttft_s.mean == pytest.approx((10.0 + 0.5) / 2)
    assert ">5250" in format_table([figures])
    assert "1 of 2 online requests had no first token" in "\n".join(footnotes([figures]))


@pytest.mark.parametrize(("gap_s", "met", "word"), [(0.25, True, "yes"), (0.26, False, "NO")])
def test_slo_is_met_up_to_its_limit(gap_s, met, word):
    figures = measure([online(11.0, 12.0, 12.0 + gap_s, output_tokens=2)])
    assert figures.slo[0].measured_s == pytest.approx(gap_s)
    assert figures.slo[0].slo == "tbt_p99=250ms"
    assert figures.slo[0].met is met
    assert format_table([figures]).splitlines()[-1].split()[-1] == word


def test_machine_too_slow_for_the_slo_is_told_apart_from_interference():
    slow = online(11.0, 12.0, 12.5, output_tokens=2)
    advice = "without any offline work"
    assert advice in "\n".join(footnotes([measure([slow], "online-only")]))
    assert advice not in "\n".join(footnotes([measure([slow, offline(12.0, 12.1)], "vllm-fcfs")]))


def test_policy_without_online_requests_has_no_latency_and_no_slo():
    figures = measure([offline(12.0, 12.1)], policy="offline-only")
    assert figures.online.ttft_s.p99 is None
    assert figures.slo[0].met is None
    assert format_table([figures]).splitlines()[-1].split() == (
        ["offline-only", "-", "-", "-", "-", "0", "5", "5", "-"]
    )


def test_table_has_one_line_per_policy_and_aligned_columns():
    rows = [measure([online(11.0, 11.5, 11.6)], policy.name) for policy in POLICIES]
    lines = format_table(rows).splitlines()
    assert [line.split()[0] for line in lines[3:]] == [policy.name for policy in POLICIES]
    assert len({len(line) for line in lines[2:]}) == 1


def test_json_has_the_keys_of_the_command_line_contract():
    result = json.loads(json.dumps(to_json({"seed": 3}, [measure([online(11.0, 11.5, 11.6)])])))
    policy = result["policies"][0]
    assert result["seed"] == 3
    assert set(policy) == {"policy", "online", "offline", "total_tokens_per_s", "slo"}
    assert {"finished", "tokens_per_s", "ttft_s", "tbt_s"} <= set(policy["online"])
    assert {"mean", "p50", "p90", "p99"} <= set(policy["online"]["ttft_s"])
    assert policy["offline"] == {"finished": 0, "tokens_per_s": 0.0}
    assert set(policy["slo"][0]) == {"slo", "limit_s", "measured_s", "met"}


def test_csv_holds_what_the_picture_shows(tmp_path):
    logs = [online(11.0, 11.5, 11.6), offline(12.0, 12.1)]
    write_csv(tmp_path / "demo.csv", [PolicyRun(measure(logs), logs)], WINDOW)
    with (tmp_path / "demo.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    gaps = [row for row in rows if row["quantity"] == "tbt_s"]
    rates = [float(row["value"]) for row in rows if row["quantity"] == "tokens_per_s"]
    assert [(gap["policy"], gap["time_s"], gap["value"]) for gap in gaps] == [
        ("slo", "1.6000", "0.100000")
    ]
    assert math.fsum(rates) * 5.0 == pytest.approx(102 + 52)


def test_picture_is_drawn_even_where_a_policy_served_no_token(tmp_path):
    pytest.importorskip("matplotlib")
    served = [online(11.0, 11.5, 11.6), offline(12.0, 12.1)]
    runs = [PolicyRun(measure(logs), logs) for logs in (served, [online(11.0)], [])]
    draw(tmp_path / "demo.png", "title", runs, WINDOW, SLO_S)
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_engines_differ_only_in_their_scheduler():
    hygen = {EngineKind.FIXED: {"latency_budget_s": 0.12}, EngineKind.SLO: {"slos": []}}
    for kind in EngineKind:
        assert not set(scheduler_settings(kind, hygen)) & set(ENGINE_SETTINGS)
    assert scheduler_settings(EngineKind.STOCK, hygen) == {}
    for kind, settings in hygen.items():
        found = scheduler_settings(kind, hygen)
        assert found["additional_config"] == {"hygen": settings}


def test_policies_are_found_by_name_in_the_order_that_shares_engines():
    assert [policy.name for policy in find_policies("slo, online-only")] == [
        "online-only",
        "slo",
    ]


@pytest.mark.parametrize(("names", "got"), [("slo,fifo", "fifo"), ("", "none"), (" , ", "none")])
def test_unknown_policies_are_refused_with_the_choices(names, got):
    with pytest.raises(ValueError, match=f"among online-only, .*, slo; got {got}"):
        find_policies(names)


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("flags\t\t: fpu sse2 avx2\n", "float32"),
        ("flags\t\t: fpu avx2 avx512f avx512_bf16\n", "bfloat16"),
        ("Features\t: fp asimd bf16\n", "bfloat16"),
        ("", "bfloat16"),
    ],
)
def test_number_format_of_the_demo_is_one_that_the_processor_has(
    cpuinfo: str, expected: str
) -> None:
    """An x86 processor without AVX-512 emulates bfloat16, and takes seconds for a step."""
    assert expected == number_format(cpuinfo)
