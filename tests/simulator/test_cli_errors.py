# SPDX-License-Identifier: Apache-2.0
"""What `hygen simulate` refuses, in one line, and what it remarks on."""

import json

import pytest

from hygen_vllm.cost.profile import Profile, save_profile
from hygen_vllm.lab.cli import main
from hygen_vllm.lab.simulator.simulated_engine import SimulatedEngine
from tests.support.simulation import engine_of, simulate_command, simulate_flags
from tests.support.step_traces import COST, ENGINE


@pytest.fixture
def flags(tmp_path):
    """Flags that name a profile and a workload."""
    return simulate_flags(tmp_path)


def refusal_of(arguments, capsys):
    """Return the one line that refuses a command; stdout has nothing."""
    try:
        status = main(arguments)
    except SystemExit as stop:
        status = stop.code
    output = capsys.readouterr()
    assert (2, "") == (status, output.out)
    assert 1 == output.err.count("\n")
    assert "\r" not in output.err, "no progress bar before the line"
    return output.err


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("--policy fifo", "--policy"),
        ("--profile nowhere", "cannot read profile nowhere: no such file"),
        ("--online nowhere", "cannot read nowhere: no such file, nor one of azure, mooncake, "),
        ("--offline nowhere", "cannot read nowhere: no such file, nor one of arxiv, sharegpt, "),
        ("--online-rate 0", "--online-rate: must be > 0, got 0"),
        ("--online-rate 100", "rate_per_s must be <= 0.53, the rate of this part of the trace"),
        ("--offline-requests 0", "--offline-requests: must be >= 1, got 0"),
        ("--slo tbt_p75=1s", "an SLO is METRIC_STATISTIC=LIMIT"),
        ("--slo tbt_p99=0s", "the limit of an SLO must be > 0"),
        ("--seconds 0", "--seconds: must be > 0, got 0"),
        ("--seconds inf", "--seconds: must be > 0, got inf"),
        ("--seed x", "--seed"),
        ("--seed -1", "--seed must be >= 0, got -1"),
        ("--json /no/such/folder/x.json", "--json must name a file in a folder that exists"),
        ("--json /", "--json must name a file in a folder that exists, got /"),
        ("--kv-blocks 0", "--kv-blocks: must be >= 1, got 0"),
        ("--kv-blocks 1", "a request has 2 tokens at least, got 1 KV blocks that hold 0"),
        ("--max-model-len 1", "a request has 2 tokens at least"),
        ("--kv-blocks 20 --max-model-len 100", "20 KV blocks hold 76 tokens, fewer than"),
        ("--max-tokens-per-step 1 --max-seqs 1", "max_num_batched_tokens 1 leave no room"),
        (
            "--max-tokens-per-step 4 --max-seqs 8",
            "holds no more requests, got 8",
        ),
        ("--max-seqs 0", "--max-seqs: must be >= 1, got 0"),
        ("--stepping both", "--stepping"),
        ("--tokenizer /no/such/folder", "--tokenizer must name a folder, got /no/such/folder"),
        ("--noise -0.1", "noise must be >= 0, got -0.1"),
        ("--noise loud", "--noise"),
        ("--slowdown 5", "--slowdown: must be like 200:1.3, got 5"),
        ("--slowdown 5:x", "--slowdown: must be like 200:1.3, got 5:x"),
        ("--slowdown 5:0", "a slowdown needs a time >= 0 and a factor > 0"),
        ("--stall 5:-1", "a stall needs a time >= 0 and seconds >= 0"),
        ("--latency-budget-ms 0", "--latency-budget-ms: must be > 0, got 0"),
        ("--offline-rate 0", "--offline-rate: must be > 0, got 0"),
        (
            "--setting idle_step_s",
            "must be like idle_step_s=0.05, got idle_step_s",
        ),
        ("--setting mode=[", "--setting: mode: not a value: ["),
        ("--policy slo --setting idle_steps_s=1", 'did you mean "idle_step_s"?'),
        (
            "--policy slo --setting idle_step_s=0",
            "idle_step_s must be greater than 0, got 0",
        ),
        (
            "--policy slo --setting offload_online=1",
            "offload_online must be a valid boolean, got 1",
        ),
        (
            "--policy slo --slo tbt_p99=45ms --setting slos=[tbt_p99=+5%]",
            "--setting slos=['tbt_p99=+5%'] contradicts --policy slo and its flags",
        ),
        (
            "--policy online-first --setting mode=slo",
            "--setting mode=slo contradicts --policy online-first",
        ),
        (
            "--policy slo --setting mode=off",
            "--setting makes this mode off, which is --policy online-first, not slo",
        ),
        (
            "--policy slo --setting latency_budget_s=0.05",
            "--setting makes this mode fixed, which is --policy fixed-budget, not slo",
        ),
        ("--predictor-error 20", "--predictor-error: must be a share from 0 to 1"),
        ("--policy slo --slo tbt --online nowhere", "an SLO is METRIC_STATISTIC=LIMIT"),
        ("--policy fixed-budget --online nowhere", "policy fixed-budget needs"),
        ("--policy rate-capped", "policy rate-capped needs --offline-rate"),
        ("--policy fixed-budget", "policy fixed-budget needs --latency-budget-ms"),
        ("--sedonds 5", "unrecognized arguments: --sedonds 5"),
    ],
)
def test_bad_flag_is_refused_in_one_line(flags, more, reason, capsys):
    """The line says what was wrong with it; nothing is simulated."""
    assert reason in refusal_of(simulate_command(flags, *more.split()), capsys)


