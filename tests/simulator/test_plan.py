# SPDX-License-Identifier: Apache-2.0
"""`hygen plan` on a short trace: what it writes, what it adds up, and what it refuses."""

import json

import pytest

from hygen_vllm.lab.cli import main
from hygen_vllm.lab.plan.plan import offline_rates
from hygen_vllm.lab.plan.slot_job import SampledSlot
from hygen_vllm.lab.plan.slots import Slot

FLAGS = ["plan", "--profile", "a100-llama2-7b", "--jobs", "1"]
TRACE = ["--trace", "diurnal", "--online-rate", "3", "--seconds", "480", "--levels", "2"]


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """A plan: its figures, its report, its folder."""
    folder = tmp_path_factory.mktemp("plan")
    more = ["--slo", "tbt_p99=+20%", "--replicas", "3", "--gpu-hour-price", "2", "--out"]
    assert 0 == main([*FLAGS, *TRACE, *more, str(folder)])
    figures = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    return figures, (folder / "report.md").read_text(encoding="utf-8"), folder


def test_plan_has_text_figures_and_picture(plan):
    _, _, folder = plan
    assert {"plan.json", "plan.png", "report.md"} == {path.name for path in folder.iterdir()}


def test_plan_serves_less_offline_work_where_more_online_requests_come(plan):
    figures, _, _ = plan
    least, most = figures["sampled"]
    assert least["requests_per_s"] < most["requests_per_s"]
    assert figures["capacity_tokens_per_s"] > least["offline_tokens_per_s"]
    assert least["offline_tokens_per_s"] > most["offline_tokens_per_s"] > 0


def test_plan_adds_up_all_slots_of_all_engines(plan):
    figures, report, _ = plan
    rates = figures["slots"]["offline_tokens_per_s"]
    assert 12 == len(rates)
    assert pytest.approx(3 * sum(rates) * figures["slots"]["seconds"]) == figures["offline_tokens"]
    assert pytest.approx(3 * 480 / 3600) == figures["gpu_hours"]
    share = sum(rates) / len(rates) / figures["capacity_tokens_per_s"]
    assert pytest.approx(share) == figures["share"]
    assert pytest.approx(share * figures["gpu_hours"]) == figures["won_gpu_hours"]
    assert f"that is {2 * figures['won_gpu_hours']:,.2f}." in report


def test_plan_gives_each_of_several_engines_its_part_of_the_trace(plan):
    figures, _, _ = plan
    rates = figures["slots"]["requests_per_s"]
    assert pytest.approx(1.0, rel=0.15) == sum(rates) / len(rates)


def test_slots_between_those_simulated_get_what_lies_between_and_never_more_with_more_load():
    def slot(load):
        return Slot(0.0, (), load, (), 0.0)

    sampled = [
        (slot(load), SampledSlot(0.0, rate, {}, ran_out=False))
        for load, rate in ((0.1, 900.0), (0.2, 1100.0), (0.6, 200.0))
    ]
    loads = (0.0, 0.1, 0.2, 0.4, 0.6, 0.9)
    expected = [1000.0, 1000.0, 1000.0, 600.0, 200.0, 200.0]
    assert pytest.approx(expected) == offline_rates([slot(load) for load in loads], sampled)


def test_plan_of_too_few_offline_requests_says_so(plan, tmp_path, capsys):
    """They are all served, and more would have been: the figures are of these few."""
    few = tmp_path / "few.csv"
    few.write_text("num_prefill_tokens,num_decode_tokens\n100,9\n", encoding="utf-8")
    more = ["--offline", str(few), "--out", str(tmp_path / "plan")]
    assert 0 == main([*FLAGS, *TRACE, "--slo", "tbt_p99=+20%", *more])
    assert "Offline requests ran out" in capsys.readouterr().out
    assert "ran out" not in plan[1]


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--trace", "nowhere"], "cannot read nowhere"),
        (["--trace", "diurnal", "--profile", "nothing"], "cannot read profile nothing"),
        (["--trace", "diurnal", "--slo", "best"], "'best'"),
        (["--trace", "diurnal", "--offline", "nowhere"], "cannot read nowhere"),
        (["--trace", "diurnal", "--online-rate", "0.001", "--seconds", "9"], "no requests"),
    ],
)
def test_plan_of_bad_input_is_refused_in_one_line(flags, reason, tmp_path, capsys):
    assert 2 == main([*FLAGS, *flags, "--out", str(tmp_path / "plan")])
    error = capsys.readouterr().err
    assert reason in error
    assert 1 == error.count("\n")
