# SPDX-License-Identifier: Apache-2.0
"""The policies that can be simulated, and what they make of the flags they are given."""

import subprocess
import sys

import pytest

from hygen_vllm.config import HyGenConfig
from hygen_vllm.lab.policies import NAMES, POLICIES, PolicyInput, find_policy
from hygen_vllm.slo import Slo

GIVEN = PolicyInput(latency_budget_s=0.05, offline_rate_per_s=2.5)


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
    policy = find_policy(name)
    settings = policy.settings(GIVEN)
    assert expected == settings
    for own in policy.own_settings:
        settings.pop(own)
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


@pytest.mark.parametrize("texts", [["tbt_p99=45ms"], ["tbt_mean=+10%", "ttft_p95=+5%"]])
def test_slo_policy_hands_its_targets_to_the_scheduler(texts):
    """The scheduler steers by them itself; it is not told what online had alone."""
    given = PolicyInput(slos=[Slo.parse(text) for text in texts])
    settings = find_policy("slo").settings(given)
    assert {"slos": texts} == settings
    assert "slo" == HyGenConfig.from_mapping(settings, "test").gate_mode


def test_naming_the_policies_loads_no_engine():
    """The command line lists them, and must not wait for vLLM to do so."""
    code = "import sys, hygen_vllm.lab.policies\n"
    code += "heavy = {'vllm', 'torch', 'numpy', 'hygen_vllm.engine.scheduler'}\n"
    code += "print(sorted(heavy & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[]\n" == done.stdout
