# SPDX-License-Identifier: Apache-2.0
"""Few-shot prompts of batch evaluations: many questions behind the same worked examples.

MMLU (hendrycks/test, MIT): five examples of the question's subject; the prompts of one subject
share them. GSM8K (openai/grade-school-math, MIT): the same eight examples before every question.
Without the data, built-in questions make prompts that share as much.
"""

import random
from collections.abc import Sequence
from pathlib import Path

from hygen_vllm.lab.workloads.arrivals import Arrival
from hygen_vllm.lab.workloads.prompt_tokens import text_tokens
from hygen_vllm.lab.workloads.prompts import Question, built_in_questions, read_gsm8k
from hygen_vllm.lab.workloads.tokenizers import Tokenizer
from hygen_vllm.lab.workloads.trace_files import csv_rows

MMLU = Path("mmlu")
MMLU_EXAMPLES = 5
MMLU_OUTPUT_TOKENS = 2
"""A letter and the end of the text."""
MMLU_COLUMNS = 6
LETTERS, NUMBERS = "ABCD", "0123"
GSM8K_EXAMPLES = 8
GSM8K_TRAIN, GSM8K_TEST = Path("gsm8k", "train.jsonl"), Path("gsm8k", "test.jsonl")
NUM_BUILT_IN_SUBJECTS = 57
BUILT_IN_QUESTIONS = 250
"""A subject's, examples included."""


def mmlu_requests(data_dir: Path | None, tokenizer: Tokenizer, seed: int) -> list[Arrival]:
    """Return a request for each MMLU test question, in random order, all there from the start.

    Raises: ValueError with file and line if a row cannot be read; OSError.
    """
    subjects = _built_in_subjects(seed) if data_dir is None else _read_subjects(data_dir / MMLU)
    requests = []
    for subject, (examples, questions) in subjects.items():
        start = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
        start += "".join(f"{text} {answer}\n\n" for text, answer in examples[:MMLU_EXAMPLES])
        requests += [
            _request(tokenizer.encode(start + text), MMLU_OUTPUT_TOKENS) for text, _ in questions
        ]
    random.Random(seed).shuffle(requests)
    return requests


def gsm8k_requests(data_dir: Path | None, tokenizer: Tokenizer, seed: int) -> list[Arrival]:
    """Return a request for each GSM8K test question, in random order; outputs as long as answers.

    Raises as mmlu_requests.
    """
    if data_dir is None:
        made = built_in_questions(NUM_BUILT_IN_SUBJECTS * 20, seed)
        examples, questions = made[:GSM8K_EXAMPLES], made[GSM8K_EXAMPLES:]
    else:
        examples = read_gsm8k(data_dir / GSM8K_TRAIN)[:GSM8K_EXAMPLES]
        questions = read_gsm8k(data_dir / GSM8K_TEST)
    start = "".join(map(str, examples))
    requests = [
        _request(
            tokenizer.encode(f"{start}Question: {item.question}\nAnswer:"),
            len(tokenizer.encode(item.answer)),
        )
        for item in questions
    ]
    random.Random(seed).shuffle(requests)
    return requests


def _request(tokens: Sequence[int], output_tokens: int) -> Arrival:
    return Arrival(0.0, len(tokens), max(1, output_tokens), text_tokens(tokens))


_Subject = tuple[list[tuple[str, str]], list[tuple[str, str]]]
"""Examples and questions, each as (text up to "Answer:", answer)."""


def _read_subjects(folder: Path) -> dict[str, _Subject]:
    subjects = {}
    for path in sorted((folder / "test").glob("*_test.csv")):
        name = path.name.removesuffix("_test.csv")
        examples = _read_questions(folder / "dev" / f"{name}_dev.csv")
        subjects[name.replace("_", " ")] = examples, _read_questions(path)
    if not subjects:
        raise ValueError(f"{folder / 'test'}: no file SUBJECT_test.csv")
    return subjects


def _read_questions(path: Path) -> list[tuple[str, str]]:
    rows = [(row, f"{path}:{number}") for number, row in csv_rows(path)]
    if rows and rows[0][0][-1] == "answer":  # the original files have no header
        del rows[0]
    return [_question(row, place) for row, place in rows]


def _question(row: list[str], place: str) -> tuple[str, str]:
    if len(row) != MMLU_COLUMNS or row[-1] not in {*LETTERS, *NUMBERS}:
        raise ValueError(f"{place}: expected a question, four choices and the number of one")
    question, *choices, answer = row
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True)]
    letter = answer if answer in LETTERS else LETTERS[NUMBERS.index(answer)]
    return "\n".join([question, *lines, "Answer:"]), letter


def _built_in_subjects(seed: int) -> dict[str, _Subject]:
    subjects = {}
    for number in range(NUM_BUILT_IN_SUBJECTS):
        questions = built_in_questions(BUILT_IN_QUESTIONS, seed * NUM_BUILT_IN_SUBJECTS + number)
        pairs = [_as_choice(item, number) for item in questions]
        subjects[f"subject {number}"] = pairs[:MMLU_EXAMPLES], pairs[MMLU_EXAMPLES:]
    return subjects


def _as_choice(item: Question, number: int) -> tuple[str, str]:
    result = int(item.answer.rpartition("#### ")[2])
    lines = [f"{letter}. {result + i - number % 4}" for i, letter in enumerate(LETTERS)]
    return "\n".join([item.question, *lines, "Answer:"]), LETTERS[number % 4]
