# SPDX-License-Identifier: Apache-2.0
"""A waiting online request starts in the next step, whatever offline work holds."""

import random
from collections import Counter

import pytest
from vllm.v1.core.encoder_cache_manager import EncoderCacheManager
from vllm.v1.request import RequestStatus

from hygen_vllm.cost.learner import CostLearner
from hygen_vllm.cost.step_cost import StepCost
from hygen_vllm.engine import arrivals as online_arrivals
from hygen_vllm.engine.slo_control import SloControl
from hygen_vllm.engine.state import EngineState, PrefixProbe
from hygen_vllm.lab.bare_scheduler import Limits, make_request, make_scheduler
from tests.support.classes import HYGEN
from tests.support.fake_engine import FakeEngine, expected_tokens

pytestmark = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


def engine_of(is_async, hygen=None, **limits):
    cls = HYGEN[is_async]
    return FakeEngine(make_scheduler(cls, Limits(**limits), hygen), depth=2 if is_async else 1)


def offline(i, num_tokens=12, **options):
    prompt = [(i * 37 + j) % 1000 for j in range(num_tokens)]
    return make_request(f"offline-{i}", prompt, slo_class="offline", **options)


def online(i, num_tokens=12, **options):
    prompt = [(500 + i * 91 + j) % 1000 for j in range(num_tokens)]
    return make_request(f"online-{i}", prompt, slo_class="online", **options)


def fill(engine, requests, steps=12):
    for request in requests:
        engine.add(request)
    for _ in range(steps):
        engine.step()


@pytest.mark.parametrize("first", [7, 8, 9])
def test_online_decodes_go_on_where_blocks_come_free_a_step_late(is_async, first):
    """As with a KV connector and steps in flight: room is made a step before it is needed."""
    engine = engine_of(is_async, {"mode": "off"}, max_num_seqs=8, num_blocks=60)
    engine.scheduler.defer_block_free = is_async
    names = [f"online-{i}" for i in range(3)]
    for i in range(3):
        engine.add(online(i, num_tokens=first + i, max_tokens=60))
    for i in range(30):
        engine.add(offline(i, num_tokens=8 + i % 5, max_tokens=40))
    while not all(engine.outputs[name] for name in names):
        engine.step()
    for _ in range(55):
        output = engine.step()
        assert {*names} <= output.num_scheduled_tokens.keys()
    assert any(request.num_preemptions for request in engine.scheduler.requests.values())
    engine.run()
    assert 33 == len(engine.finished)


def test_full_slots_are_freed_for_online(is_async):
    """At max_num_seqs an offline request with least to lose makes way in the same step."""
    engine = engine_of(is_async, {"mode": "off"}, max_num_seqs=4)
    fill(engine, [offline(i, num_tokens=12 + 8 * i, max_tokens=60) for i in range(4)])
    assert 4 == len(engine.scheduler.running)
    engine.add(online(0))
    output = engine.step()
    assert 12 == output.num_scheduled_tokens["online-0"]
    assert {"offline-0"} == output.preempted_req_ids
    engine.run()
    assert expected_tokens([j % 1000 for j in range(12)], 60) == engine.outputs["offline-0"]


def test_kv_blocks_are_freed_for_online(is_async):
    """An online prompt that needs the blocks of offline requests gets them in the same step."""
    engine = engine_of(is_async, {"mode": "off"}, num_blocks=41)
    fill(engine, [offline(i, num_tokens=36, max_tokens=30) for i in range(3)])
    engine.add(online(0, num_tokens=60))
    output = engine.step()
    assert 60 == output.num_scheduled_tokens["online-0"]
    engine.run()
    assert 4 == len(engine.finished)


def test_offline_is_kept_where_preempting_it_would_not_help(is_async):
    """If online cannot start even without offline, offline keeps its KV blocks."""
    engine = engine_of(is_async, {"mode": "off"}, num_blocks=41, max_num_batched_tokens=256)
    fill(engine, [online(0, num_tokens=120, max_tokens=30), offline(0, max_tokens=60)])
    engine.add(online(1, num_tokens=120))
    engine.step()
    assert 0 == engine.scheduler.hygen.offline_log.num_preemptions
    assert 2 == len(engine.scheduler.running)


