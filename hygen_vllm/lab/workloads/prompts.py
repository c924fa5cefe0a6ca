# SPDX-License-Identifier: Apache-2.0
"""Which text requests carry: grade-school maths questions with worked answers.

From GSM8K (openai/grade-school-math, MIT) when HYGEN_DATA holds it, else from built-in templates.
Offline prompts are worked examples followed by a question, as in a batch evaluation. Online prompts
are stretches of the same text, cut to the length that a trace asks for.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hygen_vllm.lab.workloads.tokenizers import Tokenizer

GSM8K = Path("gsm8k", "train.jsonl")
NUM_BUILT_IN_QUESTIONS = 2000
NAMES = ("Ada", "Ben", "Chen", "Dana", "Emre", "Fatima", "Goran", "Hana", "Ines", "Jamal")
GOODS = ("apples", "notebooks", "tickets", "candles", "bricks", "stamps", "cups", "seedlings")
TEMPLATES = """
Question: {name} packs {a} boxes with {b} {goods} in each and gives {c} {goods} away. How many \
{goods} are left?
Answer: The boxes hold {a} * {b} = {product} {goods}. After giving {c} away, {product} - {c} = \
{difference} {goods} are left.
#### {difference}

Question: A shop sells {goods} for {b} dollars each. {name} buys {a} of them and also pays {c} \
dollars for delivery. How many dollars does {name} spend?
Answer: The {goods} cost {a} * {b} = {product} dollars. With delivery that is {product} + {c} = \
{total} dollars.
#### {total}

Question: {name} makes {b} {goods} an hour and works {a} hours on Monday. On Tuesday {name} makes \
{c} more {goods}. How many {goods} does {name} make on the two days together?
Answer: On Monday {name} makes {a} * {b} = {product} {goods}. Together with Tuesday that is \
{product} + {c} = {total} {goods}.
#### {total}
""".strip().split("\n\n")


@dataclass(frozen=True)
class Question:
    """A question and its worked answer."""

    question: str
    answer: str

    def __str__(self) -> str:
        return f"Question: {self.question}\nAnswer: {self.answer}\n\n"


def load_questions(data_dir: Path | None, seed: int) -> list[Question]:
    """Return GSM8K's questions if there is a data folder, else built-in ones drawn from seed."""
    if data_dir is None:
        return built_in_questions(NUM_BUILT_IN_QUESTIONS, seed)
    return read_gsm8k(data_dir / GSM8K)


def read_gsm8k(path: Path) -> list[Question]:
    """Return the questions of a GSM8K file.

    Raises: ValueError with file and line if a row cannot be read, or if there is none.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        rows = enumerate(file, start=1)
        questions = [_parse(text, f"{path}:{line}") for line, text in rows if text.strip()]
    if not questions:
        raise ValueError(f"{path}: no questions")
    return questions


def _parse(text: str, place: str) -> Question:
    try:
        row = json.loads(text)
        return Question(str(row["question"]), str(row["answer"]))
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{place}: expected a JSON object with question and answer") from None


def built_in_questions(count: int, seed: int) -> list[Question]:
    """Return count questions made from templates with names and numbers drawn from seed."""
    rng = random.Random(seed)
    return [_fill(rng.choice(TEMPLATES), rng) for _ in range(count)]


def _fill(template: str, rng: random.Random) -> Question:
    numbers = {"a": rng.randint(3, 30), "b": rng.randint(4, 40)}
    numbers["product"] = numbers["a"] * numbers["b"]
    numbers["c"] = rng.randint(2, numbers["product"] - 1)
    numbers["difference"] = numbers["product"] - numbers["c"]
    numbers["total"] = numbers["product"] + numbers["c"]
    text = template.format(name=rng.choice(NAMES), goods=rng.choice(GOODS), **numbers)
    question, answer = text.removeprefix("Question: ").split("\nAnswer: ")
    return Question(question, answer)


def offline_prompts(questions: list[Question], num_examples: int, seed: int) -> Iterator[str]:
    """Yield prompts without end: num_examples worked examples, then a question to answer.

    Examples are drawn for each prompt, so hardly any prompt shares a prefix with another.
    """
    rng = random.Random(seed)
    while True:
        *examples, last = rng.choices(questions, k=num_examples + 1)
        yield "".join(map(str, examples)) + f"Question: {last.question}\nAnswer:"


class PromptCutter:
    """Cuts prompts of an exact number of tokens out of one long text, each where the last ended."""

    def __init__(self, questions: list[Question], tokenizer: Tokenizer, seed: int) -> None:
        self._questions = random.Random(seed).sample(questions, k=len(questions))
        self._tokenizer = tokenizer
        self._next_question = 0
        self._tokens: list[int] = []

    def take(self, num_tokens: int) -> list[int]:
        """Return the next num_tokens tokens; starts the text again when it is used up."""
        while len(self._tokens) < num_tokens:
            question = self._questions[self._next_question % len(self._questions)]
            self._tokens += self._tokenizer.encode(str(question))
            self._next_question += 1
        taken, self._tokens = self._tokens[:num_tokens], self._tokens[num_tokens:]
        return taken
