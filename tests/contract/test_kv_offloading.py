# SPDX-License-Identifier: Apache-2.0
"""vLLM's OffloadingConnector beside HyGen: who is offloaded, who is loaded, and when."""

from collections import Counter

import pytest

from hygen_vllm.lab.bare_scheduler import Limits, make_request, make_scheduler
from tests.support.classes import HYGEN, STOCK
from tests.support.fake_engine import FakeEngine, expected_tokens
from tests.support.kv_transfer import offloading
from tests.support.scheduler_laws import check_blocks, check_empty, check_places

pytestmark = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
BLOCK = 4


def engine_of(is_async, hygen=None, extra=None, cls=None, **limits):
    transfer = offloading(1 << 20, **(extra or {}))
    limits = Limits(**{"num_blocks": 40, "max_num_seqs": 4, "kv_transfer": transfer, **limits})
    scheduler = make_scheduler(
        cls or HYGEN[is_async], limits, None if cls else {"mode": "off", **(hygen or {})}
    )
    return FakeEngine(scheduler, depth=2 if is_async else 1)


def tokens_of(number, length):
    return [(number * 131 + i * 3) % 1000 for i in range(length)]


def offline(number, length=20, max_tokens=24, **options):
    tokens = tokens_of(number, length)
    name = f"offline-{number}"
    return make_request(name, tokens, slo_class="offline", max_tokens=max_tokens, **options)


def online(number, length=60, max_tokens=6, **options):
    tokens = tokens_of(500 + number, length)
    return make_request(f"online-{number}", tokens, max_tokens=max_tokens, **options)


def serve_burst(engine):
    """Let offline requests decode, preempt them by online ones, serve everything to the end."""
    requests = [offline(number) for number in range(3)]
    for request in requests:
        engine.add(request)
    for _ in range(15):
        engine.step()
    requests += [online(number) for number in range(2)]
    for request in requests[3:]:
        engine.add(request)
    while engine.scheduler.has_unfinished_requests():
        engine.step()
        check_places(engine.scheduler)
        check_blocks(engine.scheduler)
    engine.run()
    check_empty(engine.scheduler)
    for request in requests:
        expected = expected_tokens(request.prompt_token_ids, request.max_tokens)
        assert expected == engine.outputs[request.request_id]
    assert engine.num_preempted
    return engine


def num_computed(engine, prefix):
    """Tokens computed for all requests with a name that starts so."""
    counts = Counter()
    for schedule in engine.schedules:
        counts.update(schedule)
    return sum(count for name, count in counts.items() if name.startswith(prefix))


def test_preempted_offline_request_goes_on_where_it_was(is_async):
    """Its prompt and the tokens it made are loaded; less than a block of each is computed again."""
    engine = serve_burst(engine_of(is_async))
    assert engine.worker.offloading.loaded
    least = 3 * (20 + 24 - 1)
    assert least <= num_computed(engine, "offline") <= least + 3 * BLOCK


def test_prompt_only_that_was_asked_for_is_kept(is_async):
    """`offload_prompt_only` of the user's: made tokens are computed again."""
    engine = serve_burst(engine_of(is_async, extra={"offload_prompt_only": True}))
    assert max(engine.worker.offloading.stored.values()) <= 20 // BLOCK
    assert num_computed(engine, "offline") > 3 * (20 + 24 - 1) + 3 * BLOCK


def test_online_is_kept_out_beside_offline(is_async):
    """Blocks of offline requests only are stored."""
    engine = serve_burst(engine_of(is_async))
    assert {f"offline-{number}" for number in range(3)} == set(engine.worker.offloading.stored)


