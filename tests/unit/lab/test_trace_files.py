# SPDX-License-Identifier: Apache-2.0
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hygen_vllm.lab.workloads import data_dir
from hygen_vllm.lab.workloads.arrivals import Arrival
from hygen_vllm.lab.workloads.prompt_tokens import SharedBlocks
from hygen_vllm.lab.workloads.sources import MOONCAKE
from hygen_vllm.lab.workloads.trace_files import (
    kind_of,
    read_azure_csv,
    read_burstgpt_csv,
    read_lengths_csv,
    read_mooncake_jsonl,
    read_prompts_jsonl,
)
from tests.support.workload_files import LetterTokenizer, needs_data, refusal, write_lines

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
FIRST = "2023-11-16 18:15:46.6805900,374,44"
SECOND = "2023-11-16 18:15:50.9951690,396,109"
LENGTHS_HEADER = "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio"
BURSTGPT_HEADER = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
TICK = {"timestamp": 3000, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}
READERS: dict[str, Callable[[Path], list[Arrival]]] = {
    "azure": read_azure_csv,
    "burstgpt": lambda path: read_burstgpt_csv(path, seed=0),
    "lengths": read_lengths_csv,
    "mooncake": lambda path: read_mooncake_jsonl(path, seed=0),
    "prompts": lambda path: read_prompts_jsonl(path, LetterTokenizer()),
}
GOOD_LINES = {
    "azure": [HEADER, FIRST, SECOND],
    "burstgpt": [BURSTGPT_HEADER, "5,ChatGPT,472,18,490,API", "45,GPT-4,1087,230,1317,API"],
    "lengths": [LENGTHS_HEADER, "10,20,30,0.5", "11,21,32,0.5"],
    "mooncake": [json.dumps(TICK), json.dumps(TICK)],
    "prompts": ['{"prompt": "a"}', '{"prompt": "b"}'],
}
kinds = pytest.mark.parametrize("kind", READERS)


@pytest.fixture
def write(tmp_path):
    return lambda *lines: write_lines(tmp_path / "trace.txt", *lines)


def test_azure_csv_times_count_from_the_first_request(write):
    """The trace's seven digits after the second are read."""
    arrivals = read_azure_csv(write(HEADER, FIRST, SECOND))
    assert arrivals == [Arrival(0.0, 374, 44), Arrival(pytest.approx(4.314579), 396, 109)]


def test_azure_csv_rows_out_of_order_are_sorted_by_time(write):
    """Lengths move with their times."""
    arrivals = read_azure_csv(write(HEADER, SECOND, FIRST))
    assert [arrival.prompt_tokens for arrival in arrivals] == [374, 396]


def test_azure_csv_of_2024_has_offsets_and_full_seconds(write):
    """Stamps with and without digits after the second, with and without an offset, mix."""
    stamps = ("2024-05-10 00:00:00+00:00", "2024-05-10 00:00:00.25+00:00", "2024-05-10 00:00:01")
    later = "2024-05-10 02:00:02.1234567+02:00"
    arrivals = read_azure_csv(write(HEADER, *(f"{stamp},1,1" for stamp in (later, *stamps))))
    assert [0.0, 0.25, 1.0, 2.123456] == [arrival.time_s for arrival in arrivals]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("2023-11-16 18:15:50.995169,396", "expected 3 fields, got 2"),
        ("2023-11-16 18:15:50.995169,many,109", "'many'"),
        ("yesterday,396,109", "yesterday"),
        (",,", "Invalid isoformat string"),
        ("2023-11-16 18:15:50.995169,0,109", "must be >= 1"),
        ("2023-11-16 18:15:50.995169,396,-1", "must be >= 1"),
        ("2023-11-16 18:15:50.995169,396,1,5", "expected 3 fields, got 4"),
        ("2023-11-16 18:15:50.995169,396,1.5", "must be whole, got 1.5"),
        ("2023-11-16 18:15:50.995169,396,", "could not convert string to float: ''"),
        ("2023-11-16 18:15:50.995169,True,1", "'True'"),
        ("2023-11-16 18:15:50.995169,\xff\x00,1", "could not convert"),
        (f"2023-11-16 18:15:50.995169,{'9' * 5000},1", "must be whole, got inf"),
        (f"{'2023 ' * 1000},1,1", "Invalid isoformat string"),
    ],
)
def test_azure_csv_broken_row_is_reported_in_one_line_with_file_and_line(write, row, reason):
    """Too few fields, no time, no whole number >= 1, no text at all."""
    path = write(HEADER, FIRST, row)
    message = refusal(lambda: read_azure_csv(path))
    assert message.startswith(f"{path}:3: cannot read ")
    assert reason in message