def test_online_request_that_has_no_room_takes_nothing_from_offline(is_async):
    """It waits for another online one. Until then offline requests go on as without it."""
    steps = []
    for has_another in (False, True):
        engine = engine_of(is_async, {"mode": "off"}, num_blocks=101, max_num_batched_tokens=128)
        others = (offline(i, num_tokens=20, max_tokens=60) for i in range(4))
        fill(engine, [online(0, num_tokens=200, max_tokens=60), *others])
        if has_another:
            engine.add(online(1, num_tokens=380, max_tokens=2))
        steps.append([engine.step().num_scheduled_tokens for _ in range(20)])
        engine.run()
        assert 5 + has_another == len(engine.finished)
    assert steps[0] == steps[1]
    assert any("offline-0" in tokens for tokens in steps[0])


def test_first_offline_request_after_a_pause_starts_wherever_its_prompt_fits(is_async):
    """None that ran before is waited for."""
    engine = engine_of(is_async, {"mode": "off"})
    fill(engine, [offline(0, max_tokens=3)])
    assert 1 == len(engine.finished)
    engine.add(offline(1, max_tokens=3))
    engine.step()
    assert 0 == engine.scheduler.hygen.kv_reserve.num_running


def test_request_that_was_not_expected_gets_no_more_than_those_that_were(is_async, monkeypatch):
    """A running prefill is shortened, which leaves tokens to one that was to get none."""

    def shorten(_, share, *__):
        share.prefill_left, share.arrival_prefill_left = 20, 0

    engine = engine_of(is_async, {"slos": ["tbt_p99=+20%"]}, max_num_batched_tokens=64)
    engine.add(offline(0, max_tokens=60))
    engine.step()
    engine.add(online(0, num_tokens=400))
    engine.step()
    monkeypatch.setattr(SloControl, "shorten_online", shorten)
    engine.add(online(1, num_tokens=300))
    for _ in range(6):
        tokens = engine.step().num_scheduled_tokens
        assert tokens["online-0"] == 20
        assert "online-1" not in tokens


@pytest.mark.parametrize("sharing", ["nobody", "offline pairs", "each arrival with a victim"])
def test_burst_looks_at_each_arrival_and_victim_a_few_times(is_async, sharing, monkeypatch):
    """However many come at once, and however many make way: what they take is added up."""
    num_looks = Counter()

    def count(place, name):
        function = getattr(place, name)

        def counted(*arguments):
            num_looks[name] += 1
            return function(*arguments)

        monkeypatch.setattr(place, name, counted)

    num_requests = 100
    limits = {"max_num_seqs": 256, "max_num_batched_tokens": 4096, "num_blocks": 3 * num_requests}
    engine = engine_of(is_async, {"mode": "off"}, **limits)
    for number in range(num_requests):
        first = number // 2 * 2 if sharing == "offline pairs" else number
        prompt = [first, first, first, 5, number, 2, 3]
        engine.add(make_request(f"offline-{number}", prompt, slo_class="offline", max_tokens=60))
    for _ in range(6):
        engine.step()
    for number in range(num_requests):
        first = number if sharing == "each arrival with a victim" else 500 + number
        prompt = [first, first, first, 5, number, *range(7)]
        engine.add(make_request(f"online-{number}", prompt, slo_class="online", max_tokens=5))
    count(online_arrivals.Hits, "num_held")
    count(EngineState, "num_unshared")
    count(EngineState, "block_holders")
    output = engine.step()
    assert len(output.preempted_req_ids) > num_requests / 2
    assert sum(name.startswith("online") for name in output.num_scheduled_tokens) > 70
    assert num_looks["num_held"] <= 2 * num_requests
    assert num_looks["num_unshared"] <= 4 * num_requests
    assert num_looks["block_holders"] <= 1


def test_lora_slot_is_freed_for_online(is_async):
    """An online request whose adapter has no slot takes that of an offline one."""
    engine = engine_of(is_async, {"mode": "off"}, max_loras=1)
    fill(engine, [offline(0, lora=1, max_tokens=60), offline(1, max_tokens=60)])
    engine.add(online(0, lora=2))
    output = engine.step()
    assert "online-0" in output.num_scheduled_tokens
    assert {"offline-0"} == output.preempted_req_ids
    engine.run()
    assert 3 == len(engine.finished)


def test_nobody_is_preempted_for_an_online_request_without_a_lora_slot(is_async):
    """Another online request holds the only one, and vLLM passes those over that lack it."""
    engine = engine_of(is_async, {"mode": "off"}, max_loras=1, max_num_seqs=3)
    fill(engine, [online(0, lora=1, max_tokens=60), *(offline(i, max_tokens=90) for i in range(3))])
    engine.add(online(1, lora=2))
    for _ in range(30):
        output = engine.step()
        assert not output.preempted_req_ids
    assert "online-0" not in engine.finished
    engine.run()
    assert 5 == len(engine.finished)


