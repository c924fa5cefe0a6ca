# SPDX-License-Identifier: Apache-2.0
"""Clocks that do not depend on the machine."""

import itertools

import pytest

from hygen_vllm import HyGenScheduler

TICK_S = 1e-3


@pytest.fixture(autouse=True)
def no_real_clock(monkeypatch):
    """Give each scheduler made without a clock one that goes on a tick whenever it is read.

    What a scheduler does would else depend on how long the machine has been up and how busy it is.
    """
    ticks = itertools.count()
    defaults = HyGenScheduler.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "clock", lambda: TICK_S * next(ticks))
    monkeypatch.setitem(defaults, "wall_clock", lambda: 0.0)