def test_lengths_csv_keeps_its_order_and_whole_numbers_however_written(write):
    """All requests are there from the start; a table program may have written 74 as 74.0."""
    lines = (LENGTHS_HEADER, "74,918,992,0.08", "290.0,905.0,1195,0.3", "1e3, 2 ,3,0")
    arrivals = read_lengths_csv(write(*lines))
    assert [Arrival(0.0, 74, 918), Arrival(0.0, 290, 905), Arrival(0.0, 1000, 2)] == arrivals


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("74", "expected 2 fields, got 1"),
        ("74,918,992", "expected 2 fields, got 3"),
        ("74,", "could not convert string to float: ''"),
        ("many,918", "'many'"),
        ("True,918", "'True'"),
        ("74.5,918", "must be whole, got 74.5"),
        ("nan,918", "must be whole, got nan"),
        ("74,inf", "must be whole, got inf"),
        ("0,918", "must be >= 1"),
        ("74,-918", "must be >= 1"),
        (f"{'x' * 5000},1", "could not convert string to float"),
    ],
)
def test_lengths_csv_broken_row_is_reported_in_one_line_with_file_and_line(write, row, reason):
    """Half a token is as wrong as none; the row is shown, not all of it if long."""
    path = write("num_prefill_tokens,num_decode_tokens", "74,918", row)
    message = refusal(lambda: read_lengths_csv(path))
    assert message.startswith(f"{path}:3: cannot read ")
    assert reason in message


def test_mooncake_requests_of_a_tick_are_spread_over_its_three_seconds(write):
    """Each tick's requests come within 3 s from it, evenly; the first tick is at 0 s."""
    ticks = [{**TICK, "timestamp": 60_000 + 3000 * n, "output_length": 1 + n} for n in range(3)]
    rows = [ticks[number % 3] for number in range(600)]
    arrivals = read_mooncake_jsonl(write(*map(json.dumps, rows)), seed=1)
    times_s = [arrival.time_s for arrival in arrivals]
    assert sorted(times_s) == times_s
    assert 600 == len(set(times_s))
    assert [1] * 200 + [2] * 200 + [3] * 200 == [arrival.output_tokens for arrival in arrivals]
    for tick in range(3):
        of_tick = times_s[200 * tick : 200 * (tick + 1)]
        assert 3.0 * tick <= of_tick[0] <= of_tick[-1] <= 3.0 * (tick + 1)
        assert np.mean(of_tick) == pytest.approx(3.0 * tick + 1.5, abs=0.2)


def test_mooncake_times_are_seeded(write):
    """The same seed spreads requests in the same way, another seed in another."""
    path = write(*[json.dumps(TICK)] * 20)
    first, again, other = (read_mooncake_jsonl(path, seed) for seed in (1, 1, 2))
    assert first == again
    assert {item.time_s for item in first}.isdisjoint(item.time_s for item in other)


def test_mooncake_requests_keep_lengths_and_blocks_together(write):
    """However they are reordered; a last block that is not full has its name as well."""
    rows = [{**TICK, "input_length": 513 + n, "hash_ids": [0, n]} for n in range(100)]
    arrivals = read_mooncake_jsonl(write(*map(json.dumps, rows)), seed=1)
    pairs = [(arrival.prompt_tokens - 513, arrival.prompt) for arrival in arrivals]
    assert [(n, SharedBlocks((0, n))) for n in range(100)] == sorted(
        pairs, key=lambda pair: pair[0]
    )
    one, two = (arrival.token_ids(0) for arrival in arrivals[:2])
    assert one[:512] == two[:512]
    assert one[512] != two[512]


