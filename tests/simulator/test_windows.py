# SPDX-License-Identifier: Apache-2.0
"""A quiet time saves nothing up: targets hold in the windows of the batch that comes after it."""

import pytest

from hygen_vllm.lab.simulator.many_runs import simulate

QUIET_S, END_S, WINDOW_S = 300, 550, 150


@pytest.mark.timeout(400)
def test_targets_hold_in_each_window_after_a_quiet_time():
    """Half of the run without offline work, then more of it than can be done.

    Where the quiet time was saved up, the mean TBT of windows went to twice its limit.
    """
    result = simulate(
        {
            "profile": "a100-llama2-7b",
            "policy": "slo",
            "online": "poisson",
            "online_rate": 1.1,
            "offline": "arxiv",
            "offline_requests": 500,
            "offline_from": QUIET_S,
            "seconds": END_S,
            "seed": 3,
            "slo": ["tbt_mean=+20%", "ttft_mean=+20%"],
            "setting": f"slo_window_s={WINDOW_S}",
        }
    )
    assert result["offline"]["tokens_per_s"] > 0.25 * 1900 * (1 - QUIET_S / END_S)
    for row in result["slo"]:
        windows = row["windows"]
        assert (WINDOW_S, (END_S - WINDOW_S) // 10 + 1) == (windows["length_s"], windows["count"])
        assert windows["kept"] >= 0.95 * windows["count"]
        assert windows["worst_of_limit"] < 1.1
