# SPDX-License-Identifier: Apache-2.0
"""Clocks that do not depend on the machine."""

import pytest

from hygen_vllm import HyGenScheduler
from hygen_vllm.operate.faults import PolicyFaults

STEP_S = 0.02


class SteppingClock:
    """Goes on by STEP_S with each step of a FakeEngine, and stands still meanwhile."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture(autouse=True)
def no_real_clock(monkeypatch):
    """Give schedulers made without a clock one of their own for the test, and hide no fault.

    What a scheduler does would else depend on how long the machine has been up and how busy it is.
    """
    defaults = HyGenScheduler.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "clock", SteppingClock())
    monkeypatch.setitem(defaults, "wall_clock", lambda: 0.0)
    monkeypatch.setattr(PolicyFaults, "are_raised", True)
