# SPDX-License-Identifier: Apache-2.0
"""Parts of the policy that experiments leave out are where they are said to be."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

from harness.mechanisms import MECHANISMS, without

from hygen_vllm.config import HyGenConfig


@pytest.mark.parametrize("name", MECHANISMS)
def test_mechanism_can_be_left_out_and_comes_back(name):
    """Its settings are settings, and what it replaces is there before and after."""
    mechanism = MECHANISMS[name]
    assert mechanism.settings or mechanism.replaced
    for setting in mechanism.settings:
        assert setting.partition("=")[0] in HyGenConfig.model_fields
    with without(name) as settings:
        assert [*mechanism.settings] == settings
    with without(name):
        pass


def test_mechanism_acts_where_its_target_or_set_up_is():
    """One for percentiles of TBT does so under any of several targets, and no other."""

    def can_act(name, *where, is_cold=False):
        return MECHANISMS[name].can_act(*where, is_cold=is_cold)

    assert can_act("spending of tails", "azure", "ttft_mean=+20% tbt_p99=+10%")
    assert not can_act("spending of tails", "azure", "ttft_p99=+10%")
    assert can_act("stages", "yi-34b", "tbt_mean=+20%")
    assert not can_act("stages", "azure", "tbt_mean=+20%")
    assert can_act("growth forecast", "azure", "tbt_mean=+20%")
    assert can_act("limit to come", "azure", "tbt_p99=+10%", is_cold=True)
    assert not can_act("limit to come", "azure", "tbt_p99=+10%")