@pytest.mark.parametrize("length", [1, 511, 512, 513, 1024, 1025])
def test_mooncake_prompt_needs_a_name_for_each_block_of_512_tokens(write, length):
    """Neither a name too few nor one too many is accepted."""
    num_blocks = (length + 511) // 512
    row = {**TICK, "input_length": length}
    good = write(json.dumps({**row, "hash_ids": [*range(num_blocks)]}))
    assert length == len(READERS["mooncake"](good)[0].token_ids(0))
    for wrong in (num_blocks - 1, num_blocks + 1):
        path = write(json.dumps({**row, "hash_ids": [*range(wrong)]}))
        message = refusal(lambda: READERS["mooncake"](path))  # noqa: B023
        assert f"{length} tokens are {num_blocks} blocks of 512, got {wrong} hash_ids" in message


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ('"timestamp": "now"', "must be a number in ms, got 'now'"),
        ('"timestamp": null', "must be a number in ms, got None"),
        ('"timestamp": true', "must be a number in ms, got True"),
        ('"timestamp": NaN', "must be a number in ms, got nan"),
        ('"timestamp": -Infinity', "must be a number in ms, got -inf"),
        ('"timestamp": 1' + "0" * 400, "must be a number in ms"),
        ('"input_length": true', "must be whole, got True"),
        ('"input_length": 600.5', "must be whole, got 600.5"),
        ('"input_length": "600"', "must be whole, got '600'"),
        ('"input_length": -600', "must be >= 1"),
        ('"input_length": 1' + "0" * 30, "got 2 hash_ids"),
        ('"output_length": null', "must be whole, got None"),
        ('"output_length": 0', "must be >= 1"),
        ('"output_length": NaN', "must be whole, got nan"),
        (f'"output_length": "{"x" * 5000}"', "must be whole"),
        ('"hash_ids": null', "not iterable"),
        ('"hash_ids": 5', "not iterable"),
        ('"hash_ids": ["a", "b"]', "a hash id is 'a', no number >= 0"),
        ('"hash_ids": [0, -1]', "a hash id is -1, no number >= 0"),
        ('"hash_ids": [true, 1]', "a hash id is True"),
        ('"hash_ids": [0, 1.0]', "a hash id is 1.0"),
        ('"hash_ids": [0, 9223372036854775808]', "a hash id is 9223372036854775808"),
    ],
)
def test_mooncake_broken_value_is_reported_in_one_line_with_file_and_line(write, changes, reason):
    """JSON has more numbers than a trace may: NaN, true, 600.5."""
    path = write(json.dumps(TICK), f"{json.dumps(TICK)[:-1]}, {changes}}}")
    message = refusal(lambda: read_mooncake_jsonl(path, seed=0))
    assert message.startswith(f"{path}:2: cannot read ")
    assert reason in message


@pytest.mark.parametrize("name", ["timestamp", "input_length", "output_length"])
def test_mooncake_row_that_lacks_a_value_is_reported_with_its_name(write, name):
    """Each of the three values is needed."""
    path = write(json.dumps({key: value for key, value in TICK.items() if key != name}))
    message = refusal(lambda: read_mooncake_jsonl(path, seed=0))
    assert message.startswith(f"{path}:1: cannot read ")
    assert message.endswith(f"no '{name}'")


def test_mooncake_token_counts_are_whole_numbers_however_written(write):
    """600.0 is 600, and an int from then on."""
    row = {**TICK, "input_length": 600.0, "output_length": 5.0}
    arrival = READERS["mooncake"](write(json.dumps(row)))[0]
    assert [(600, int), (5, int)] == [
        (count, type(count)) for count in (arrival.prompt_tokens, arrival.output_tokens)
    ]


