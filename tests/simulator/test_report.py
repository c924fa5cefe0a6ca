# SPDX-License-Identifier: Apache-2.0
"""What `hygen simulate` writes is what `hygen report` reads."""

import pytest

from hygen_vllm.lab.cli import main
from hygen_vllm.lab.report.result_file import read_result
from tests.support.simulation import simulate_command, simulate_flags


@pytest.mark.parametrize("policy", ["online-only", "vllm-fcfs", "slo"])
def test_result_of_a_simulation_is_one_that_the_report_draws(policy, tmp_path, capsys):
    """With charts, whatever the policy has no numbers for."""
    path, out = tmp_path / "result.json", tmp_path / "page.html"
    flags = [*simulate_flags(tmp_path), "--slo", "tbt_mean=+50%"]
    assert 0 == main(simulate_command(flags, policy=policy, json=str(path)))
    assert policy == read_result(path).policy
    assert 0 == main(["report", str(path), "--out", str(out)])
    assert f"{out}\n" == capsys.readouterr().out
    assert 6 <= out.read_text(encoding="utf-8").count("<svg")


@pytest.mark.parametrize(
    ("dropped", "flag"),
    [("--online", "--online-rate"), ("--offline", "--offline-requests")],
)
def test_flag_about_a_workload_that_is_not_given_is_remarked_on(dropped, flag, tmp_path, capsys):
    """On stderr; the other workload is served."""
    flags = simulate_flags(tmp_path)
    place = flags.index(dropped)
    del flags[place : place + 2]
    assert 0 == main(simulate_command(flags, flag, "1", policy="vllm-fcfs"))
    assert f"{flag} has no effect without {dropped}\n" in capsys.readouterr().err
