# SPDX-License-Identifier: Apache-2.0
"""The policies that can be simulated, and what they make of the flags they are given."""

import subprocess
import sys

import pytest

from hygen_vllm.config import HyGenConfig
from hygen_vllm.simulator.policies import MARGIN, NAMES, POLICIES, PolicyInput, find_policy
from hygen_vllm.slo.slo import LatencyStats, Slo

ALONE = {
    "ttft": LatencyStats(0.2, 0.1, 0.4, 0.8),
    "tbt": LatencyStats(mean=0.020, p50=0.015, p90=0.030, p99=0.040),
}
GIVEN = PolicyInput(latency_budget_s=0.05, offline_rate_per_s=2.5, alone=ALONE)


def slo_settings(*texts, alone=ALONE):
    """Return the settings that the policy slo makes of SLOs."""
    slos = [Slo.parse(text) for text in texts]
    return find_policy("slo").settings(PolicyInput(slos=slos, alone=alone))


def test_policies_are_those_of_the_comparison():
    """Four of stock vLLM, four of HyGen, each found by its name."""
    stock = ("online-only", "offline-only", "vllm-fcfs", "vllm-priority")
    ours = ("online-first", "rate-capped", "fixed-budget", "slo")
    assert (*stock, *ours) == NAMES
    assert ours == tuple(policy.name for policy in POLICIES if policy.is_hygen)
    assert all(find_policy(name).name == name for name in NAMES)


def test_policies_serve_both_classes_unless_named_after_one():
    """The policies that show what one class gets alone are not given the other."""
    classes = {policy.name: (policy.has_online, policy.has_offline) for policy in POLICIES}
    assert (True, False) == classes.pop("online-only")
    assert (False, True) == classes.pop("offline-only")
    assert {(True, True)} == set(classes.values())


def test_policies_use_vllms_fcfs_but_for_one():
    """HyGen orders the classes itself; only vllm-priority leaves that to vLLM."""
    others = {policy.name: policy.vllm_policy for policy in POLICIES}
    assert "priority" == others.pop("vllm-priority")
    assert {"fcfs"} == set(others.values())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("online-only", {}),
        ("offline-only", {}),
        ("vllm-fcfs", {}),
        ("vllm-priority", {}),
        ("online-first", {"mode": "off"}),
        ("rate-capped", {"mode": "off", "offline_rate_per_s": 2.5}),
        ("fixed-budget", {"mode": "fixed", "latency_budget_s": 0.05}),
        ("slo", {}),
    ],
)
def test_policy_makes_its_settings_of_the_flags(name, expected):
    """Each takes the flags that concern it, and HyGen accepts what comes out."""
    settings = find_policy(name).settings(GIVEN)
    assert expected == settings
    HyGenConfig.from_mapping(settings, "test")


@pytest.mark.parametrize(
    ("name", "flag"), [("rate-capped", "--offline-rate"), ("fixed-budget", "--latency-budget-ms")]
)
def test_policy_without_its_flag_is_refused_in_one_line(name, flag):
    """The line says which flag the policy needs."""
    with pytest.raises(ValueError, match=f"policy {name} needs {flag}, ") as caught:
        find_policy(name).settings(PolicyInput())
    assert "\n" not in str(caught.value)


def test_unknown_policy_is_refused_with_the_choices():
    """A typo is answered with what can be typed."""
    with pytest.raises(ValueError, match=r"^policy must be one of ") as caught:
        find_policy("online_first")
    assert f"policy must be one of {', '.join(NAMES)}, got 'online_first'" == str(caught.value)


@pytest.mark.parametrize(
    ("texts", "expected_s"),
    [
        (["tbt_p99=45ms"], 0.045),
        (["tbt_p90=45ms", "tbt_p50=40ms"], 0.040),
        (["tbt_p99=+50%"], 0.060),
        (["tbt_p99=+50%", "tbt_p90=45ms", "ttft_p99=1ms"], 0.045),
    ],
)
def test_slo_policy_keeps_steps_below_the_tightest_tail(texts, expected_s):
    """A percentile of TBT bounds every step, less a margin for what predictions miss."""
    settings = slo_settings(*texts)
    assert "fixed" == settings["mode"]
    assert pytest.approx(MARGIN * expected_s) == settings["latency_budget_s"]


@pytest.mark.parametrize(
    ("texts", "share"),
    [
        (["tbt_mean=+10%", "ttft_mean=+1%"], 0.10),
        (["tbt_mean=30ms"], 0.50),
        (["tbt_mean=+10%", "tbt_p99=+5%"], 0.05),
        (["tbt_mean=+30%", "tbt_p99=44ms"], 0.10),
        (["tbt_mean=10ms"], 0.0),
    ],
)
def test_slo_policy_lets_steps_rise_by_the_share_a_mean_may(texts, share):
    """With a mean among the SLOs, the smallest rise of any of them is the tolerance of a step."""
    settings = slo_settings(*texts)
    assert {"mode", "interference_tolerance"} == set(settings)
    assert "tolerance" == settings["mode"]
    assert pytest.approx(share) == settings["interference_tolerance"]


@pytest.mark.parametrize("texts", [[], ["ttft_p99=0.5s"], ["ttft_mean=+10%"]])
def test_slo_policy_without_a_tbt_keeps_the_defaults(texts):
    """Only TBT is the time of a step; an SLO of TTFT is checked, not steered by."""
    assert {} == slo_settings(*texts)


def test_slo_policy_without_a_measurement_keeps_what_is_known():
    """A relative SLO of something that was not measured says nothing; others still count."""
    assert {} == slo_settings("tbt_mean=+10%", alone={})
    settings = slo_settings("tbt_mean=+10%", "tbt_p99=40ms", "tbt_p90=+1%", alone={})
    assert pytest.approx(MARGIN * 0.040) == settings["latency_budget_s"]


def test_naming_the_policies_loads_no_engine():
    """The command line lists them, and must not wait for vLLM to do so."""
    code = "import sys, hygen_vllm.simulator.policies\n"
    code += "print(sorted({'vllm', 'torch', 'numpy', 'hygen_vllm.scheduler'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[]\n" == done.stdout
