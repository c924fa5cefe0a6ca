# SPDX-License-Identifier: Apache-2.0
"""Labels become classes the same way through every door of the engine."""

import asyncio
import logging
from types import SimpleNamespace

import pytest
from starlette.datastructures import Headers
from vllm.entrypoints.openai.chat_completion import serving as chat_serving
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion import serving as completion_serving
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.pooling.base.serving import PoolingBaseServing
from vllm.entrypoints.pooling.embed.protocol import EmbeddingCompletionRequest
from vllm.exceptions import VLLMValidationError
from vllm.pooling_params import PoolingParams
from vllm.v1.request import Request

from hygen_vllm.engine.endpoints import read_labels_of_pooling, refuse_offline_beams
from hygen_vllm.engine.plugin import uses_hygen
from hygen_vllm.lab.bare_scheduler import Limits, make_request, make_scheduler
from hygen_vllm.labels import ClassRule, RequestClass
from tests.support.classes import HYGEN

PROMPT = list(range(10))


def classes_of(requests, policy="fcfs", **hygen):
    """Return for each request whether the scheduler took it for offline."""
    scheduler = make_scheduler(HYGEN[False], Limits(policy=policy), hygen)
    for request in requests:
        scheduler.add_request(request)
    assert len(requests) == len(scheduler.waiting)
    return [scheduler.is_offline(request) for request in requests]


def test_label_wins_over_priority_and_default():
    """vllm_xargs decides, whatever the priority and the default say."""
    requests = [
        make_request("a", PROMPT, slo_class="online", priority=9),
        make_request("b", PROMPT, slo_class="offline", priority=-9),
    ]
    assert [False, True] == classes_of(requests, default_class="offline")


def test_positive_priority_under_fcfs_is_offline():
    """Where priority has no other meaning, above 0 means offline."""
    requests = [make_request(str(p), PROMPT, priority=p) for p in (-1, 0, 1, 7)]
    assert [False, False, True, True] == classes_of(requests)


def test_priority_under_the_priority_policy_is_only_an_order():
    """vLLM's meaning stays unless offline_priority_above is set."""
    requests = [make_request(str(p), PROMPT, priority=p) for p in (0, 1, 7)]
    assert [False, False, False] == classes_of(requests, policy="priority")
    assert [False, False, True] == classes_of(requests, policy="priority", offline_priority_above=5)


def test_request_without_label_gets_the_default_class():
    """default_class decides where nothing else does."""
    requests = [make_request("a", PROMPT)]
    assert [True] == classes_of(requests, default_class="offline", offline_priority_above=3)


def test_pooling_request_has_its_labels_where_it_can(monkeypatch):
    """Embeddings and scores have no vllm_xargs; what LLM.embed passes on is read."""
    requests = [
        Request("a", PROMPT, None, PoolingParams(task="embed", extra_kwargs=extra), priority=n)
        for n, extra in enumerate([None, {"slo_class": "offline"}, {"slo_class": "online"}])
    ]
    for number, request in enumerate(requests):
        request.request_id = str(number)
    assert [False, True, False] == classes_of(requests)


def test_label_of_any_length_makes_a_short_line(caplog):
    """The log is not the client's to fill."""
    request = make_request("r" * 2_000_000, PROMPT, slo_class="x" * 2_000_000)
    assert [False] == classes_of([request])
    assert max(len(record.getMessage()) for record in caplog.records) < 500


@pytest.mark.parametrize("label", ["Offline", " offline ", "ONLINE"])
def test_label_in_other_case_is_understood(label):
    """Case and surrounding blanks do not matter."""
    expected = label.strip().lower() == "offline"
    assert [expected] == classes_of([make_request("a", PROMPT, slo_class=label)])


@pytest.mark.parametrize("label", ["batch", "", 3, ["offline"]])
def test_unknown_label_is_online_counted_and_warned_about_once(label, caplog, monkeypatch):
    """A client's mistake never stops the engine and never fills the log."""
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    scheduler = make_scheduler(HYGEN[False], Limits())
    for i in range(3):
        scheduler.add_request(make_request(f"r{i}", PROMPT, extra_args={"slo_class": label}))
    assert 3 == scheduler.hygen.requests.num_unknown_labels
    assert 3 == len(scheduler.waiting.online)
    assert 1 == sum("unknown slo_class" in record.getMessage() for record in caplog.records)


def test_streaming_session_is_online():
    """A request that takes more input while it runs has somebody at the other end."""
    request = make_request("a", PROMPT, slo_class="offline", resumable=True)
    assert [False] == classes_of([request])


