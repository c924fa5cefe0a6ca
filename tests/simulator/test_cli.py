# SPDX-License-Identifier: Apache-2.0
"""`hygen simulate` as a command: its result, its errors, and the same result from the same seed."""

import json
import os
import re
import subprocess
import sys

import pytest

from hygen_vllm.lab.cli import main
from tests.support.processes import REPOSITORY
from tests.support.simulation import simulate_command, simulate_flags

STATISTICS = {"mean", "p50", "p90", "p99"}


@pytest.fixture
def base(tmp_path):
    """Flags that name a profile and a workload of 20 online and 30 offline requests."""
    return simulate_flags(tmp_path)


@pytest.fixture
def simulated(base, capsys):
    """A function that runs the command and returns its result and what it said on stderr."""

    def run(*more, policy="online-first"):
        assert 0 == main(simulate_command(base, *more, policy=policy))
        output = capsys.readouterr()
        assert 1 == output.out.count("\n")
        return json.loads(output.out), output.err

    return run


def without_wall_s(text):
    """Return a result file but for the only number that is not virtual."""
    text, count = re.subn(r'"wall_s": [\d.e-]+', '"wall_s": 0', text)
    assert count == 1
    return text


# --- result ------------------------------------------------------------------------------------


def test_result_has_exactly_the_documented_keys(simulated):
    """Other programs read it by these names."""
    result, _ = simulated("--slo", "tbt_p99=45ms", "--seconds", "1.25", "--seed", "3")
    top = ["policy", "profile", "seed", "virtual_s", "wall_s", "steps", "online", "offline"]
    assert [*top, "total_tokens_per_s", "slo", "details"] == list(result)
    assert {"finished", "tokens_per_s", "ttft_s", "tbt_s"} == set(result["online"])
    assert STATISTICS == set(result["online"]["ttft_s"]) == set(result["online"]["tbt_s"])
    expected = {"finished", "tokens_per_s", "prefix_hit_rate", "preemptions"}
    assert expected == set(result["offline"])
    (row,) = result["slo"]
    assert {"slo", "limit_s", "measured_s", "met", "windows"} == set(row)
    assert {"length_s", "count", "kept", "worst_of_limit"} == set(row["windows"])
    assert ("online-first", 3, 1.25) == (result["policy"], result["seed"], result["virtual_s"])


def test_json_file_holds_what_stdout_would(base, tmp_path, capsys):
    """With a file, stdout stays empty."""
    path = tmp_path / "result.json"
    assert 0 == main(simulate_command(base))
    expected = without_wall_s(capsys.readouterr().out)
    assert 0 == main([*simulate_command(base), "--json", str(path)])
    assert "" == capsys.readouterr().out
    same = without_wall_s(path.read_text(encoding="utf-8")).replace(f', "json": "{path}"', "")
    assert expected == same


def test_engine_flags_reach_the_engine(simulated):
    """Each limit that was given replaces the profile's."""
    limits = ("--kv-blocks", "90", "--max-tokens-per-step", "32", "--max-seqs", "4")
    result, said = simulated(*limits, "--max-model-len", "50", "--stepping", "async")
    engine = result["details"]["engine"]
    assert (90, 32, 4) == tuple(
        engine[name] for name in ("num_kv_blocks", "max_num_batched_tokens", "max_num_seqs")
    )
    assert (50, True) == (engine["max_model_len"], engine["is_async"])
    shortened = result["details"]["shortened"]
    assert shortened > 0
    assert f"hygen simulate: {shortened} requests were cut to 50 tokens\n" in said


def test_workload_flags_reach_the_workload(simulated):
    """Fewer requests of either class, and only those of the seconds that are simulated."""
    flags = ("--offline-requests", "5", "--online-rate", "0.25", "--seconds", "20")
    result, _ = simulated(*flags)
    assert {"online": 5, "offline": 5} == result["details"]["arrived"]


def test_disturbances_reach_the_device(simulated):
    """A device half as fast with a stall needs longer; noise is another run."""
    quick, _ = simulated(policy="offline-only")
    slow, _ = simulated("--slowdown", "0:2", "--stall", "0.5:3", policy="offline-only")
    noisy, _ = simulated("--noise", "0.1", policy="offline-only")
    assert pytest.approx(2 * quick["virtual_s"] + 3) == slow["virtual_s"]
    assert quick["virtual_s"] != noisy["virtual_s"]


def test_predictor_error_reaches_the_scheduler(simulated):
    """Its predictions are off by about what was asked for; without, by little."""
    good, _ = simulated()
    bad, _ = simulated("--predictor-error", "0.2")
    assert good["details"]["predictor_mape"] < 0.03
    assert 0.1 < bad["details"]["predictor_mape"] < 0.35


