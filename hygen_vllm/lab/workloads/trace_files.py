# SPDX-License-Identifier: Apache-2.0
"""Reads workloads from files; a row that cannot be read is reported by file and line.

Azure CSV        TIMESTAMP, ContextTokens, GeneratedTokens (Azure/AzurePublicDataset, CC-BY-4.0;
                 Splitwise, ISCA 2024)
BurstGPT CSV     Timestamp (s), Request tokens, Response tokens: 0 where the request failed, and
                 left out here (HPMLL/BurstGPT, CC-BY-4.0; KDD 2025)
Mooncake JSONL   timestamp (ms), input_length, output_length, and hash_ids or not: names of the
                 prompt's blocks of 512 tokens (kvcache-ai/Mooncake, Apache-2.0; FAST 2025)
lengths CSV      num_prefill_tokens, num_decode_tokens (project-etalon/etalon, Apache-2.0); all
                 requests are there from the start
prompts JSONL    {"prompt": TEXT or token ids, "output_tokens": N}, or lines of an OpenAI batch
                 file; all requests are there from the start. {"vllm_xargs": {"tenant": NAME}} is
                 read, as a server reads it

The columns of a CSV may be in any order, with others between them, and its counts may be written as
374.0.
"""

import csv
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from hygen_vllm.lab.workloads.arrivals import Arrival
from hygen_vllm.lab.workloads.prompt_tokens import TRACE_BLOCK_TOKENS, SharedBlocks, text_tokens
from hygen_vllm.lab.workloads.tokenizers import Tokenizer
from hygen_vllm.labels import tenant_of

AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
BURSTGPT_COLUMNS = ("Timestamp", "Request tokens", "Response tokens")
LENGTHS_COLUMNS = ("num_prefill_tokens", "num_decode_tokens")
CSV_KINDS = {"azure": AZURE_COLUMNS, "burstgpt": BURSTGPT_COLUMNS, "lengths": LENGTHS_COLUMNS}
MOONCAKE_TICK_S = 3.0
BURSTGPT_TICK_S = 1.0
ON_GRID = 0.01
"""Share of a tick by which timestamps miss the grid at most."""
LONGEST_TRACE_S = 10 * 365 * 86400.0
"""A longer one has a wrong timestamp."""
LARGEST_TIMESTAMP = 1e15
DEFAULT_OUTPUT_TOKENS = 128
"""Where a prompt comes without a number of output tokens."""

_NANOSECONDS = re.compile(r"(\.\d{6})\d+")
_LONGEST_SHOWN = 120
_UNREADABLE = (
    *(ValueError, LookupError, TypeError, AttributeError),
    *(OverflowError, RecursionError),
)
"""What a row that is not as expected leads to."""

Row = TypeVar("Row")
Item = TypeVar("Item")


def read_azure_csv(path: Path) -> list[Arrival]:
    """Return the requests of an Azure trace in order of time, the first at 0 s.

    Raises: ValueError with file and line if a row cannot be read, or if there is none.
    """
    stamped = _csv_items(path, AZURE_COLUMNS, _azure_request)
    first = min(stamp for stamp, _ in stamped)
    requests = [replace(item, time_s=(stamp - first).total_seconds()) for stamp, item in stamped]
    return _from_zero(requests, path)


def _azure_request(row: list[str]) -> tuple[datetime, Arrival]:
    # The trace of 2023 has seven digits after the second, datetime keeps six; that of 2024 has an
    # offset from UTC, and no digits at a full second.
    stamp = datetime.fromisoformat(_NANOSECONDS.sub(r"\1", row[0].strip()))
    if stamp.tzinfo is None:
        stamp = stamp.replace(tzinfo=UTC)
    return stamp, _request(0.0, _number(row[1]), _number(row[2]))


def read_burstgpt_csv(path: Path, seed: int) -> list[Arrival]:
    """Return the requests of a BurstGPT trace in order of time, the first at 0 s.

    Its timestamps are whole seconds, over which the requests are spread, seeded. Raises as
    read_azure_csv.
    """
    requests = [each for each in _csv_items(path, BURSTGPT_COLUMNS, _burstgpt_request) if each]
    if not requests:
        raise ValueError(f"{path}: no request with a response")
    return _spread(_from_zero(requests, path), BURSTGPT_TICK_S, seed)


