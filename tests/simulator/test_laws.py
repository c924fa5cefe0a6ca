# SPDX-License-Identifier: Apache-2.0
"""A simulated run that does not add up ends with an error that names the law."""

import pytest
from vllm.v1.core.sched.scheduler import Scheduler

from hygen_vllm.lab.bare_scheduler import Limits, make_request, make_scheduler
from hygen_vllm.lab.simulator.run_log import LawError, RunLog
from hygen_vllm.lab.simulator.virtual_engine import VirtualClock, VirtualEngine
from hygen_vllm.lab.workloads.arrivals import Arrival
from tests.support.simulation import Clocked, PolicyOf, engine_of, run_of


class Broken(Clocked, Scheduler):
    """vLLM's scheduler, which does something wrong once, before the step at `breaks_at_s`."""

    breaks_at_s = 5.0
    is_broken = False

    def schedule(self, *args, **kwargs):
        if self.clock() >= self.breaks_at_s and not self.is_broken:
            self.is_broken = True
            self.go_wrong()
        return super().schedule(*args, **kwargs)

    def go_wrong(self):
        pass


class Loses(Broken):
    def go_wrong(self):
        self.waiting.pop_request()


class Doubles(Broken):
    def go_wrong(self):
        self.waiting.prepend_request(self.waiting.peek_request())


class Swaps(Broken):
    """Loses one request and has another one twice: the numbers still add up."""

    def go_wrong(self):
        self.waiting.pop_request()
        self.waiting.prepend_request(self.waiting.peek_request())


class Leaks(Broken):
    def go_wrong(self):
        self.kv_cache_manager.block_pool.get_new_blocks(1)


class FreesTwice(Broken):
    def go_wrong(self):
        pool = self.kv_cache_manager.block_pool
        block_ids = self.kv_cache_manager.get_block_ids(self.running[0].request_id)[0]
        pool.free_blocks([pool.blocks[block_ids[0]]])


class SkipsTokens(Broken):
    breaks_at_s = 1.0

    def go_wrong(self):
        self.running[0].num_computed_tokens += 1


class ComputesAgain(Broken):
    def go_wrong(self):
        self.running[0].num_computed_tokens -= 1


class StopsEarly(Broken):
    def go_wrong(self):
        self.running[0].max_tokens -= 2


class GoesOnTooLong(Broken):
    def go_wrong(self):
        self.running[0].max_tokens += 2


class SaysTokensTwice(Broken):
    def update_from_output(self, *args):
        outputs = super().update_from_output(*args)
        if self.clock() == self.breaks_at_s:
            first = outputs[0].outputs[0]
            first.new_token_ids = 2 * first.new_token_ids
        return outputs


def serve(cls, until_s=100.0):
    """Serve a few requests, two at a time, with steps of one second."""
    policy = PolicyOf("broken", "vLLM with a mistake", cls=cls)
    online = [Arrival(0.0, 30, 12)] * 6
    return run_of(
        engine_of(max_num_seqs=2, max_num_batched_tokens=16), policy, online=online, until_s=until_s
    )


def test_run_without_a_mistake_keeps_all_laws():
    """What the tests below break holds otherwise."""
    assert 6 == serve(Broken).log.num_finished


@pytest.mark.parametrize(
    ("cls", "law"),
    [
        (Loses, "place: 6 arrived, 0 finished, 0 withdrawn, 5 here"),
        (Doubles, "place: 6 arrived, 0 finished, 0 withdrawn, 7 here"),
        (Leaks, "blocks: .* held and .* free of 399"),
        (FreesTwice, "blocks: .* held and .* free of 399"),
        (SkipsTokens, "going on: request online-0 had computed 16 tokens and goes on after 17"),
        (ComputesAgain, "going on: request online-0 had computed 33 tokens and goes on after 32"),
        (StopsEarly, "order: request online-0 finished at 11.0 as "),
        (SaysTokensTwice, "order: request online-0 finished at 13.0 as .* num_output_tokens=13"),
        (GoesOnTooLong, "order: request online-0 finished at 15.0 as "),
    ],
)
def test_mistake_of_a_scheduler_ends_the_run_with_the_law_it_broke(cls, law):
    """Within about a second of virtual time, and with numbers to begin from."""
    with pytest.raises(LawError, match=law) as caught:
        serve(cls)
    assert "\n" not in str(caught.value)


def test_requests_that_changed_places_are_noticed_at_the_end():
    """Counts that add up are not enough: each request by its name is in one place."""
    with pytest.raises(LawError, match=r"place: \['online-2', 'online-3'\] are in no place, or"):
        serve(Swaps, until_s=8.5)


def test_request_that_finishes_before_it_arrived_is_noticed():
    """Cause comes before effect."""
    scheduler = make_scheduler(Scheduler, Limits())
    log = RunLog(scheduler)
    engine = VirtualEngine(scheduler, VirtualClock(), lambda work, begins_s: 1.0, observer=log)
    log.arrived("online-0", Arrival(9.0, 8, 2), is_offline=False)
    engine.add(make_request("online-0", [1] * 8, max_tokens=2))
    engine.turn()
    with pytest.raises(LawError, match=r"order: request online-0 finished at 2\.0 as "):
        engine.turn()