@pytest.mark.parametrize("kind", [CompletionRequest, ChatCompletionRequest])
def test_beam_search_is_refused_for_offline_requests(kind, monkeypatch):
    """vLLM drops the labels of its beams. Told twice, with another rule, the last one holds."""
    monkeypatch.setattr(kind, "to_beam_search_params", kind.to_beam_search_params)

    def beams_of(**label):
        prompt = {"prompt": "a"} if kind is CompletionRequest else {"messages": []}
        request = kind(**prompt, model="m", use_beam_search=True, n=2, **label)
        return request.to_beam_search_params(4, {}).beam_width

    refuse_offline_beams(ClassRule(0, RequestClass.ONLINE))
    assert 2 == beams_of()
    assert 2 == beams_of(vllm_xargs={"slo_class": "online"}, priority=3)
    for label in ({"vllm_xargs": {"slo_class": "offline"}}, {"priority": 1}):
        with pytest.raises(VLLMValidationError, match="beam search cannot be offline"):
            beams_of(**label)
    refuse_offline_beams(ClassRule(None, RequestClass.ONLINE))
    assert 2 == beams_of(priority=1)


@pytest.mark.parametrize(
    ("header", "priority"), [("1", 1), ("-2", -2), ("--1", 5), ("9" * 20, 5), (None, 5)]
)
@pytest.mark.parametrize(
    ("serving", "method"),
    [
        (completion_serving.OpenAIServingCompletion, "create_completion"),
        (chat_serving.OpenAIServingChat, "create_chat_completion"),
    ],
)
def test_beam_search_has_the_priority_of_its_header(serving, method, header, priority, monkeypatch):
    """As other requests have it; told twice changes nothing. Others are vLLM's to label."""

    async def create(self, request, raw_request=None):
        return request.priority

    for kind in (CompletionRequest, ChatCompletionRequest):
        monkeypatch.setattr(kind, "to_beam_search_params", kind.to_beam_search_params)
    monkeypatch.setattr(serving, method, create)
    for _ in range(2):
        refuse_offline_beams(ClassRule(0, RequestClass.ONLINE))
    raw = SimpleNamespace(headers=Headers({} if header is None else {"X-Vllm-Priority": header}))
    for has_beams, expected in ((True, priority), (False, 5)):
        request = CompletionRequest(prompt="a", use_beam_search=has_beams, priority=5)
        assert expected == asyncio.run(getattr(serving, method)(None, request, raw))


@pytest.mark.parametrize(
    ("body", "headers", "priority", "labels"),
    [
        ({}, {}, 0, None),
        ({}, {"X-Vllm-Priority": "9" * 20}, 0, None),
        ({"priority": 2}, {}, 2, None),
        ({"priority": 2}, {"X-Vllm-Priority": "1"}, 1, None),
        ({}, {"X-Vllm-Priority": "--1"}, 0, None),
        ({"vllm_xargs": {"slo_class": "offline", "x": 1}}, {}, 0, {"slo_class": "offline"}),
        ({"vllm_xargs": {"tenant": "a"}}, {}, 0, {"tenant": "a"}),
        ({"vllm_xargs": "offline"}, {}, 0, None),
    ],
)
def test_labels_of_a_request_for_embeddings_reach_the_engine(
    monkeypatch, body, headers, priority, labels
):
    """In a body or a header, as those of a request for tokens; told twice changes nothing."""
    monkeypatch.setattr(PoolingBaseServing, "_init_ctx", PoolingBaseServing._init_ctx)
    read_labels_of_pooling()
    read_labels_of_pooling()

    async def nothing(*_, **__):
        return None

    serving = SimpleNamespace(
        trust_request_mm_kwargs=False,
        request_id_prefix="embd",
        _base_request_id=lambda *_: "1",
        _check_model=nothing,
        _maybe_get_adapters=lambda _: None,
        _validate_request=lambda _: None,
        models=SimpleNamespace(model_name=lambda _: "m"),
    )
    processor = SimpleNamespace(create_pooling_params=lambda _: PoolingParams(task="embed"))
    request = EmbeddingCompletionRequest(model="m", input="a", **body)
    raw = SimpleNamespace(headers=Headers(headers))
    context = asyncio.run(PoolingBaseServing._init_ctx(serving, processor, request, raw))
    assert (context.priorities, context.pooling_params.extra_kwargs) == (priority, labels)


@pytest.mark.parametrize(
    ("scheduler_cls", "expected"),
    [
        ("hygen_vllm.HyGenScheduler", True),
        ("hygen_vllm.HyGenSheduler", True),
        (HYGEN[True], True),
        ("tests.support.recording_scheduler.RecordingScheduler", True),
        ("tests.support.fake_engine.FakeEngine", False),
        ("vllm.v1.core.sched.scheduler.Scheduler", False),
        ("no.such.module.Scheduler", False),
        ("tests.support.recording_scheduler.Nothing", False),
        ("Scheduler", False),
        (None, False),
    ],
)
def test_engines_of_this_package_are_known_by_their_class(scheduler_cls, expected):
    """A user's subclass, too, that is only named; what cannot be imported is vLLM's to refuse."""
    assert uses_hygen(scheduler_cls) is expected