def test_online_is_offloaded_if_asked_for(is_async):
    """`offload_online`: prompts of online requests are stored, as in stock vLLM."""
    engine = serve_burst(engine_of(is_async, {"offload_online": True}))
    stored = engine.worker.offloading.stored
    assert [60 // BLOCK] * 2 == [stored["online-0"], stored["online-1"]]


def test_without_offline_all_is_as_in_stock_vllm(is_async):
    """Same schedules, same blocks stored and loaded."""
    engines = [engine_of(is_async), engine_of(is_async, cls=STOCK[is_async])]
    for engine in engines:
        for round_number in range(2):
            for number in range(3):
                request = online(number, length=30, max_tokens=12)
                request.request_id += f"-{round_number}"
                engine.add(request)
            engine.run()
            assert engine.scheduler.reset_prefix_cache()
    hygen, stock = engines
    assert stock.schedules == hygen.schedules
    assert stock.worker.offloading.loaded == hygen.worker.offloading.loaded != {}
    assert stock.worker.offloading.stored == hygen.worker.offloading.stored != {}


def test_online_requests_go_to_the_tier_again_once_offline_work_is_gone(is_async):
    """One offline request in the morning does not take the tier from all of the day."""
    engine = engine_of(is_async)
    engine.add(offline(0))
    during = online(0)
    engine.add(during)
    engine.run()
    after = online(1)
    engine.add(after)
    assert {"max_offload_tokens": 0} == during.kv_transfer_params
    assert {"max_offload_tokens": after.num_prompt_tokens} == after.kv_transfer_params


def test_limit_of_the_client_is_kept(is_async):
    """`max_offload_tokens` in kv_transfer_params decides, for online requests too."""
    engine = engine_of(is_async)
    engine.add(offline(0))
    request = online(0)
    request.kv_transfer_params = {"max_offload_tokens": 8}
    engine.add(request)
    engine.run()
    assert 2 == engine.worker.offloading.stored["online-0"]


def add_again(engine, request):
    """Add a request that was served before, under another name; return it."""
    request.request_id = f"{request.request_id}-again"
    engine.add(request)
    return request


def evicted(engine, number):
    """Serve an offline request, so that it is offloaded, and empty the prefix cache."""
    engine.add(offline(number))
    engine.run()
    assert engine.scheduler.reset_prefix_cache()


def test_load_of_offline_leaves_the_blocks_that_are_reserved(is_async):
    """With too few it waits, with enough it starts."""
    engine = engine_of(is_async)
    evicted(engine, 0)
    reserve = engine.scheduler.hygen.kv_reserve
    engine.add(online(1, length=8, max_tokens=20))
    engine.step()
    again = add_again(engine, offline(0))
    blocks_to_start = reserve.blocks_to_start
    reserve.blocks_to_start = lambda request: blocks_to_start(request) + 36
    for _ in range(4):
        engine.step()
    assert not engine.worker.offloading.loaded
    reserve.blocks_to_start = lambda request: blocks_to_start(request) + 20
    engine.run()
    assert engine.worker.offloading.loaded
    assert expected_tokens(again.prompt_token_ids, 24) == engine.outputs["offline-0-again"]


def test_load_of_online_waits_for_no_offline_prefill(is_async):
    """An online request whose KV is to be loaded starts at once beside a long offline prefill."""
    engine = engine_of(is_async, {"offload_online": True}, num_blocks=60, max_num_seqs=4)
    engine.add(online(0, length=80))
    engine.run()
    assert engine.scheduler.reset_prefix_cache()
    for number in range(2):
        engine.add(offline(number, length=90, max_tokens=2))
    engine.step()
    engine.step()
    again = add_again(engine, online(0, length=80))
    engine.step()
    engine.step()
    assert "online-0-again" in engine.worker.offloading.loaded
    engine.run()
    assert expected_tokens(again.prompt_token_ids, 6) == engine.outputs["online-0-again"]


def test_aborted_while_it_is_loaded_leaves_nothing(is_async):
    """Blocks of a request that goes while its KV comes are given back."""
    engine = engine_of(is_async)
    evicted(engine, 0)
    add_again(engine, offline(0))
    engine.step()
    assert engine.worker.offloading.loaded
    engine.abort("offline-0-again")
    for _ in range(4):
        engine.step()
    check_empty(engine.scheduler)
