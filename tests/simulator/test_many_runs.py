# SPDX-License-Identifier: Apache-2.0
"""Many simulations in processes of their own: what `hygen simulate` would have found, in order."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from hygen_vllm.lab.simulator.many_runs import arguments_of, simulate, simulate_all

FLAGS = {"profile": "a100-llama2-7b", "online": "poisson", "online_rate": 2.0, "seconds": 5.0}


def _timeless(result):
    return {name: value for name, value in result.items() if name != "wall_s"}


def test_flags_become_arguments_repeated_bare_or_left_out():
    flags = {"kv_blocks": 9, "slo": ["a", "b"], "unprofiled": True, "router": None, "x": False}
    expected = ["--kv-blocks", "9", "--slo", "a", "--slo", "b", "--unprofiled"]
    assert ["simulate", "--json", "-", *expected] == arguments_of(flags)


def test_runs_in_processes_find_what_one_here_finds_in_their_order(capfd):
    cases = [{**FLAGS, "policy": "online-only", "seed": seed} for seed in (1, 2)]
    results = simulate_all(cases, jobs=2)
    assert [_timeless(simulate(case)) for case in cases] == [*map(_timeless, results)]
    assert "2/2" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"profile": "nothing"}, "cannot read profile nothing"),
        ({"online": "nobody"}, "cannot read nobody"),
        ({"policy": "best"}, "invalid choice: 'best'"),
    ],
)
def test_run_that_fails_says_what_was_asked_and_why(flags, reason):
    with pytest.raises(RuntimeError, match=reason) as caught:
        simulate({**FLAGS, "policy": "online-only", **flags})
    assert "--online-rate 2.0" in str(caught.value)


CHILDREN = """
import os, time
from hygen_vllm.lab.simulator.many_runs import in_processes

def pid(_):
    print(os.getpid(), flush=True)
    time.sleep(60.0)

if __name__ == "__main__":
    for _ in in_processes(pid, [1, 2], 2):
        pass
"""


def test_processes_end_with_one_that_is_killed(tmp_path):
    """Who kills the command must not find its simulations running an hour later."""
    script = tmp_path / "children.py"
    script.write_text(CHILDREN, encoding="utf-8")
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        children = [int(parent.stdout.readline()) for _ in range(2)]
        parent.kill()
    until_s = time.monotonic() + 20.0
    while any(map(_runs, children)) and time.monotonic() < until_s:
        time.sleep(0.1)
    assert [False, False] == [*map(_runs, children)]


def _runs(pid):
    """Whether a process is there and not just waiting for somebody to ask how it ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):  # the latter if it ends while it is read
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
