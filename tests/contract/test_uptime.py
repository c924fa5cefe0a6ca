# SPDX-License-Identifier: Apache-2.0
"""How long the machine has been up changes nothing: times are only ever compared."""

import pytest

from hygen_vllm.lab.bare_scheduler import Limits, make_request, make_scheduler
from tests.support.classes import HYGEN
from tests.support.fake_engine import FakeEngine

JUST_STARTED_S, MINUTES_S, YEARS_S = 5.0, 1000.0, 10 * 365 * 86400.0
STEP_S = 0.0625
"""A sixteenth of a second, which adds up without rounding at any of these times."""
TARGETS = ["tbt_mean=+20%", "ttft_mean=+20%", "tbt_p99=100ms"]
NUM_STEPS = 400


def schedules_of(is_async, hygen, started_s):
    """Return the tokens of each step of an engine on a machine that has been up for so long."""
    now_s = started_s
    clocks = {"clock": lambda: now_s, "wall_clock": lambda: now_s}
    limits = Limits(num_blocks=120, max_num_seqs=6)
    engine = FakeEngine(make_scheduler(HYGEN[is_async], limits, hygen, **clocks), 1 + is_async)
    for number in range(NUM_STEPS):
        slo_class = "online" if number % 7 == 0 else "offline"
        prompt = [(131 * number + 7 * i) % 1000 for i in range(8 + 5 * (number % 9))]
        engine.add(
            make_request(
                f"{slo_class}-{number}",
                prompt,
                slo_class=slo_class,
                max_tokens=4 + number % 8,
                arrival_time=now_s,
                extra_args={"tenant": f"tenant-{number % 3}"},
            )
        )
        engine.step()
        now_s += STEP_S
    return engine.schedules


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    "hygen",
    [
        {},
        {"slos": TARGETS, "slo_window_s": 10.0},
        {"offline_max_wait_s": 2.0},
    ],
    ids=["default", "slos", "wait"],
)
def test_schedule_is_the_same_however_long_the_machine_has_been_up(is_async, hygen):
    """Just started, for a quarter of an hour, for years."""
    expected = schedules_of(is_async, hygen, MINUTES_S)
    assert any(name.startswith("offline") for step in expected for name in step)
    for started_s in (JUST_STARTED_S, YEARS_S):
        assert expected == schedules_of(is_async, hygen, started_s)
