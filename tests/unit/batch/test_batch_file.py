# SPDX-License-Identifier: Apache-2.0
"""The OpenAI batch file format: what a line is, what a result is."""

import json

import pytest

from hygen_vllm.batch.batch_file import (
    BatchRow,
    DuplicateIdError,
    bad_row,
    parse_row,
    read_rows,
    result_row,
)
from hygen_vllm.openai_request import OpenAiRequest, error_of

CHAT = "/v1/chat/completions"


def line(**values):
    good = {"custom_id": "a", "method": "POST", "url": CHAT, "body": {"max_tokens": 1}}
    return json.dumps({**good, **values})


def encoded(*lines):
    return [text.encode() for text in lines]


def test_line_is_a_request():
    """With its endpoint and its body."""
    assert BatchRow(3, "a", OpenAiRequest(CHAT, {"max_tokens": 1})) == parse_row(line().encode(), 3)


def test_method_may_be_left_out():
    """There is one."""
    text = json.dumps({"custom_id": "a", "url": CHAT, "body": {}})
    assert parse_row(text.encode(), 1).request is not None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not JSON"),
        ("[]", "not an object"),
        ("{}", "custom_id"),
        (line(custom_id=3), "custom_id"),
        (line(custom_id=""), "custom_id"),
        (line(method="GET"), "method"),
        (line(url="/v1/files"), "url"),
        (line(url=None), "url"),
        (line(body=None), "body"),
    ],
)
def test_bad_line_says_why(text, problem):
    """It is a row all the same, without a request."""
    row = parse_row(text.encode(), 1)
    assert row.request is None
    assert problem in row.problem


def test_empty_lines_are_no_rows():
    """Numbers of lines count them."""
    rows = list(read_rows(encoded("\n", line(), "  \n", line(custom_id="b"))))
    assert [(2, "a"), (4, "b")] == [(row.line, row.custom_id) for row in rows]


def test_custom_id_is_there_once():
    """A bad row with it counts, too: it would have a result of the same name."""
    with pytest.raises(DuplicateIdError, match="lines 1 and 3"):
        list(read_rows(encoded(line(), line(custom_id="b"), line(url="/x"))))


def test_file_of_another_system_is_read_all_the_same():
    """A byte order mark at the start and other ends of lines are no part of the rows."""
    rows = list(read_rows([b"\xef\xbb\xbf" + line().encode() + b"\r\n", b"\r\n"]))
    assert [BatchRow(1, "a", OpenAiRequest(CHAT, {"max_tokens": 1}))] == rows


@pytest.mark.parametrize("damaged", [b"\xff\xfe", b"[" * 100_000, line().encode("utf-16")])
def test_row_that_is_no_text_or_too_deep_is_a_bad_row_among_good_ones(damaged):
    """The others are served."""
    rows = list(read_rows([line().encode(), damaged, line(custom_id="b").encode()]))
    assert ["a", None, "b"] == [row.custom_id for row in rows]
    assert rows[1].problem.startswith("not JSON")
    assert len(rows[1].problem) < 200


def test_result_has_the_body():
    """And the status of a success."""
    row = result_row("a", {"response": {"id": "chat-1", "choices": []}})
    assert ("a", None) == (row["custom_id"], row["error"])
    expected = {"status_code": 200, "request_id": "chat-1", "body": {"id": "chat-1", "choices": []}}
    assert expected == row["response"]


@pytest.mark.parametrize(("code", "status"), [(404, 404), (500, 500), (None, 400), ("x", 400)])
def test_error_has_its_status(code, status):
    """400 where the engine gave none."""
    row = result_row("a", error_of("no", code))
    assert status == row["response"]["status_code"]
    assert {"code": str(status), "message": "no"} == row["error"]


def test_bad_row_has_an_error():
    """With the number of its line."""
    row = bad_row(parse_row(b"{", 7))
    assert None is row["custom_id"]
    assert "line 7" in row["error"]["message"]
