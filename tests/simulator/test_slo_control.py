# SPDX-License-Identifier: Apache-2.0
"""Mode `slo` on real schedulers, where what happens is not what one would wish."""

import math
import random

import pytest
from vllm.v1.request import RequestStatus

from hygen_vllm.lab.bare_scheduler import make_request
from tests.support.classes import HYGEN
from tests.support.virtual_device import GPU, LIMITS, VirtualDevice

BOTH = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
SLOS = ["tbt_mean=+20%", "tbt_p99=+20%", "ttft_mean=+20%", "ttft_p99=+20%"]
HOUR_S = 3600.0
ONLINE_EVERY = 12


class Serving:
    """Online and offline requests on a device, under targets of every kind."""

    def __init__(self, is_async):
        self.device = VirtualDevice(HYGEN[is_async], GPU, {"slos": SLOS})
        self.controller = self.device.scheduler.hygen.slo_control.controller
        self._rng = random.Random(0)
        self._number = 0

    def add(self, slo_class, prompt_tokens=None, max_tokens=20, **options):
        self._number += 1
        tokens = prompt_tokens or self._rng.randrange(20, 200)
        prompt = [(self._number * 131 + j * 7) % 1000 for j in range(tokens)]
        request_id = f"{slo_class}-{self._number}"
        self.device.add(
            make_request(request_id, prompt, slo_class=slo_class, max_tokens=max_tokens, **options)
        )
        return request_id

    def steps(self, count, has_online=True):
        """Run steps; return the offline tokens in them."""
        before = len(self.device.steps)
        for number in range(count):
            if has_online and number % ONLINE_EVERY == 0:
                self.add("online")
            self.device.step()
        return sum(num_offline for _, _, num_offline in self.device.steps[before:])

    def finish(self):
        while self.device.scheduler.has_unfinished_requests():
            self.device.step()

    def longest_s(self, metric):
        return self.controller.measures.real[metric].percentile_s(1.0)


@pytest.fixture
def serving(is_async):
    """Return an engine that has served both classes for a while, with offline work to come."""
    found = Serving(is_async)
    for _ in range(200):
        found.add("offline", max_tokens=50)
    found.steps(200)
    return found


@BOTH
@pytest.mark.parametrize("offset_s", [-2 * HOUR_S, -HOUR_S / 4, 2 * HOUR_S])
def test_arrival_by_a_clock_that_jumped_is_not_believed(serving, offset_s):
    """The wall clock was set: nobody waited for hours, nor will a request come in two."""
    late = serving.add("online", arrival_time=serving.device.now_s + offset_s)
    serving.steps(100)
    assert 20 == len(serving.device.outputs[late])
    assert serving.longest_s("ttft") < 2.0
    assert serving.longest_s("tbt") < 2.0


@BOTH
def test_online_class_that_comes_back_after_an_hour_is_measured_anew(serving):
    """What was saved or owed has faded, nothing of the hour is counted, and both classes go on."""
    serving.finish()
    serving.device.now_s += HOUR_S
    for _ in range(200):
        serving.add("offline", max_tokens=50)
    assert serving.steps(1000) > 0, "within ten seconds"
    assert serving.longest_s("ttft") < 2.0
    for target in serving.controller.targets:
        assert math.isfinite(target.allowance.factor)
        assert 0 < target.alone_s < 2.0
    serving.finish()
    assert serving.controller.online.first_waiting_s(math.inf) == math.inf


@BOTH
def test_offline_alone_goes_on_while_online_is_away(serving):
    """Steps are then as long as arrivals allow, for as long as it takes."""
    serving.steps(100, has_online=False)
    assert serving.steps(200, has_online=False) > 200
    lengths_s = [seconds for seconds, _, _ in serving.device.steps[-100:]]
    assert max(lengths_s) < 0.15


@BOTH
def test_one_enormous_online_prompt_is_served_and_offline_goes_on_after_it(serving):
    """It takes several whole steps; its TTFT is its own fault, not a debt of offline work."""
    tokens = LIMITS.max_model_len - 30
    enormous = serving.add("online", prompt_tokens=tokens)
    serving.steps(60)
    assert 20 == len(serving.device.outputs[enormous])
    assert serving.steps(1500) > 1000
    caps_s = [target.cap_s for target in serving.controller.targets if hasattr(target, "cap_s")]
    assert all(math.isfinite(cap_s) and cap_s > 0 for cap_s in caps_s)


@BOTH
def test_request_that_is_aborted_before_its_first_token_is_no_longer_waited_for(serving):
    """Neither by the measurement nor by the engine that online has to itself."""
    gone = serving.add("online", prompt_tokens=1000)
    serving.device.step()
    serving.device.scheduler.finish_requests([gone], RequestStatus.FINISHED_ABORTED)
    serving.finish()
    assert serving.controller.online.first_waiting_s(math.inf) == math.inf


@BOTH
def test_offline_work_goes_on_after_the_device_stood_still(serving):
    """For half a minute, which online requests would have lost alone, too.

    Where it was taken for interference, nothing was done until the window had passed.
    """
    before = serving.steps(600)
    serving.device.stall_s = 30.0
    serving.steps(20)
    assert serving.steps(600) > 0.3 * before > 0
