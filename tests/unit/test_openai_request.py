# SPDX-License-Identifier: Apache-2.0
"""What an OpenAI request says of itself."""

import pytest

from hygen_vllm.openai_request import CHUNK_CHARACTERS, OpenAiRequest

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def chat(text, **body):
    return OpenAiRequest(CHAT, {"messages": [{"role": "user", "content": text}], **body})


def num_shared(one, other):
    pairs = zip(one.prefix_hashes(), other.prefix_hashes(), strict=False)
    return sum(a == b for a, b in pairs)


def test_equal_beginnings_have_equal_hashes():
    """One hash for each chunk, and none after the first difference."""
    head = "x" * 4 * CHUNK_CHARACTERS
    one, other = chat(head + "a" * 2000), chat(head + "b" * 2000)
    assert 4 == num_shared(one, other)


@pytest.mark.parametrize("body", [{"model": "other"}, {"cache_salt": "s"}, {"tools": [1]}])
def test_equal_texts_of_another_identity_share_nothing(body):
    """Their tokens or their KV differ."""
    text = "x" * 2000
    assert 0 == num_shared(chat(text), chat(text, **body))


def test_short_prompt_has_no_hashes():
    """Nothing worth sharing."""
    assert [] == chat("Hi").prefix_hashes()


def test_offline_label_is_added():
    """To the labels that are there; an answer comes as a whole."""
    request = chat("Hi", stream=True, vllm_xargs={"tenant": "t"}).as_offline()
    assert {"tenant": "t", "slo_class": "offline"} == request.body["vllm_xargs"]
    assert (False, "t") == (request.body["stream"], request.tenant)


def test_options_of_a_stream_are_left_out() -> None:
    """vLLM refuses them where the answer comes as a whole."""
    request = chat("Hi", stream=True, stream_options={"include_usage": True})
    assert "stream_options" not in request.as_offline().body
    assert "stream_options" in request.body


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"max_tokens": 10}, 10),
        ({"max_completion_tokens": 20, "max_tokens": 10}, 20),
        ({}, 256),
        ({"max_tokens": "many"}, 256),
        ({"max_tokens": 1e300}, 256),
        ({"max_tokens": -5}, 256),
        ({"max_tokens": 10**30}, 256),
    ],
)
def test_tokens_are_estimated(body, tokens):
    """A fourth of the characters, and the output that was asked for."""
    request = OpenAiRequest(COMPLETIONS, {"prompt": "x" * 400, **body})
    assert 100 + tokens == request.tokens


@pytest.mark.parametrize("labels", [None, "text", 3])
def test_labels_that_are_none_say_nothing(labels):
    """The engine will refuse the request, the pool must not fall over it."""
    assert ("", {}) == (chat("Hi", vllm_xargs=labels).tenant, chat("Hi", vllm_xargs=labels).labels)
