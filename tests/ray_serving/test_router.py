# SPDX-License-Identifier: Apache-2.0
"""The request router among replicas that are not there."""

import asyncio
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from ray.serve._private.request_router.common import RequestRoutingContext as RoutingContext
from ray.serve.llm.openai_api_models import ChatCompletionRequest, CompletionRequest

from hygen_vllm.fleet.engine_load import EngineLoad
from hygen_vllm.ray_serving.offline_pool import COUNTED_METHOD
from hygen_vllm.ray_serving.router import STATS, HyGenRouter, routed_request

IDLE = EngineLoad(free_tokens=10_000, prefill_token_s=1e-4)
BUSY = EngineLoad(free_tokens=10_000, prefill_token_s=1e-4, online_prefill_tokens=5000)


def replica(name, load, at_s=0.0):
    stats = {} if load is None else {STATS: {**asdict(load), "at_s": at_s}}
    return SimpleNamespace(replica_id=name, routing_stats=stats)


def pending(request, method="chat"):
    names = {"internal_request_id": "r", "multiplexed_model_id": "", "call_method": method}
    metadata = SimpleNamespace(**names)
    return SimpleNamespace(args=[request], metadata=metadata, routing_context=RoutingContext())


def chat(text):
    return pending(ChatCompletionRequest(messages=[{"role": "user", "content": text}]))


@pytest.fixture
def router():
    """A router that no deployment has."""
    router = HyGenRouter.__new__(HyGenRouter)
    router.initialize_state()
    return router


def choose(router, replicas, request=None):
    return asyncio.run(router.choose_replicas(replicas, request or chat("x" * 4000)))


def test_idle_replica_is_chosen(router):
    """All others come after it, should it not take the request."""
    replicas = [replica("busy", BUSY), replica("idle", IDLE)]
    first, rest = choose(router, replicas)
    assert (["idle"], replicas) == ([each.replica_id for each in first], rest)


def test_what_was_sent_counts_until_the_next_report(router):
    """Equal figures at a later time are a new report."""
    other = EngineLoad(free_tokens=10_000, prefill_token_s=1e-4, online_prefill_tokens=500)
    old = [replica("a", IDLE), replica("b", other)]
    sent = [choose(router, old, chat(4000 * letter)) for letter in "xy"]
    assert ["a", "b"] == [first.replica_id for (first,), _ in sent]
    new = [replica("a", IDLE, 1.0), replica("b", other, 1.0)]
    assert "a" == choose(router, new, chat(4000 * "z"))[0][0].replica_id


def test_prefix_is_found_again(router):
    """Where it was sent before, once that queue is done."""
    text = "x" * 4000
    ((first,), _), ((again,), _) = (
        choose(router, [replica(name, IDLE, at_s) for name in "abcd"], chat(f"{text} {at_s}"))
        for at_s in (1.0, 2.0)
    )
    assert first.replica_id == again.replica_id


def test_replicas_without_a_report_are_used(router):
    """They have just started."""
    assert 1 == len(choose(router, [replica("new", None)])[0])


def test_serve_pauses_before_it_asks_again(router):
    """Where no replica takes a request; a loop without a pause would stop all others."""
    request = chat("x")
    choose(router, [replica("full", BUSY)], request)
    assert request.routing_context.should_backoff


def test_call_that_only_counts_goes_to_nobody(router):
    """It waits, by which Serve knows of it, and takes nobody's place in a replica."""
    request = pending(None, COUNTED_METHOD)
    assert [] == choose(router, [replica("idle", IDLE)], request)
    assert request.routing_context.should_backoff


def test_nobody_is_chosen_of_none(router):
    """Serve asks again when there is one."""
    assert [] == choose(router, [])


@pytest.mark.parametrize(
    "request_", [chat("x" * 4000), pending(CompletionRequest(prompt="x" * 4000))]
)
def test_prompt_is_estimated(request_):
    """From its characters, before there are tokens."""
    routed = routed_request(request_)
    assert 1000 == pytest.approx(routed.prompt_tokens, rel=0.02)
    assert 15 == len(routed.prefix)


@pytest.mark.parametrize("call", [None, pending(3), SimpleNamespace(args=[], metadata=None)])
def test_calls_without_a_prompt_are_routed(router, call):
    """Health checks and tokenization go somewhere, too."""
    assert 0 == routed_request(call).prompt_tokens