def _burstgpt_request(row: list[str]) -> Arrival | None:
    time_s, prompt_tokens, output_tokens = map(_number, row)
    return _request(_time(time_s, "s"), prompt_tokens, output_tokens) if output_tokens else None


def read_lengths_csv(path: Path) -> list[Arrival]:
    """Return the requests of a file of lengths, in its order. Raises as read_azure_csv."""
    return _csv_items(
        path, LENGTHS_COLUMNS, lambda row: _request(0.0, _number(row[0]), _number(row[1]))
    )


def _number(text: str) -> float:
    """Return a number as CSV files have it; a large whole one exactly."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def read_mooncake_jsonl(path: Path, seed: int) -> list[Arrival]:
    """Return the requests of a Mooncake trace in order of time, the first at 0 s.

    Mooncake's own timestamps lie on a grid of 3 seconds, so that 90 % of the gaps would be zero:
    the requests of a tick are spread over its 3 seconds, seeded. Prompts share tokens as their hash
    ids say. Raises as read_azure_csv.
    """
    requests = _jsonl_items(path, _mooncake_request)
    return _spread(_from_zero(requests, path), MOONCAKE_TICK_S, seed)


def _from_zero(requests: list[Arrival], path: Path) -> list[Arrival]:
    """Return requests in order of time, the first at 0 s. Raises ValueError."""
    requests = sorted(requests, key=lambda item: item.time_s)
    first_s = requests[0].time_s
    span_s = requests[-1].time_s - first_s
    if span_s > LONGEST_TRACE_S:
        raise ValueError(
            f"{path}: its requests lie {span_s / (365 * 86400):.4g} years apart; is a timestamp "
            "wrong, or in another unit?"
        )
    return [replace(item, time_s=item.time_s - first_s) for item in requests]


def _spread(requests: list[Arrival], tick_s: float, seed: int) -> list[Arrival]:
    """Return requests that came in crowds on a grid of time spread over its ticks; else as is."""
    times_s = {item.time_s for item in requests}
    is_on_grid = all(abs(time_s / tick_s - round(time_s / tick_s)) < ON_GRID for time_s in times_s)
    if len(times_s) == len(requests) or not is_on_grid:
        return requests
    rng = random.Random(seed)
    spread = [replace(item, time_s=item.time_s + rng.uniform(0.0, tick_s)) for item in requests]
    return sorted(spread, key=lambda item: item.time_s)


def _mooncake_request(row: Any) -> Arrival:
    request = _request(_time(row["timestamp"], "ms"), row["input_length"], row["output_length"])
    if "hash_ids" not in row:
        return request
    names = tuple(map(_name, row["hash_ids"]))
    num_blocks = -(-request.prompt_tokens // TRACE_BLOCK_TOKENS)
    if len(names) != num_blocks:
        raise ValueError(
            f"{request.prompt_tokens} tokens are {num_blocks} blocks of {TRACE_BLOCK_TOKENS}, got "
            f"{len(names)} hash_ids"
        )
    return replace(request, prompt=SharedBlocks(names))


def _time(timestamp: Any, unit: str) -> float:
    """Return seconds. Raises ValueError."""
    if type(timestamp) not in (int, float) or not abs(timestamp) <= LARGEST_TIMESTAMP:
        raise ValueError(f"a timestamp must be a number in {unit}, got {timestamp!r}")
    return {"ms": 1e-3, "s": 1.0}[unit] * float(timestamp)


def _name(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"a hash id is {value!r}, no number >= 0")
    return value


def read_prompts_jsonl(path: Path, tokenizer: Tokenizer) -> list[Arrival]:
    """Return the requests of a file of prompts, in its order. Raises as read_azure_csv."""
    return _jsonl_items(path, lambda row: _prompt_request(row, tokenizer))


def _prompt_request(row: Any, tokenizer: Tokenizer) -> Arrival:
    body = row.get("body", row)
    if not isinstance(body, dict) or not {"prompt", "messages"} & body.keys():
        raise ValueError("no prompt or messages")
    prompt = body["prompt"] if "prompt" in body else _chat_text(body["messages"])
    tokens = tokenizer.encode(prompt) if isinstance(prompt, str) else _token_ids(prompt)
    limits = (body.get(name) for name in ("output_tokens", "max_completion_tokens", "max_tokens"))
    output_tokens = next((n for n in limits if n is not None), DEFAULT_OUTPUT_TOKENS)
    request = _request(0.0, len(tokens), output_tokens)
    tenant = tenant_of(body.get("vllm_xargs"))
    return replace(request, prompt=text_tokens(tokens), tenant=tenant)


def _token_ids(prompt: Any) -> list[int]:
    if not isinstance(prompt, list) or any(type(token) is not int for token in prompt):
        raise ValueError("a prompt must be one text or a list of token ids")
    return prompt


def _chat_text(messages: Any) -> str:
    return "".join(f"{item['role']}: {_content_text(item.get('content'))}\n" for item in messages)


def _content_text(content: Any) -> str:
    """Return the text of a message: its parts are lines; beside calls of tools it has none."""
    match content:
        case None:
            return ""
        case str(text) | {"type": "text", "text": str(text)}:
            return text
        case list():
            return "\n".join(map(_content_text, content))
    raise ValueError(f"the content of a message must be text, got {content!r}")


def _request(time_s: float, prompt_tokens: Any, output_tokens: Any) -> Arrival:
    return Arrival(time_s, _token_count(prompt_tokens), _token_count(output_tokens))


def _token_count(value: Any) -> int:
    count = int(value) if isinstance(value, float) and value.is_integer() else value
    if type(count) is not int:
        raise ValueError(f"token counts must be whole, got {value!r}")
    if count < 1:
        raise ValueError(f"token counts must be >= 1, got {value!r}")
    return count


def kind_of(path: Path) -> str:
    """Return "azure", "burstgpt", "lengths", "mooncake" or "prompts", by a file's first line.

    Raises: ValueError if it is none of them.
    """
    line = _first_line(path)
    if line.startswith("{"):
        with suppress(ValueError, RecursionError):
            if {"timestamp", "input_length"} <= json.loads(line).keys():
                return "mooncake"
        return "prompts"
    names = {name.strip() for name in next(csv.reader([line]), [])}
    for kind, columns in CSV_KINDS.items():
        if columns[0] in names:
            return kind
    kinds = (f"{kind} ({','.join(columns)})" for kind, columns in CSV_KINDS.items())
    raise ValueError(
        f"{path}:1: neither a CSV with known columns: {', '.join(kinds)}; nor a Mooncake JSONL or "
        "a JSONL of prompts"
    )


def _first_line(path: Path) -> str:
    """Return the first line of a text file that is not blank, "" if there is none."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return next((line for line in file if line.strip()), "").strip()


