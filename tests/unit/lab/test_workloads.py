# SPDX-License-Identifier: Apache-2.0
import itertools

import pytest

from hygen_vllm.lab.workloads import data_dir
from hygen_vllm.lab.workloads.prompts import (
    GSM8K,
    PromptCutter,
    Question,
    built_in_questions,
    load_questions,
    offline_prompts,
    read_gsm8k,
)
from tests.support.workload_files import LetterTokenizer


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
