# SPDX-License-Identifier: Apache-2.0
import json

import pytest

from hygen_vllm.lab.workloads.trace_files import read_prompts_jsonl
from tests.support.workload_files import LetterTokenizer, refusal, write_lines


@pytest.fixture
def read(tmp_path):
    """Read a file with these rows."""

    def read_rows(*rows):
        path = write_lines(tmp_path / "prompts.jsonl", *map(json.dumps, rows))
        return read_prompts_jsonl(path, LetterTokenizer())

    return read_rows


def _text(arrival) -> str:
    return "".join(map(chr, arrival.token_ids(0, vocabulary=1 << 20)))


def _batch(**body) -> dict:
    return {"custom_id": "1", "method": "POST", "url": "/v1", "body": {"model": "m", **body}}


def test_prompts_are_read_in_order_and_are_there_from_the_start(read):
    """A text becomes the tokenizer's tokens, token ids stay; both have their lengths."""
    arrivals = read({"prompt": "abc", "output_tokens": 7}, {"prompt": [5, 600], "output_tokens": 9})
    assert [(0.0, 3, 7), (0.0, 2, 9)] == [
        (item.time_s, item.prompt_tokens, item.output_tokens) for item in arrivals
    ]
    assert [[97, 98, 99], [5, 600]] == [item.token_ids(0) for item in arrivals]


@pytest.mark.parametrize("wrap", [dict, _batch], ids=["plain", "batch"])
@pytest.mark.parametrize(
    ("limits", "output_tokens"),
    [
        ({}, 128),
        ({"output_tokens": 7}, 7),
        ({"max_tokens": 8}, 8),
        ({"max_completion_tokens": 9}, 9),
        ({"max_tokens": 8, "max_completion_tokens": 9}, 9),
        ({"max_tokens": 8, "max_completion_tokens": 9, "output_tokens": 7}, 7),
        ({"max_tokens": 8, "max_completion_tokens": None}, 8),
        ({"max_tokens": None}, 128),
        ({"max_tokens": 8.0}, 8),
        ({"max_tokens": 10**30}, 10**30),
    ],
)
def test_output_is_as_long_as_the_row_allows(read, wrap, limits, output_tokens):
    """The more exact of several limits holds; null is no limit; without any it is 128 tokens."""
    for request in ({"prompt": "abc"}, {"messages": [{"role": "user", "content": "abc"}]}):
        arrival = read(wrap(**request, **limits))[0]
        assert output_tokens == arrival.output_tokens
        assert int is type(arrival.output_tokens)


@pytest.mark.parametrize("value", [0, -1, False, True, 1.5, "7", [7], {}, float("nan")])
@pytest.mark.parametrize("name", ["output_tokens", "max_tokens", "max_completion_tokens"])
def test_output_that_is_no_number_of_tokens_is_refused(read, name, value):
    """A limit of 0 is as wrong as any other, not a limit that was left out."""
    message = refusal(lambda: read({"prompt": "abc"}, {"prompt": "abc", name: value}))
    assert "prompts.jsonl:2: cannot read" in message
    assert "token counts must be" in message


def test_batch_line_with_a_prompt_is_that_prompt(read):
    """As for /v1/completions: a text or token ids."""
    text, ids = read(_batch(prompt="Why?"), _batch(prompt=[1, 2, 3]))
    assert "Why?" == _text(text)
    assert [1, 2, 3] == ids.token_ids(0)


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([("user", "Why?")], "user: Why?\n"),
        ([("system", "Be brief."), ("user", "Why?")], "system: Be brief.\nuser: Why?\n"),
        ([("user", [{"type": "text", "text": "Why?"}])], "user: Why?\n"),
        (
            [("user", [{"type": "text", "text": "Why?"}, {"type": "text", "text": "How?"}])],
            "user: Why?\nHow?\n",
        ),
        ([("assistant", None), ("tool", "42")], "assistant: \ntool: 42\n"),
        ([("user", "")], "user: \n"),
        ([("user", [])], "user: \n"),
        ([("user", ["Why?"])], "user: Why?\n"),
    ],
)
def test_chat_is_its_messages_one_after_the_other(read, messages, text):
    """Parts of a content are its lines; a message without content, as with a call, is empty."""
    rows = [{"role": role, "content": content} for role, content in messages]
    plain, batch = read({"messages": rows}, _batch(messages=rows))
    assert text == _text(plain)
    assert plain == batch


def test_chats_that_begin_alike_share_their_first_tokens(read):
    """Which is what a prefix cache finds in a batch behind one system prompt."""
    system = {"role": "system", "content": "Answer with one word."}
    one, two = (
        item.token_ids(0)
        for item in read(*(_batch(messages=[system, {"role": "user", "content": c}]) for c in "ab"))
    )
    shared = len("system: Answer with one word.\nuser: ")
    assert one[:shared] == two[:shared]
    assert one[shared] != two[shared]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"output_tokens": 7}, "no prompt or messages"),
        ({"text": "abc"}, "no prompt or messages"),
        ({"body": {}}, "no prompt or messages"),
        ({"body": None}, "no prompt or messages"),
        ({"body": "prompt"}, "no prompt or messages"),
        ({"body": ["prompt"]}, "no prompt or messages"),
        ({"prompt": None}, "one text or a list of token ids"),
        ({"prompt": 5}, "one text or a list of token ids"),
        ({"prompt": {}}, "one text or a list of token ids"),
        ({"prompt": ["abc", "def"]}, "one text or a list of token ids"),
        ({"prompt": [[1, 2], [3]]}, "one text or a list of token ids"),
        ({"prompt": [1, 2.0]}, "one text or a list of token ids"),
        ({"prompt": [1, True]}, "one text or a list of token ids"),
        ({"prompt": [1, -2]}, "negative"),
        ({"prompt": [1, 1 << 32]}, "greater than maximum"),
        ({"prompt": [1, 1 << 80]}, "too large"),
        ({"prompt": ""}, "must be >= 1, got 0"),
        ({"prompt": []}, "must be >= 1, got 0"),
        ({"messages": []}, "must be >= 1, got 0"),
        ({"messages": None}, "not iterable"),
        ({"messages": "abc"}, "must be"),
        ({"messages": ["abc"]}, "must be"),
        ({"messages": [{"content": "abc"}]}, "no 'role'"),
        ({"messages": [{"role": "user", "content": 5}]}, "must be text"),
        ({"messages": [{"role": "user", "content": ["abc", 5]}]}, "must be text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "must be text, got {'type': 'image_url'",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
            "must be text",
        ),
    ],
)
def test_broken_prompt_is_reported_in_one_line_with_file_and_line(read, row, reason):
    """No prompt, one of another kind, an empty one, or ids that are none."""
    message = refusal(lambda: read({"prompt": "abc"}, row))
    assert "prompts.jsonl:2: cannot read" in message
    assert reason in message


@pytest.mark.parametrize("wrap", [dict, _batch], ids=["plain", "batch"])
@pytest.mark.parametrize(
    ("more", "tenant"),
    [
        ({}, ""),
        ({"vllm_xargs": None}, ""),
        ({"vllm_xargs": {}}, ""),
        ({"vllm_xargs": {"slo_class": "offline"}}, ""),
        ({"vllm_xargs": {"tenant": "a"}}, "a"),
        ({"vllm_xargs": {"tenant": 7}}, "7"),
    ],
)
def test_tenant_is_that_of_the_labels(read, wrap, more, tenant):
    """As in a request to a server."""
    assert tenant == read(wrap(prompt="abc", **more))[0].tenant
