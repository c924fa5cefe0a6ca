# SPDX-License-Identifier: Apache-2.0
"""Cases that random runs found, each as small as it gets."""

import pytest

from hygen_vllm.lab.bare_scheduler import Limits, make_request, make_scheduler
from tests.support.classes import HYGEN, STOCK
from tests.support.fake_engine import FakeEngine

ASYNC = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


class Pair:
    """An engine under test and a stock one that sees its online requests only."""

    def __init__(self, is_async, **limits):
        limits = Limits(**{"prefix_caching": False, **limits})
        depth = 2 if is_async else 1
        self.mixed = FakeEngine(make_scheduler(HYGEN[is_async], limits, {"mode": "off"}), depth)
        self.alone = FakeEngine(make_scheduler(STOCK[is_async], limits), depth)
        self.num_added = 0

    def add(self, slo_class, num_tokens, max_tokens=1, **options):
        prompt = [(31 * self.num_added + 7 * i) % 1000 for i in range(num_tokens)]
        self.num_added += 1
        for engine in (self.mixed, self.alone)[: 2 if slo_class == "online" else 1]:
            name = f"{slo_class}-{self.num_added}"
            engine.add(
                make_request(name, prompt, slo_class=slo_class, max_tokens=max_tokens, **options)
            )

    def steps(self, count, **options):
        """Step both engines; return the online tokens of each step, with and without offline."""
        both = []
        for _ in range(count):
            outputs = [engine.step(**options) for engine in (self.mixed, self.alone)]
            tokens = [o.num_scheduled_tokens if o else {} for o in outputs]
            both.append([{r: n for r, n in t.items() if r.startswith("online")} for t in tokens])
        return [mixed for mixed, _ in both], [alone for _, alone in both]


@ASYNC
def test_adapter_of_an_online_request_that_only_awaits_its_last_token_is_free(is_async):
    """vLLM counts adapters of scheduled requests only, so offline must not keep the slot taken."""
    pair = Pair(is_async, max_loras=1)
    pair.add("online", 1, max_tokens=2, lora=2)
    first = pair.steps(1)
    pair.add("online", 1, lora=1)
    pair.add("offline", 1, max_tokens=2, lora=2)
    assert first[0] == first[1]
    mixed, alone = pair.steps(6)
    assert alone == mixed


@ASYNC
def test_blocks_of_a_capped_chunk_are_all_that_an_arrival_takes(is_async):
    """Of two arrivals the first takes the blocks of its chunk only: room is made for the second."""
    options = {"long_prefill_token_threshold": 8}
    pair = Pair(is_async, num_blocks=18, scheduler_options=options)
    pair.add("offline", 22, max_tokens=9)
    mixed, alone = pair.steps(2)
    pair.add("online", 40)
    pair.add("online", 40)
    mixed, alone = pair.steps(8)
    assert alone == mixed


@ASYNC
def test_a_decode_that_needs_no_block_takes_none_from_an_arrival(is_async):
    """An upper bound of what running online requests take must not keep room from being made."""
    pair = Pair(is_async, num_blocks=13)
    pair.add("offline", 4, max_tokens=9)
    pair.add("online", 1, max_tokens=4)
    pair.steps(1)
    pair.add("online", 44)
    mixed, alone = pair.steps(6)
    assert alone == mixed


@ASYNC
def test_throttled_step_still_makes_room_for_a_request_without_prefill(is_async):
    """Deferring prefills does not defer a request with one token to compute."""
    pair = Pair(is_async, max_num_seqs=2)
    pair.add("offline", 1, max_tokens=9)
    pair.add("online", 1, max_tokens=9)
    pair.steps(2)
    pair.add("online", 1)
    mixed, alone = pair.steps(2, throttle_prefills=True)
    assert alone == mixed


@ASYNC
def test_watermark_counts_only_where_online_alone_would_meet_it(is_async):
    """vLLM keeps the watermark free only while requests run: offline ones do not count."""
    pair = Pair(is_async, num_blocks=18, scheduler_options={"watermark": 0.2})
    pair.add("offline", 4, max_tokens=20)
    pair.steps(2)
    pair.add("online", 64)
    mixed, alone = pair.steps(3)
    assert alone == mixed


@ASYNC
def test_prefix_held_by_a_victim_counts_among_the_blocks_an_arrival_takes(is_async):
    """Preempting the request that shares a prefix makes its cached blocks free ones to be taken."""
    limits = Limits(num_blocks=18, max_num_batched_tokens=128)
    engine = FakeEngine(make_scheduler(HYGEN[is_async], limits, {"mode": "off"}), 1 + is_async)
    prompts = {"offline-1": range(17), "offline-2": range(500, 532), "online-1": range(36)}
    for name, prompt in prompts.items():
        slo_class = name.partition("-")[0]
        engine.add(make_request(name, list(prompt), slo_class=slo_class, max_tokens=9))
        output = engine.step()
    assert 20 == output.num_scheduled_tokens["online-1"]