def test_running_adapters_never_exceed_max_loras(is_async):
    """Offline requests that are skipped keep their adapter's slot counted."""
    engine = engine_of(is_async, {"latency_budget_s": 1e-9}, max_loras=2)
    fill(engine, [online(0, max_tokens=40)], steps=2)
    for i in range(12):
        engine.add(offline(i, lora=1 + i % 4))
        engine.add(online(1 + i, lora=1 + (i + 2) % 4))
        engine.step()
        loras = {r.lora_request.lora_int_id for r in engine.scheduler.running if r.lora_request}
        assert len(loras) <= 2
    engine.run()
    assert 25 == len(engine.finished)


def image(identifier, offset, length):
    from vllm.multimodal.inputs import (
        MultiModalFeatureSpec,
        MultiModalKwargsItem,
        PlaceholderRange,
    )

    return MultiModalFeatureSpec(
        data=MultiModalKwargsItem.dummy(),
        modality="image",
        identifier=identifier,
        mm_position=PlaceholderRange(offset=offset, length=length),
    )


def test_encoder_budget_and_cache_go_to_online_first(is_async):
    """Offline images neither use up the encoder of a step nor keep its cache from online."""
    engine = engine_of(is_async, {"mode": "off"}, max_num_batched_tokens=64)
    scheduler = engine.scheduler
    scheduler.max_num_encoder_input_tokens = 40
    scheduler.encoder_cache_manager = EncoderCacheManager(cache_size=40)
    held = offline(0, num_tokens=120, mm_features=[image("a", 50, 30)])
    fill(engine, [held], steps=1)
    assert scheduler.encoder_cache_manager.num_freeable_slots == 10
    engine.add(offline(1, num_tokens=60, mm_features=[image("b", 5, 8)]))
    engine.add(online(0, num_tokens=60, mm_features=[image("c", 10, 40)]))
    output = engine.step()
    assert [0] == output.scheduled_encoder_inputs["online-0"]
    assert {"online-0": 60}.items() <= output.num_scheduled_tokens.items()
    assert not {"offline-0", "offline-1"} & set(output.scheduled_encoder_inputs)
    engine.run()
    assert 3 == len(engine.finished)


def test_offline_image_that_has_to_wait_for_the_encoder_holds_up_no_text(is_async):
    """Online images come without a pause: others go first, and it runs when they end."""
    engine = engine_of(is_async, {"mode": "off"}, max_num_batched_tokens=64, num_blocks=400)
    scheduler = engine.scheduler
    scheduler.max_num_encoder_input_tokens = 40
    scheduler.encoder_cache_manager = EncoderCacheManager(cache_size=80)
    num_online = 0
    for step in range(350):
        while num_online < 3 + step // 2:
            images = [image(f"c{num_online}", 60, 20)]
            engine.add(online(num_online, num_tokens=80, mm_features=images, max_tokens=2))
            num_online += 1
        if step == 2:
            engine.add(offline(99, num_tokens=60, mm_features=[image("b", 5, 8)]))
            for number in range(8):
                engine.add(offline(number, num_tokens=8, max_tokens=2))
        engine.step()
    assert {f"offline-{number}" for number in range(8)} <= set(engine.finished)
    engine.run()
    assert num_online + 9 == len(engine.finished)


@pytest.mark.parametrize(
    "hygen", [{"mode": "off"}, {"latency_budget_s": 0.5}, {"min_chunk_tokens": 4}]
)
def test_running_online_request_comes_to_its_next_image_as_if_alone(is_async, hygen):
    """Offline images that hold the encoder's cache by then give way."""
    schedules = []
    for num_offline in (0, 4):
        engine = engine_of(is_async, hygen, max_num_batched_tokens=64, num_blocks=400)
        scheduler = engine.scheduler
        scheduler.max_num_encoder_input_tokens = 40
        scheduler.encoder_cache_manager = EncoderCacheManager(cache_size=40)
        scheduler.hygen.learner = CostLearner(StepCost(0.001, 1e-5, 0.0, 0.0, 1e-4, 0.0, 0.0))
        images = [image("A", 5, 25), image("B", 35, 25), image("C", 70, 40)]
        engine.add(online(0, num_tokens=200, mm_features=images))
        for number in range(num_offline):
            features = [image(f"o{number}", 4, 12)]
            engine.add(offline(number, num_tokens=150, mm_features=features))
        for _ in range(20):
            engine.step()
        schedules.append([step.get("online-0", 0) for step in engine.schedules[:6]])
    assert schedules[0] == schedules[1]


