# SPDX-License-Identifier: Apache-2.0
"""Random traffic and control on real scheduler objects; see tests/support/scheduler_machine.py."""

import os

from hypothesis import HealthCheck, settings

from tests.support.scheduler_machine import (
    AsyncEverythingMachine,
    AsyncSchedulerMachine,
    EverythingMachine,
    SchedulerMachine,
)

COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck)}
FIXED = settings(
    max_examples=150, stateful_step_count=24, derandomize=True, database=None, **COMMON
)
"""The same traffic each time."""
RANDOM = settings(
    max_examples=int(os.environ.get("RANDOM_EXAMPLES", "100")),
    stateful_step_count=40,
    print_blob=True,
    **COMMON,
)
"""Other traffic each time; what failed is kept in .hypothesis and tried first."""

TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = FIXED
TestAsyncScheduler = AsyncSchedulerMachine.TestCase
TestAsyncScheduler.settings = FIXED


class RandomMachine(SchedulerMachine):
    """Its own class, for another setting."""


class AsyncRandomMachine(AsyncSchedulerMachine):
    """Its own class, for another setting."""


class RandomEverything(EverythingMachine):
    """Its own class, for another setting."""


class AsyncRandomEverything(AsyncEverythingMachine):
    """Its own class, for another setting."""


if "RANDOM_EXAMPLES" in os.environ:  # in the long tests: a failure takes minutes to shrink
    TestRandomEverything = RandomEverything.TestCase
    TestRandomEverything.settings = RANDOM
    TestAsyncRandomEverything = AsyncRandomEverything.TestCase
    TestAsyncRandomEverything.settings = RANDOM
TestRandomTraffic = RandomMachine.TestCase
TestRandomTraffic.settings = RANDOM
TestAsyncRandomTraffic = AsyncRandomMachine.TestCase
TestAsyncRandomTraffic.settings = RANDOM
