# SPDX-License-Identifier: Apache-2.0
"""What is counted of a request whose layers are in several groups, some with sliding windows."""

from types import SimpleNamespace

import pytest

from hygen_vllm.engine.state import EngineState


def block(block_id, ref_cnt=1, is_null=False):
    return SimpleNamespace(block_id=block_id, ref_cnt=ref_cnt, is_null=is_null)


NULL = block(0, ref_cnt=1, is_null=True)


def state_of(**groups):
    """Return a state with groups of blocks by name; those of `window` may begin with null ones."""
    state = object.__new__(EngineState)
    state.are_prefixes = [name != "window" for name in groups]
    state._managers = [
        SimpleNamespace(req_to_blocks={"r": blocks}, block_size=16) for blocks in groups.values()
    ]
    return state


REQUEST = SimpleNamespace(request_id="r")


@pytest.mark.parametrize("num_null", [0, 1, 100])
@pytest.mark.parametrize("num_shared", [0, 2])
def test_blocks_that_a_window_has_left_behind_are_nobodys(num_null, num_shared):
    """They are one null block again and again, and none of them comes free with the request."""
    own = [block(10 + i, ref_cnt=2 if i < num_shared else 1) for i in range(5)]
    state = state_of(window=[*[NULL] * num_null, *own])
    assert (5, 5 - num_shared) == (state.num_held(REQUEST), state.num_unshared(REQUEST))
    assert [10 + i for i in range(5)] == state.block_ids(REQUEST)
    assert [11] * (num_shared > 0) == state.last_shared(REQUEST)


def test_blocks_of_all_groups_count():
    """Each token has a place in each group."""
    whole, window = [block(i) for i in range(1, 7)], [NULL, NULL, block(7), block(8)]
    state = state_of(whole=whole, window=window)
    assert (8, 8) == (state.num_held(REQUEST), state.num_unshared(REQUEST))