@pytest.mark.parametrize("name", ["--profile", "--policy", "--json"])
def test_flag_that_is_needed_is_asked_for(flags, name, capsys):
    """Without profile, policy or a place for the result there is nothing to do."""
    arguments = simulate_command(flags)
    i = arguments.index(name)
    assert name in refusal_of(arguments[:i] + arguments[i + 2 :], capsys)


@pytest.mark.parametrize(
    ("policy", "kept", "needed"),
    [
        ("vllm-fcfs", None, "--online or --offline"),
        ("online-only", "--offline", "--online"),
        ("offline-only", "--online", "--offline"),
    ],
)
def test_policy_without_requests_is_refused(flags, policy, kept, needed, capsys):
    """A policy that serves one class is not content with the other."""
    workload = flags[flags.index(kept) :][:2] if kept else []
    arguments = simulate_command([*flags[:2], *workload], policy=policy)
    assert f"policy {policy} needs {needed}\n" in refusal_of(arguments, capsys)


def test_workload_that_cannot_be_read_is_refused_by_file_and_line(flags, tmp_path, capsys):
    """Also where no file has the times that an online workload needs."""
    broken = tmp_path / "broken.csv"
    broken.write_text("num_prefill_tokens,num_decode_tokens\n5,x\n", encoding="utf-8")
    arguments = simulate_command(flags, "--offline", str(broken))
    assert f"{broken}:2: cannot read '5,x'" in refusal_of(arguments, capsys)
    timeless = flags[flags.index("--offline") + 1]
    arguments = simulate_command(flags, "--online", timeless)
    assert f"{timeless} has no times: say at which rate" in refusal_of(arguments, capsys)


def test_profile_that_does_not_know_its_kv_blocks_asks_for_them(flags, tmp_path, capsys):
    """With --kv-blocks it can be simulated."""
    unknown = {**ENGINE.as_mapping(), "num_kv_blocks": 0}
    profile = Profile(type(ENGINE).from_mapping(unknown), "measured", COST)
    more = ["--profile", str(save_profile(profile, tmp_path / "unknown").parent)]
    assert "got 0 KV blocks that hold 0" in refusal_of(simulate_command(flags, *more), capsys)
    assert 0 == main(simulate_command(flags, *more, "--kv-blocks", "300"))
    assert 300 == json.loads(capsys.readouterr().out)["details"]["engine"]["num_kv_blocks"]


@pytest.mark.parametrize(
    ("policy", "more", "said"),
    [
        ("online-first", "--latency-budget-ms 60", "--latency-budget-ms"),
        ("slo", "--offline-rate 2", "--offline-rate"),
        ("vllm-fcfs", "--predictor-error 0.1", "--predictor-error"),
    ],
)
def test_flag_without_effect_is_remarked_on(flags, policy, more, said, capsys):
    """On stderr, in a line of its own; the result is written all the same."""
    assert 0 == main(simulate_command(flags, *more.split(), policy=policy))
    output = capsys.readouterr()
    assert f"hygen simulate: {said} has no effect under {policy}\n" == output.err
    assert policy == json.loads(output.out)["policy"]


def test_run_that_is_stuck_exits_1_with_one_line(flags, monkeypatch, capsys):
    """The failure is no fault of the arguments, and nobody wants a traceback."""
    monkeypatch.setattr("hygen_vllm.lab.simulator.simulation.STUCK_S", 0.5)
    monkeypatch.setattr(SimulatedEngine, "load", lambda *_, **__: engine_of(num_kv_blocks=5))
    assert 1 == main(simulate_command(flags, policy="offline-only"))
    output = capsys.readouterr()
    assert "" == output.out
    assert output.err.startswith("hygen: nothing has run for ")
    assert 1 == output.err.count("\n")