@pytest.mark.parametrize("stride_ms", [1, 5, 250, 3000])
def test_trace_whose_requests_have_times_of_their_own_keeps_them(write, stride_ms):
    """Only requests that came in crowds on Mooncake's grid are spread."""
    rows = [{**TICK, "timestamp": 3000 + stride_ms * n} for n in range(20)]
    times_s = [each.time_s for each in read_mooncake_jsonl(write(*map(json.dumps, rows)), seed=1)]
    assert times_s == pytest.approx([1e-3 * stride_ms * n for n in range(20)])


def test_requests_that_coincide_off_the_grid_keep_their_times(write):
    """A crowd at one moment in a trace of milliseconds is what the trace says."""
    rows = [{**TICK, "timestamp": time_ms} for time_ms in (0, 40, 40, 3000)]
    arrivals = read_mooncake_jsonl(write(*map(json.dumps, rows)), seed=1)
    assert [each.time_s for each in arrivals] == pytest.approx([0.0, 0.04, 0.04, 3.0])


def test_jsonl_trace_without_hash_ids_is_a_trace_whose_prompts_share_nothing(write):
    """It was taken for a file of prompts."""
    rows = [{"output_length": 7, "timestamp": 20 * n, "input_length": 600 + n} for n in range(3)]
    path = write(*map(json.dumps, rows))
    assert kind_of(path) == "mooncake"
    arrivals = read_mooncake_jsonl(path, seed=0)
    assert [(each.prompt_tokens, each.prompt) for each in arrivals] == [
        (600, None),
        (601, None),
        (602, None),
    ]


def test_prompt_that_speaks_of_a_trace_is_a_prompt(write):
    """Keys tell the kinds apart, not words."""
    path = write(json.dumps({"prompt": "hash_ids", "output_tokens": 1, "timestamp": 5}))
    assert kind_of(path) == "prompts"


def test_csv_as_a_table_program_writes_it_is_read(write):
    """pandas adds an index and turns counts into floats; people reorder columns and add some."""
    header = ",GeneratedTokens, TIMESTAMP ,note,ContextTokens"
    arrivals = read_azure_csv(write(header, "0,44.0,2023-11-16 18:15:46.680590,a,374.0"))
    assert arrivals == [Arrival(0.0, 374, 44)]
    assert isinstance(arrivals[0].prompt_tokens, int)


def test_burstgpt_csv_leaves_out_failed_requests_and_spreads_whole_seconds(write):
    """A failed request has no response; its timestamps are whole seconds, in a crowd or not."""
    rows = ["60,ChatGPT,10,0,10,API", *["61,ChatGPT,12,34,46,API"] * 50, "70,GPT-4,5,6,11,API"]
    path = write(BURSTGPT_HEADER, *rows)
    arrivals = read_burstgpt_csv(path, seed=3)
    assert len(arrivals) == 51
    assert len({each.time_s for each in arrivals}) == 51
    assert all(0.0 <= each.time_s <= 1.0 for each in arrivals[:50])
    assert 9.0 <= arrivals[-1].time_s <= 10.0
    assert arrivals == read_burstgpt_csv(path, seed=3)
    nothing = write(BURSTGPT_HEADER, rows[0])
    assert (
        refusal(lambda: read_burstgpt_csv(nothing, 0)) == f"{nothing}: no request with a response"
    )


def test_trace_with_a_wrong_timestamp_is_refused_before_it_is_served(write):
    """One row in seconds since 1970 among rows from 0 would be served for fifty years."""
    rows = [TICK, {**TICK, "timestamp": 1_700_000_000_000}]
    path = write(*map(json.dumps, rows))
    assert "years apart; is a timestamp wrong" in refusal(lambda: read_mooncake_jsonl(path, 0))


@needs_data
def test_real_mooncake_trace_has_its_published_statistics():
    """12,031 requests an hour of 12,035 tokens; all begin with block 0, so that they share it."""
    arrivals = read_mooncake_jsonl(data_dir() / MOONCAKE, seed=0)
    assert 12_031 == len(arrivals)
    assert np.mean([arrival.prompt_tokens for arrival in arrivals]) == pytest.approx(12_035, abs=1)
    assert len(arrivals) / arrivals[-1].time_s == pytest.approx(3.40, abs=0.01)
    gaps_s = np.diff([arrival.time_s for arrival in arrivals])
    assert 0.01 > np.mean(gaps_s == 0.0)
    assert {0} == {arrival.prompt.names[0] for arrival in arrivals}


