# SPDX-License-Identifier: Apache-2.0
"""Several simulated engines: nothing is lost, one is as good as none, bad input is said."""

import json

import pytest

from hygen_vllm.fleet.routing import ROUTERS
from hygen_vllm.lab.cli import main

ENGINE = ["simulate", "--profile", "a100-llama2-7b", "--seed", "3"]
OFFLINE = ["--offline", "arxiv", "--offline-requests", "30"]
BOTH = [*OFFLINE, "--online", "poisson", "--online-rate", "2", "--seconds", "20"]


def run(tmp_path, *arguments, policy="slo", load=BOTH):
    """Return the result of a simulation."""
    path = tmp_path / "result.json"
    more = ["--policy", policy, "--json", str(path)]
    assert 0 == main([*ENGINE, *load, *arguments, *more])
    return json.loads(path.read_text())


def timeless(result):
    return {name: value for name, value in result.items() if name not in ("wall_s", "details")}


@pytest.mark.parametrize("policy", ["slo", "vllm-priority"])
def test_fleet_of_one_is_one_engine(tmp_path, policy):
    """With a router that has no choice."""
    alone = timeless(run(tmp_path, policy=policy))
    fleet = run(tmp_path, "--replicas", "1", "--router", "round-robin", policy=policy)
    assert alone == {name: fleet[name] for name in alone}


@pytest.mark.parametrize("router", ROUTERS)
def test_every_request_is_served_once(tmp_path, router):
    """By one engine or another, until all is done."""
    result = run(tmp_path, "--replicas", "4", "--router", router, load=OFFLINE)
    each = [one["offline"]["finished"] for one in result["per_replica"]]
    assert 30 == result["offline"]["finished"] == sum(each)
    assert all(each)
    assert (4, router) == (result["replicas"], result["router"])


@pytest.mark.parametrize("router", ROUTERS)
def test_same_seed_gives_the_same_result(tmp_path, router):
    """However often."""
    first, second = (run(tmp_path, "--replicas", "3", "--router", router) for _ in range(2))
    assert timeless(first) == timeless(second)


def test_targets_are_relative_to_the_fleet(tmp_path):
    """To online requests alone on the same engines."""
    result = run(tmp_path, "--replicas", "2", "--slo", "tbt_mean=+30%", "--seconds", "40")
    assert "slo" == result["router"]
    assert result["slo"][0]["met"]


def test_online_alone_can_be_simulated(tmp_path):
    """With the router that asks for loads, too."""
    result = run(tmp_path, "--replicas", "2", policy="online-only")
    assert 0 == result["offline"]["finished"]
    assert result["online"]["finished"] > 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--replicas", "0"], "must be >= 1"),
        (["--replicas", "2", "--router", "best"], "invalid choice"),
        (["--replicas", "2", "--policy", "vllm-fcfs"], "needs a policy of HyGen's"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(tmp_path, capsys, arguments, reason):
    """With exit status 2."""
    more = ["--policy", "slo", "--json", str(tmp_path / "x.json")]
    try:
        status = main([*ENGINE, *BOTH, *more, *arguments])
    except SystemExit as end:
        status = end.code
    assert 2 == status
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert reason in error
