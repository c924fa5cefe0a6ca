# SPDX-License-Identifier: Apache-2.0
"""The seconds of a simulated step: what the device says, and what disturbs it."""

import math
from dataclasses import dataclass

import numpy as np
import pytest

from hygen_vllm.config import ConfigError
from hygen_vllm.cost.profile import Profile, save_profile
from hygen_vllm.lab.profile.batch_shapes import BatchShape
from hygen_vllm.lab.simulator.device_model import DeviceModel, save_device
from hygen_vllm.lab.simulator.step_time import Disturbance, PricedDevice, StepClock, load_step_times
from hygen_vllm.lab.simulator.step_work import StepWork
from tests.support.step_traces import COST, ENGINE, composition

SHAPE = BatchShape(contexts=(5, 9), chunks=((16, 0), (3, 40)))
WORK = StepWork.of(SHAPE)
DEVICE = DeviceModel(2, 4, 2, 8, 2, 1e5, 1e5, 0.5, 0.5, tokens=(1, 8), operators_s=(1.0, 2.0))


@dataclass(frozen=True)
class TwoSeconds:
    """A device whose steps take 2 s, whatever is in them."""

    def step_seconds(self, work):
        return 2.0


def seconds_at(times_s, seed=0, **disturbance):
    """Return the seconds of steps that begin at these times."""
    clock = StepClock(TwoSeconds(), Disturbance(**disturbance), seed)
    return [clock.step_seconds(WORK, time_s) for time_s in times_s]


def test_work_of_a_batch_has_its_sums():
    """A step's work is the requests of the batch, and prices see the same sums."""
    assert (2, 14, ((16, 0), (3, 40))) == (WORK.num_decodes, WORK.context_tokens, WORK.chunks)
    assert 21 == WORK.total_tokens == SHAPE.total_tokens
    assert composition(SHAPE) == WORK.composition()


def test_clock_undisturbed_says_what_the_device_says():
    """Without a disturbance the seconds are the device's own, at any time."""
    assert [2.0, 2.0, 2.0] == seconds_at([0.0, 5.0, 1e6])


def test_slowdown_counts_from_its_time_on():
    """A step that begins just before is not slower; one that begins at the time is."""
    assert [2.0, 2.0, 3.0, 3.0] == seconds_at([0.0, 9.99, 10.0, 50.0], slowdowns=((10.0, 1.5),))


def test_slowdowns_replace_each_other():
    """The latest one counts, in order of time however they are given, and 1 ends them."""
    slowdowns = ((30.0, 1.0), (10.0, 1.5), (20.0, 3.0))
    assert [2.0, 3.0, 6.0, 2.0] == seconds_at([0.0, 15.0, 20.0, 31.0], slowdowns=slowdowns)
    assert [2.0, 6.0] == seconds_at([0.0, 25.0], slowdowns=slowdowns), "one may be passed over"


def test_stall_lengthens_one_step():
    """The first step that begins at its time or after takes longer by it, no other step does."""
    assert [2.0, 2.5, 2.0] == seconds_at([9.0, 10.0, 12.5], stalls=((10.0, 0.5),))
    assert [2.0, 2.5, 2.0] == seconds_at([9.0, 11.0, 13.5], stalls=((10.0, 0.5),))


def test_stalls_of_one_step_add_up():
    """What falls due before the next step begins is added to it, and no slowdown stretches it."""
    stalls = ((20.0, 4.0), (3.0, 0.5), (4.0, 0.25))
    expected = [2.0, 2.0 * 3 + 0.75, 2.0 * 3 + 4.0]
    assert expected == seconds_at([0.0, 5.0, 20.0], stalls=stalls, slowdowns=((1.0, 3.0),))


@pytest.mark.parametrize("noise", [0.03, 0.3])
def test_noise_has_mean_one_and_the_given_spread(noise):
    """Times are lognormal about the device's, which stays their mean; the spread is of the log."""
    shares = np.array(seconds_at(range(40_000), noise=noise)) / 2.0
    assert pytest.approx(1.0, abs=5 * noise / math.sqrt(40_000)) == shares.mean()
    assert pytest.approx(noise, rel=0.02) == np.log(shares).std()
    assert pytest.approx(-0.5 * noise**2, abs=5 * noise / math.sqrt(40_000)) == (
        np.log(shares).mean()
    )


def test_noise_is_seeded():
    """The same seed gives the same times, another seed others, and without noise seeds are idle."""
    times_s = seconds_at(range(5), seed=1, noise=0.1)
    assert times_s == seconds_at(range(5), seed=1, noise=0.1)
    assert times_s != seconds_at(range(5), seed=2, noise=0.1)
    assert seconds_at(range(5), seed=1) == seconds_at(range(5), seed=2)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"noise": -0.1}, "noise must be >= 0, got -0.1"),
        ({"noise": math.nan}, "noise must be >= 0, got nan"),
        ({"noise": math.inf}, "noise must be >= 0, got inf"),
        ({"slowdowns": ((0.0, 2.0), (-1.0, 2.0))}, "a slowdown needs a time >= 0"),
        ({"slowdowns": ((1.0, 0.0),)}, "and a factor > 0"),
        ({"slowdowns": ((1.0, math.inf),)}, "and a factor > 0"),
        ({"slowdowns": ((math.nan, 2.0),)}, "a slowdown needs a time >= 0"),
        ({"stalls": ((-1.0, 2.0),)}, "a stall needs a time >= 0"),
        ({"stalls": ((1.0, -0.1),)}, "and seconds >= 0"),
        ({"stalls": ((1.0, math.nan),)}, "and seconds >= 0"),
        ({"stalls": ((1.0, math.inf),)}, "and seconds >= 0"),
    ],
)
def test_disturbance_that_cannot_be_is_refused(values, reason):
    """Times never run backwards and steps never take less than nothing."""
    with pytest.raises(ValueError, match=reason) as caught:
        Disturbance(**values)
    assert "\n" not in str(caught.value)


def test_step_times_are_the_device_models_where_there_is_one(tmp_path):
    """A device model beside a profile is the truth, and the profile only what is believed."""
    file = save_profile(Profile(ENGINE, "modelled", COST), tmp_path)
    save_device(DEVICE, tmp_path, notes="")
    assert DEVICE == load_step_times(tmp_path) == load_step_times(file)


def test_step_times_are_the_profiles_where_there_is_no_device_model(tmp_path):
    """Then a step takes exactly its price."""
    save_profile(Profile(ENGINE, "measured", COST), tmp_path)
    device = load_step_times(str(tmp_path))
    assert PricedDevice(COST) == device
    assert COST.seconds(composition(SHAPE)) == device.step_seconds(WORK)


@pytest.mark.parametrize("name", ["a100-llama2-7b", "cpu-smollm2-135m"])
def test_step_times_of_a_profile_that_ships_are_found_by_name(name):
    """With a device model or without one, a step of more work takes longer."""
    device = load_step_times(name)
    small, large = StepWork(1, 100, ()), StepWork(1, 100, ((512, 0),))
    assert name.startswith("a100") == isinstance(device, DeviceModel)
    assert 0 < device.step_seconds(small) < device.step_seconds(large)


def test_step_times_of_no_profile_are_refused_in_one_line(tmp_path):
    """The line names what was asked for."""
    with pytest.raises(ConfigError, match="cannot read profile nowhere: ") as caught:
        load_step_times("nowhere")
    assert "\n" not in str(caught.value)
