# SPDX-License-Identifier: Apache-2.0
"""Which engine gets a request."""

from collections import Counter

import pytest

from hygen_vllm.fleet.engine_load import EngineLoad
from hygen_vllm.fleet.routing import PREFIXES_KEPT, ROUTERS, RoutedRequest, make_router

TOKEN_S = 1e-4
ROOM = 100_000


def load(**values):
    return EngineLoad(**{"free_tokens": ROOM, "prefill_token_s": TOKEN_S, **values})


def request(tokens=1000, prefix=()):
    return RoutedRequest(tokens, prefix, 16)


def chosen(router, loads, count, **values):
    return Counter(router.choose(request(**values), loads) for _ in range(count))


@pytest.mark.parametrize("name", ROUTERS)
def test_one_engine_gets_everything(name):
    """There is no other."""
    assert {"a": 5} == chosen(make_router(name, 0), {"a": load()}, 5)


@pytest.mark.parametrize("name", ROUTERS)
def test_equal_engines_share_equally(name):
    """Between two reports as well: a router remembers what it sent."""
    loads = {name: load() for name in "abcd"}
    counts = chosen(make_router(name, 0), loads, 400)
    assert all(90 <= count <= 110 for count in counts.values()), counts


@pytest.mark.parametrize("name", ROUTERS)
def test_engine_that_left_gets_nothing(name):
    """And one that came gets its part."""
    router = make_router(name, 0)
    chosen(router, {"a": load(), "b": load()}, 10)
    assert "a" not in chosen(router, {"b": load(), "c": load()}, 40)


def test_round_robin_takes_turns():
    """Whatever the load is."""
    loads = {"a": load(online_prefill_tokens=9000), "b": load()}
    router = make_router("round-robin", 0)
    assert ["a", "b", "a", "b"] == [router.choose(request(), loads) for _ in range(4)]


def test_power_of_two_follows_what_is_done():
    """The one whose requests are completed gets more."""
    router = make_router("power-of-two", 0)
    loads = {"a": load(), "b": load()}
    counts = Counter()
    for _ in range(100):
        engine = router.choose(request(), loads)
        counts[engine] += 1
        if engine == "b":
            router.completed("b")
    assert counts["b"] > 90


@pytest.mark.parametrize(
    "busy",
    [
        {"online_prefill_tokens": 5000},
        {"decode_step_s": 0.5},
        {"num_online": 60},
        {"prefill_token_s": 3 * TOKEN_S},
        {"free_tokens": 500},
    ],
)
def test_slo_router_avoids_what_delays(busy):
    """A queue, long steps, many who would be delayed, a slow device, a full KV cache."""
    loads = {"busy": load(**busy), "idle": load()}
    assert {"idle"} == {make_router("slo", seed).choose(request(), loads) for seed in range(10)}


def test_slo_router_counts_what_it_sent():
    """Reports are old: the second request goes elsewhere, and back after a new report."""
    router = make_router("slo", 0)
    loads = {"a": load(online_prefill_tokens=0), "b": load(online_prefill_tokens=500)}
    assert ["a", "b"] == [router.choose(request(), loads) for _ in range(2)]
    again = {"a": load(online_prefill_tokens=0), "b": load(online_prefill_tokens=500)}
    assert "a" == router.choose(request(), again)


def test_slo_router_finds_a_prefix_again():
    """Where it was sent before, while the queue there is shorter than what it saves."""
    router = make_router("slo", 0)
    prefix = [("conversation", i) for i in range(50)]
    first = router.choose(request(800, prefix), {"a": load(), "b": load()})
    other = {"a": "b", "b": "a"}[first]
    short = {first: load(online_prefill_tokens=300), other: load()}
    assert first == router.choose(request(900, prefix), short)
    long = {first: load(online_prefill_tokens=3000), other: load()}
    assert other == router.choose(request(900, prefix), long)


def test_slo_router_remembers_so_many_prefixes():
    """The oldest are forgotten."""
    router = make_router("slo", 0)
    old, kept = [("old", 0)] * 1, [("kept", i) for i in range(50)]
    loads = {"a": load()}
    router.choose(request(16, old), loads)
    for i in range(PREFIXES_KEPT):
        router.choose(request(16, [("other", i)]), loads)
    router.choose(request(800, kept), loads)
    known = router._known["a"]
    assert (0, 800) == (
        known.cached_tokens(request(16, old)),
        known.cached_tokens(request(900, kept)),
    )


def test_slo_router_without_prices_counts_tokens():
    """Nobody knows how long a token takes yet."""
    router = make_router("slo", 0)
    loads = {name: EngineLoad(free_tokens=ROOM) for name in "ab"}
    sent = [router.choose(request(tokens), loads) for tokens in (900, 300, 300)]
    assert sent[1] == sent[2] != sent[0]