@pytest.mark.parametrize(
    ("policy", "flags", "expected"),
    [
        ("rate-capped", ("--offline-rate", "2.5"), {"mode": "off", "offline_rate_per_s": 2.5}),
        (
            "fixed-budget",
            ("--latency-budget-ms", "60"),
            {"mode": "fixed", "latency_budget_s": 0.06},
        ),
        ("slo", (), {}),
        (
            "slo",
            ("--setting", "mode=slo", "--setting", "offline_order=fcfs"),
            {"mode": "slo", "offline_order": "fcfs"},
        ),
    ],
)
def test_policy_flags_reach_the_settings(simulated, policy, flags, expected):
    """And the settings are in the result."""
    result, said = simulated(*flags, policy=policy)
    assert expected == result["details"]["settings"]
    assert "no effect" not in said


def test_seed_reaches_the_device(simulated):
    """It draws the noise; without noise the same requests are the same run."""
    runs = [
        simulated("--noise", noise, "--seed", seed, policy="online-only")[0]["online"]
        for noise in ("0.1", "0")
        for seed in ("1", "2")
    ]
    assert runs[0] != runs[1]
    assert runs[2] == runs[3]


# --- SLOs --------------------------------------------------------------------------------------


def test_relative_slo_is_resolved_against_online_only(simulated):
    """The same online requests, served alone by stock vLLM, are what it is relative to."""
    alone, _ = simulated("--slo", "tbt_mean=+50%", policy="online-only")
    result, _ = simulated("--slo", "tbt_mean=+50%", "--slo", "ttft_p99=+10%")
    by_mean, by_p99 = result["slo"]
    assert pytest.approx(1.5 * alone["online"]["tbt_s"]["mean"]) == by_mean["limit_s"]
    assert pytest.approx(1.1 * alone["online"]["ttft_s"]["p99"]) == by_p99["limit_s"]
    assert result["online"]["tbt_s"]["mean"] == by_mean["measured_s"]
    online_only = result["details"]["online_only"]["tbt"]
    assert alone["online"]["tbt_s"] == {name: online_only[name] for name in STATISTICS}
    assert [True] == [row["met"] for row in alone["slo"]], "alone is within 50 % of itself"


@pytest.mark.parametrize("slo", ["tbt_mean=+20%", "ttft_p95=1000ms"])
def test_slo_policy_hands_the_slos_to_the_scheduler(simulated, slo):
    """It steers by them itself, without being told what online had alone."""
    result, _ = simulated("--slo", slo, policy="slo")
    assert {"slos": [slo]} == result["details"]["settings"]
    assert slo == result["slo"][0]["slo"]


def test_slo_of_a_class_that_is_not_served_is_unknown(simulated):
    """Neither met nor failed."""
    result, _ = simulated("--slo", "tbt_mean=+5%", "--slo", "ttft_p99=1s", policy="offline-only")
    windows = {"length_s": 900.0, "count": 0, "kept": 0, "worst_of_limit": None}
    unknown = {"measured_s": None, "met": None, "windows": windows}
    assert {"slo": "tbt_mean=+5%", "limit_s": None, **unknown} == result["slo"][0]
    assert {"slo": "ttft_p99=1000ms", "limit_s": 1.0, **unknown} == result["slo"][1]


# --- seeds -------------------------------------------------------------------------------------

PROCESS = ("--online", "poisson", "--online-rate", "2", "--seconds", "15", "--noise", "0.05")


def test_same_seed_gives_the_same_bytes(base, capsys):
    """In this process and in a new one whose hashes differ; another seed differs."""
    flags = [
        *simulate_command(base, *PROCESS, "--stepping", "async", "--kv-blocks", "90"),
        "--seed",
        "7",
    ]
    texts = []
    for seed in ("7", "7", "8"):
        assert 0 == main([*flags, "--seed", seed])
        texts.append(without_wall_s(capsys.readouterr().out))
    assert texts[0] == texts[1]
    assert json.loads(texts[0])["offline"]["preemptions"] > 0
    first, other = (json.loads(text) for text in texts[1:])
    for name in ("online", "steps"):
        assert first[name] != other[name]
    done = subprocess.run(
        [sys.executable, "-m", "hygen_vllm.lab.cli", *flags],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONHASHSEED": "1"},
    )
    assert texts[0] == without_wall_s(done.stdout)


def test_step_of_few_tokens_holds_as_few_requests(simulated):
    """Who lowers the tokens of a step alone need not think of the requests."""
    result, _ = simulated("--max-tokens-per-step", "4")
    engine = result["details"]["engine"]
    assert (4, 4) == (engine["max_num_batched_tokens"], engine["max_num_seqs"])
