# SPDX-License-Identifier: Apache-2.0
import itertools
import os
from pathlib import Path

import numpy as np
import pytest

from hygen_vllm.workloads import data_dir
from hygen_vllm.workloads.arrival_processes import generate_azure_like
from hygen_vllm.workloads.arrivals import Arrival, LengthScale, cut, thin
from hygen_vllm.workloads.prompts import (
    GSM8K,
    PromptCutter,
    Question,
    built_in_questions,
    load_questions,
    offline_prompts,
    read_gsm8k,
)
from hygen_vllm.workloads.sources import AZURE
from hygen_vllm.workloads.trace_files import read_azure_csv

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
FIRST = "2023-11-16 18:15:46.6805900,374,44"
SECOND = "2023-11-16 18:15:50.9951690,396,109"
needs_data = pytest.mark.skipif(
    not os.environ.get("HYGEN_DATA"), reason="HYGEN_DATA is not set: no real trace"
)


class LetterTokenizer:
    """A token for each character."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


@pytest.fixture
def write(tmp_path):
    def write_lines(*lines: str) -> Path:
        path = tmp_path / "trace.csv"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write_lines


def test_azure_csv_times_count_from_the_first_request(write):
    arrivals = read_azure_csv(write(HEADER, FIRST, SECOND))
    assert arrivals == [Arrival(0.0, 374, 44), Arrival(pytest.approx(4.314579), 396, 109)]


def test_azure_csv_rows_out_of_order_are_sorted_by_time(write):
    arrivals = read_azure_csv(write(HEADER, SECOND, FIRST))
    assert [arrival.prompt_tokens for arrival in arrivals] == [374, 396]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("2023-11-16 18:15:50.9,396", "expected 3 fields, got 2"),
        ("2023-11-16 18:15:50.995169,many,109", "'many'"),
        ("yesterday,396,109", "yesterday"),
        ("2023-11-16 18:15:50.995169,0,109", "must be >= 1"),
        ("2023-11-16 18:15:50.995169,396,-1", "must be >= 1"),
        ("2023-11-16 18:15:50.995169,\xff\x00,1", "invalid literal"),
    ],
)
def test_azure_csv_broken_row_is_reported_in_one_line_with_file_and_line(write, row, reason):
    path = write(HEADER, FIRST, row)
    with pytest.raises(ValueError, match="cannot read") as caught:
        read_azure_csv(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:3: ")
    assert reason in message
    assert "\n" not in message


def test_azure_csv_without_its_columns_is_refused(write):
    with pytest.raises(ValueError, match=":1: expected the columns TIMESTAMP,ContextTokens"):
        read_azure_csv(write("time,in,out", FIRST))


def test_azure_csv_without_rows_is_refused(write):
    with pytest.raises(ValueError, match="no requests"):
        read_azure_csv(write(HEADER))


def test_cut_counts_times_from_its_start_and_leaves_out_its_end():
    arrivals = [Arrival(float(time_s), 1, 1) for time_s in range(10)]
    assert [arrival.time_s for arrival in cut(arrivals, 4.0, 3.0)] == [0.0, 1.0, 2.0]


def test_thin_reaches_the_rate_with_arrivals_of_the_trace_in_their_order():
    trace = generate_azure_like(5.0, 600.0, seed=1)
    thinned = thin(trace, 0.5, 600.0, seed=1)
    assert len(thinned) == 300
    assert set(thinned) <= set(trace)
    assert thinned == sorted(thinned, key=lambda arrival: arrival.time_s)


def test_thin_keeps_the_pattern_of_busy_and_quiet_times():
    """A tenth of the trace still has nine tenths of its requests in its busy half."""
    busy = [Arrival(0.01 * number, 1, 1) for number in range(9000)]
    quiet = [Arrival(90 + 0.09 * number, 1, 1) for number in range(1000)]
    thinned = thin(busy + quiet, 5.0, 180.0, seed=3)
    share = sum(arrival.time_s < 90 for arrival in thinned) / len(thinned)
    assert share == pytest.approx(0.9, abs=0.03)


def test_thin_above_the_rate_of_the_trace_is_refused_with_that_rate():
    trace = [Arrival(float(time_s), 1, 1) for time_s in range(10)]
    with pytest.raises(ValueError, match=r"must be <= 1\.00, .* got 2"):
        thin(trace, 2.0, 10.0, seed=0)


@pytest.mark.parametrize("seed", [0, 7])
def test_same_seed_same_arrivals(seed):
    first, again, other = (generate_azure_like(1.0, 60.0, number) for number in (seed, seed, 99))
    assert first == again
    assert first != other
    assert thin(first, 0.3, 60.0, seed) == thin(again, 0.3, 60.0, seed)


def test_generated_arrivals_have_the_published_statistics_of_the_trace():
    arrivals = generate_azure_like(5.53, 3600.0, seed=0)
    prompts = [arrival.prompt_tokens for arrival in arrivals]
    outputs = [arrival.output_tokens for arrival in arrivals]
    gaps_s = np.diff([arrival.time_s for arrival in arrivals])
    assert len(arrivals) / 3600 == pytest.approx(5.53, rel=0.03)
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(1.09, rel=0.05)
    assert _mean_p50_p99(prompts) == pytest.approx([1155, 1020, 4142], rel=0.05)
    assert _mean_p50_p99(outputs) == pytest.approx([211, 129, 601], rel=0.05)


@needs_data
def test_real_azure_trace_has_its_published_statistics():
    arrivals = read_azure_csv(data_dir() / AZURE)
    assert len(arrivals) == 19_366
    prompts = [arrival.prompt_tokens for arrival in arrivals]
    assert _mean_p50_p99(prompts) == pytest.approx([1155, 1020, 4142], abs=1)


def _mean_p50_p99(values: list[int]) -> list[float]:
    return [float(np.mean(values)), *np.percentile(values, (50, 99))]


def test_length_scale_divides_then_caps_and_never_reaches_zero():
    scale = LengthScale(
        prompt_divisor=16, max_prompt_tokens=128, output_divisor=2, max_output_tokens=64
    )
    assert scale.apply(Arrival(1.0, 1020, 100)) == Arrival(1.0, 64, 50)
    assert scale.apply(Arrival(1.0, 14050, 1000)) == Arrival(1.0, 128, 64)
    assert scale.apply(Arrival(1.0, 2, 1)) == Arrival(1.0, 1, 1)


def test_built_in_answers_are_right():
    """The number after the hashes is what the last sum comes to."""
    for question in built_in_questions(50, seed=2):
        sums, result = question.answer.split("\n#### ")
        left, right = sums.split(".")[-2].split(" = ")
        expression = " ".join(left.split()[-3:])
        assert right.split()[0] == result
        assert int(result) == _calculate(expression)


def _calculate(expression: str) -> int:
    left, operator, right = expression.split()
    return int(left) + (1 if operator == "+" else -1) * int(right)


def test_offline_prompts_are_endless_seeded_and_end_where_the_model_answers():
    questions = built_in_questions(20, seed=0)
    prompts = list(itertools.islice(offline_prompts(questions, 2, seed=5), 500))
    assert prompts == list(itertools.islice(offline_prompts(questions, 2, seed=5), 500))
    assert len(set(prompts)) > 400
    assert all(prompt.count("Question: ") == 3 for prompt in prompts)
    assert all(prompt.endswith("\nAnswer:") for prompt in prompts)


def test_prompt_cutter_gives_exact_lengths_of_text_that_goes_on():
    questions = [Question("How many?", "Two."), Question("How long?", "A day.")]
    whole = "".join(map(chr, PromptCutter(questions, LetterTokenizer(), seed=1).take(60)))
    cutter = PromptCutter(questions, LetterTokenizer(), seed=1)
    parts = ["".join(map(chr, cutter.take(length))) for length in (1, 10, 49)]
    assert [len(part) for part in parts] == [1, 10, 49]
    assert "".join(parts) == whole


def test_prompt_cutter_starts_again_when_its_text_is_used_up():
    cutter = PromptCutter([Question("Who?", "I.")], LetterTokenizer(), seed=0)
    assert len(cutter.take(1000)) == 1000


@pytest.mark.parametrize("line", ["not json", '{"question": "Why?"}', "[1, 2]"])
def test_gsm8k_broken_row_is_reported_with_file_and_line(tmp_path, line):
    path = tmp_path / "train.jsonl"
    path.write_text('{"question": "a", "answer": "b"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"train\.jsonl:2: expected a JSON object"):
        read_gsm8k(path)


def test_questions_come_from_the_data_folder_when_there_is_one(tmp_path):
    (tmp_path / GSM8K).parent.mkdir()
    (tmp_path / GSM8K).write_text('{"question": "a", "answer": "b"}\n', encoding="utf-8")
    assert load_questions(tmp_path, seed=0) == [Question("a", "b")]
    assert load_questions(None, seed=0) == load_questions(None, seed=0)


def test_data_dir_that_is_no_folder_is_refused_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv("HYGEN_DATA", str(tmp_path / "gone"))
    with pytest.raises(ValueError, match="unset it"):
        data_dir()
    monkeypatch.setenv("HYGEN_DATA", "")
    assert data_dir() is None
