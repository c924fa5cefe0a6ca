# SPDX-License-Identifier: Apache-2.0
"""What is left out of a step in which everybody only decodes would have changed nothing."""

import pytest

from hygen_vllm.engine import step_builder
from hygen_vllm.engine.make_room import RoomMaker, room_of_decodes
from hygen_vllm.engine.step_builder import StepBuilder
from hygen_vllm.lab.bare_scheduler import Limits, make_scheduler
from tests.support.classes import HYGEN
from tests.support.fake_engine import FakeEngine
from tests.support.traffic import plan_traffic

pytestmark = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
LIMITS = {
    "plain": {},
    "few blocks": {"num_blocks": 40},
    "few slots": {"max_num_seqs": 3},
    "loras": {"max_loras": 2},
    "speculative": {"num_speculative_tokens": 3, "num_blocks": 100},
    "v2 runner": {"v2_runner": True, "num_blocks": 100},
}


def serve(is_async, name):
    """Serve random traffic of both classes to its end."""
    scheduler = make_scheduler(HYGEN[is_async], Limits(**LIMITS[name]), {"mode": "off"})
    engine = FakeEngine(scheduler, depth=2 if is_async else 1)
    waiting = plan_traffic(3, 60, offline_share=0.5, num_loras=4 if name == "loras" else 0)
    for step in range(400):
        while waiting and waiting[0].step <= step:
            engine.add(waiting.pop(0).request())
        engine.step()
    engine.run()


@pytest.mark.parametrize("name", LIMITS)
def test_room_of_decodes_is_that_which_is_found_by_looking(is_async, monkeypatch, name):
    """Nobody is preempted for it, and as many blocks are left."""
    num_short = 0

    def checked(state, num_online):
        nonlocal num_short
        found = room_of_decodes(state, num_online)
        if found is not None:
            num_short += 1
            options = {"num_online": num_online, "most_tokens_each": state.max_step_tokens}
            maker = RoomMaker(state, (), (), remaining_tokens=lambda _: 1.0, now_s=0.0, **options)
            assert maker.make_room(offline_is_stuck=False) == found
        return found

    monkeypatch.setattr(step_builder, "room_of_decodes", checked)
    serve(is_async, name)
    assert num_short > 0 or name in ("loras", "few blocks")


@pytest.mark.parametrize("name", LIMITS)
def test_order_of_running_requests_that_was_remembered_is_still_there(is_async, monkeypatch, name):
    """And as many of them are online."""
    put_online_first = StepBuilder._put_online_first
    num_remembered = 0

    def checked(builder):
        nonlocal num_remembered
        is_remembered = builder._in_order is not None
        found = put_online_first(builder)
        running = [*builder.state.running]
        if is_remembered and builder._in_order is not None:
            num_remembered += 1
            builder._in_order = None
            assert put_online_first(builder) == found
            assert running == builder.state.running
        return found

    monkeypatch.setattr(StepBuilder, "_put_online_first", checked)
    serve(is_async, name)
    assert num_remembered > 0