def test_images_of_computed_tokens_need_no_encoder(is_async):
    """So the next turn of a session preempts nobody for those of the turns before."""
    scheduler = make_scheduler(HYGEN[is_async], Limits())
    request = online(0, num_tokens=60, mm_features=[image("a", 5, 10), image("b", 40, 8)])
    state = EngineState(scheduler)
    missing = [state.missing_encoder_embeds(request, n, 60) for n in (0, 14, 15, 47, 48)]
    assert [18, 18, 8, 8, 0] == missing


def test_blocked_offline_requests_cost_bounded_time_and_hide_nobody(is_async):
    """Offline requests without an adapter slot are passed over, a bounded number per step."""
    engine = engine_of(is_async, {"mode": "off"}, max_loras=1, max_num_seqs=4)
    fill(engine, [online(0, lora=1, max_tokens=100)], steps=2)
    for i in range(500):
        engine.add(offline(i, lora=2))
    engine.add(offline(999))
    for _ in range(50):
        engine.step()
        assert len(engine.scheduler.deferred_waiting) <= 64
    assert "offline-999" in engine.finished


def test_pause_keeps_offline_waiting_and_resume_finishes_it(is_async):
    """Paused requests stay; nothing is lost when the engine goes on."""
    from vllm.v1.core.sched.interface import PauseState

    engine = engine_of(is_async, {"mode": "off"}, max_num_seqs=4)
    fill(engine, [offline(i) for i in range(3)], steps=1)
    engine.scheduler.set_pause_state(PauseState.PAUSED_NEW)
    engine.add(offline(3))
    engine.add(online(0))
    engine.run()
    assert {"offline-0", "offline-1", "offline-2"} == engine.finished
    engine.scheduler.set_pause_state(PauseState.UNPAUSED)
    engine.run()
    assert 5 == len(engine.finished)


def test_abort_frees_everything_of_an_offline_request(is_async):
    """Aborted while waiting, running or preempted, a request leaves no trace."""
    engine = engine_of(is_async, {"mode": "off"}, max_num_seqs=2)
    requests = [offline(i, max_tokens=50) for i in range(4)]
    fill(engine, requests, steps=6)
    engine.add(online(0))
    engine.step()
    for request in requests:
        engine.abort(request.request_id)
    engine.run()
    scheduler = engine.scheduler
    assert {"online-0"} == engine.finished
    assert all(RequestStatus.is_finished(request.status) for request in requests)
    assert not scheduler.requests
    assert not len(scheduler.waiting)
    assert not scheduler.hygen.requests.offline_ids
    assert scheduler.kv_cache_manager.block_pool.get_num_free_blocks() == 199


def test_arrival_shares_all_that_was_cached_when_its_step_began(is_async):
    """Offline decodes of the same step take other blocks, where there are any."""
    num_kept = Counter()
    for steps in range(4, 40):
        engine = engine_of(is_async, {"mode": "off"}, num_blocks=36)
        engine.add(online(0, num_tokens=40, max_tokens=1))
        engine.run()
        fill(engine, [offline(i, max_tokens=60) for i in range(3)], steps)
        arrival = online(0, num_tokens=48, max_tokens=1)
        _, num_cached = EngineState(engine.scheduler).prefix_hit(arrival)
        engine.add(arrival)
        output = engine.step()
        (new,) = (r for r in output.scheduled_new_reqs if r.req_id == "online-0")
        assert num_cached == new.num_computed_tokens, steps
        num_kept[num_cached] += 1
    assert len(num_kept) > 3


@pytest.mark.parametrize("limits", [{}, {"prefix_caching": False}, {"num_speculative_tokens": 3}])
def test_probe_of_a_burst_finds_what_vllm_finds(is_async, limits):
    """Prompts that share nothing, a part or all of what is cached, longer or shorter than it."""
    scheduler = make_scheduler(HYGEN[is_async], Limits(num_blocks=300, **limits))
    engine = FakeEngine(scheduler, depth=2 if is_async else 1)
    shared = [(7 * i) % 997 for i in range(90)]
    for length in (90, 41):
        engine.add(make_request(f"first-{length}", shared[:length], max_tokens=3))
    engine.run()
    rng = random.Random(3)
    state = EngineState(scheduler)
    probe = PrefixProbe(state)
    for number in range(400):
        prompt = shared[: rng.choice((0, 3, 16, 40, 41, 44, 64, 89, 90))]
        prompt = prompt + [(31 * number + i) % 997 for i in range(rng.choice((0, 1, 4, 9)))]
        request = make_request(f"burst-{number}", prompt or [1], max_tokens=1)
        found, expected = probe.hit(request), state.prefix_hit(request)
        assert [[*group] for group in found[0]] == [[*group] for group in expected[0]]
        assert found[1] == expected[1]