def _csv_items(
    path: Path, columns: tuple[str, ...], parse: Callable[[list[str]], Item]
) -> list[Item]:
    """Return what `parse` makes of the fields in `columns` of each row of a CSV file."""
    rows = csv_rows(path)
    number, header = next(rows, (1, []))
    names = [name.strip() for name in header]
    if not set(columns) <= set(names):
        raise ValueError(f"{path}:{number}: expected the columns {','.join(columns)}")
    places = [names.index(name) for name in columns]

    def parse_row(row: list[str]) -> Item:
        if len(row) != len(names):
            raise ValueError(f"expected {len(names)} fields, got {len(row)}")
        return parse([row[place] for place in places])

    return _items(path, rows, parse_row, ",".join)


def csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a CSV file that are not blank, each with the line where it begins.

    Raises: ValueError with file and line where the file is no CSV.
    """
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        rows = csv.reader(file)
        number = 1
        try:
            for row in rows:
                if len(row) > 1 or "".join(row).strip():
                    yield number, row
                number = rows.line_num + 1
        except csv.Error as error:
            raise ValueError(f"{path}:{number}: cannot read this row: {error}") from None


def _jsonl_items(path: Path, parse: Callable[[Any], Item]) -> list[Item]:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        numbered = enumerate(file, start=1)
        lines = ((number, line) for number, line in numbered if line.strip())
        return _items(path, lines, lambda line: parse(json.loads(line)), str.strip)


def _items(
    path: Path,
    numbered: Iterable[tuple[int, Row]],
    parse: Callable[[Row], Item],
    shown: Callable[[Row], str],
) -> list[Item]:
    items = [_item(f"{path}:{number}", row, parse, shown) for number, row in numbered]
    if not items:
        raise ValueError(f"{path}: no requests")
    return items


def _item(place: str, row: Row, parse: Callable[[Row], Item], shown: Callable[[Row], str]) -> Item:
    try:
        return parse(row)
    except _UNREADABLE as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{place}: cannot read {_short(shown(row))!r}: {_short(reason)}") from None


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
