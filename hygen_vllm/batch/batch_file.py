# SPDX-License-Identifier: Apache-2.0
"""The OpenAI batch file format: a line for each request, a line for each result. Pure.

    {"custom_id": "a-1", "method": "POST", "url": "/v1/chat/completions", "body": {...}}
    {"id": "...", "custom_id": "a-1", "response": {"status_code": 200, ...}, "error": null}

Source: OpenAI API reference, "Batch", request input and output objects.
"""

import codecs
import json
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hygen_vllm.json_types import Json
from hygen_vllm.openai_request import INVALID, OpenAiRequest, error_of, problem_of

OK = 200
BAD_REQUEST = 400


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A line of an input file.

    Args:
        custom_id: the client's name for it; None where the line has none.
        request: None where it is not one.
        problem: why not.
    """

    line: int
    custom_id: str | None
    request: OpenAiRequest | None
    problem: str = ""


class DuplicateIdError(ValueError):
    """Two lines have one custom_id, so that no line of the output could be told from another."""


def read_rows(lines: Iterable[bytes]) -> Iterator[BatchRow]:
    """Yield the rows of an input file in UTF-8, the bad ones as well; empty lines are none.

    Raises: DuplicateIdError.
    """
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        text = line.removeprefix(codecs.BOM_UTF8).strip()
        if not text:
            continue
        row = parse_row(text, number)
        if row.custom_id is not None:
            if row.custom_id in seen:
                raise DuplicateIdError(
                    f"lines {seen[row.custom_id]} and {number} have the same custom_id, "
                    f"{row.custom_id!r}"
                )
            seen[row.custom_id] = number
        yield row


def parse_row(line: bytes, number: int) -> BatchRow:
    """Return the row of a line, bad or not."""
    try:
        values = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        return BatchRow(number, None, None, f"not JSON: {error}")
    if not isinstance(values, dict):
        return BatchRow(number, None, None, "not an object")
    custom_id = values.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        return BatchRow(number, None, None, "custom_id must be a text")
    problem = _problem(values)
    if problem:
        return BatchRow(number, custom_id, None, problem)
    return BatchRow(number, custom_id, OpenAiRequest(values["url"], values["body"]))


def _problem(values: Json) -> str:
    if values.get("method", "POST") != "POST":
        return f"method must be POST, got {values['method']!r:.100}"
    return problem_of(values.get("url"), values.get("body"))


def result_row(custom_id: str | None, result: Json) -> Json:
    """Return the output object of a result: `response`, a body, or `error` as OpenAI has them."""
    error = result.get("error")
    body = {"error": error} if error is not None else result["response"]
    code = OK if error is None else error_code(error)
    return {
        "id": f"batch_req_{uuid.uuid4().hex}",
        "custom_id": custom_id,
        "response": {"status_code": code, "request_id": body.get("id"), "body": body},
        "error": None if error is None else {"code": str(code), "message": error.get("message")},
    }


def error_code(error: Json) -> int:
    """Return the HTTP status of an error."""
    code = error.get("code")
    return code if isinstance(code, int) else BAD_REQUEST


def bad_row(row: BatchRow) -> Json:
    """Return the output object of a bad row."""
    message = f"line {row.line}: {row.problem}"
    return result_row(row.custom_id, error_of(message, BAD_REQUEST, INVALID))
