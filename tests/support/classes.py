# SPDX-License-Identifier: Apache-2.0
"""The scheduler classes under test, by whether they schedule asynchronously."""

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from hygen_vllm import HyGenAsyncScheduler, HyGenScheduler

STOCK = {False: Scheduler, True: AsyncScheduler}
HYGEN = {False: HyGenScheduler, True: HyGenAsyncScheduler}