@kinds
def test_file_with_blank_lines_is_read_and_its_lines_counted_as_an_editor_does(write, kind):
    """Blank lines, also before the first row, are skipped, but they count."""
    first, second, *rest = GOOD_LINES[kind]
    with_blanks = ["", first, "", "  \t", second, *rest, "", ""]
    path = write(*GOOD_LINES[kind])
    expected = READERS[kind](path)
    assert expected == READERS[kind](write(*with_blanks))
    broken = write(*with_blanks, "broken")
    message = refusal(lambda: READERS[kind](broken))
    assert message.startswith(f"{broken}:{len(with_blanks) + 1}: cannot read 'broken'")


@kinds
@pytest.mark.parametrize(("start", "end"), [("\ufeff", "\n"), ("", "\r\n"), ("\ufeff", "\r\n")])
def test_file_of_another_system_is_read_all_the_same(write, kind, start, end):
    """A byte order mark at the start and other ends of lines are no part of the rows."""
    path = write(*GOOD_LINES[kind])
    expected = READERS[kind](path)
    path.write_text(start + end.join([*GOOD_LINES[kind], ""]), encoding="utf-8", newline="")
    assert kind == kind_of(path)
    assert expected == READERS[kind](path)


@kinds
def test_file_without_requests_is_refused_with_its_name(write, kind):
    """Whether there is nothing in it, a blank line, or only the names of columns."""
    is_csv = kind not in {"mooncake", "prompts"}
    for lines in ([], [""]):
        path = write(*lines)
        message = refusal(lambda: READERS[kind](path))  # noqa: B023
        assert message.startswith(f"{path}:")
        assert ("expected the columns" if is_csv else "no requests") in message
    if is_csv:
        path = write(GOOD_LINES[kind][0])
        assert f"{path}: no requests" == refusal(lambda: READERS[kind](path))


@pytest.mark.parametrize(
    ("read", "columns"),
    [
        (read_azure_csv, "TIMESTAMP,ContextTokens,GeneratedTokens"),
        (read_lengths_csv, "num_prefill_tokens,num_decode_tokens"),
    ],
)
@pytest.mark.parametrize("header", ["time,in,out", "ContextTokens", FIRST])
def test_csv_without_its_columns_is_refused_with_them(write, read, columns, header):
    """Other names, too few of them, or none at all."""
    path = write(header, FIRST)
    assert f"{path}:1: expected the columns {columns}" == refusal(lambda: read(path))


def test_csv_row_with_a_quoted_end_of_line_counts_all_its_lines(write):
    """A row is named by the line it begins in, also when a field goes on in the next one."""
    path = write(f"{HEADER},note", '"2023-11-16 18:15:46",374,44,"a', 'note"', '"2023', '",1,1,')
    message = refusal(lambda: read_azure_csv(path))
    assert message.startswith(f"{path}:4: cannot read ")


def test_csv_row_without_end_is_reported_with_the_line_where_it_begins(write):
    """A quote that is never closed makes one field of all the rest."""
    path = write(HEADER, FIRST, f'"{"x" * 200_000}')
    message = refusal(lambda: read_azure_csv(path))
    assert message.startswith(f"{path}:3: cannot read this row: field larger than field limit")


@pytest.mark.parametrize("kind", ["mooncake", "prompts"])
@pytest.mark.parametrize(
    "line", ["{", "[1, 2]", "7", "null", '"prompt"', "\x00\x01", "[" * 100_000, '{"a": 1}']
)
def test_jsonl_line_that_is_no_object_with_a_request_is_reported(write, kind, line):
    """Whatever JSON it is, or none: one line with file and number, not too long."""
    path = write(GOOD_LINES[kind][0], line)
    message = refusal(lambda: READERS[kind](path))
    assert message.startswith(f"{path}:2: cannot read ")
