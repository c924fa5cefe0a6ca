# SPDX-License-Identifier: Apache-2.0
import json
from collections import Counter

import pytest

from hygen_vllm.lab.workloads import data_dir, few_shot
from hygen_vllm.lab.workloads.arrivals import Arrival
from hygen_vllm.lab.workloads.few_shot import GSM8K_TEST, GSM8K_TRAIN, gsm8k_requests, mmlu_requests
from hygen_vllm.lab.workloads.tokenizers import HashTokenizer
from tests.support.workload_files import LetterTokenizer, needs_data, refusal, write_lines

COLUMNS = "question,choice0,choice1,choice2,choice3,answer"
START = "The following are multiple choice questions (with answers) about small talk.\n\n"
KV_BLOCK = 16


@pytest.fixture
def mmlu(tmp_path):
    """A folder with two subjects: one with questions, one with two examples only."""
    examples = [f"E{number},a,b,c,d,{number % 4}" for number in range(7)]
    questions = [f"Q{number},one,two,three,four,2" for number in range(20)]
    for part, rows in (("dev", examples), ("test", questions)):
        write_lines(tmp_path / "mmlu" / part / f"small_talk_{part}.csv", COLUMNS, *rows)
    write_lines(tmp_path / "mmlu" / "dev" / "zoo_dev.csv", COLUMNS, *examples[:2])
    write_lines(
        tmp_path / "mmlu" / "test" / "zoo_test.csv", COLUMNS, '"How many,\nthen?",1,2,3,4,0'
    )
    return tmp_path


@pytest.fixture
def gsm8k(tmp_path):
    """A folder with ten worked examples and twenty questions with answers of other lengths."""
    for name, letter, count in ((GSM8K_TRAIN, "e", 10), (GSM8K_TEST, "q", 20)):
        rows = [{"question": f"{letter}{n}", "answer": "!" * n} for n in range(count)]
        write_lines(tmp_path / name, *map(json.dumps, rows))
    return tmp_path


def _texts(requests: list[Arrival]) -> list[str]:
    return ["".join(map(chr, item.token_ids(0))) for item in requests]


def _shared(requests: list[Arrival]) -> float:
    """Return the share of tokens in blocks of 16 that an earlier prompt begins with as well."""
    seen: set[int] = set()
    num_shared = 0
    for request in requests:
        tokens = request.token_ids(0)
        prefix = 0
        for start in range(0, len(tokens) - KV_BLOCK + 1, KV_BLOCK):
            prefix = hash((prefix, *tokens[start : start + KV_BLOCK]))
            num_shared += KV_BLOCK * (prefix in seen)
            seen.add(prefix)
    return num_shared / sum(request.prompt_tokens for request in requests)


def test_mmlu_prompt_is_five_examples_of_its_subject_and_a_question(mmlu):
    """Letters for the choices, an answer behind each example, none behind the question."""
    texts = _texts(mmlu_requests(mmlu, LetterTokenizer(), seed=0))
    shown = [f"E{n}\nA. a\nB. b\nC. c\nD. d\nAnswer: {'ABCD'[n % 4]}\n\n" for n in range(5)]
    question = "Q3\nA. one\nB. two\nC. three\nD. four\nAnswer:"
    assert 21 == len(texts)
    assert START + "".join(shown) + question in texts


def test_mmlu_files_without_a_header_and_with_letters_give_the_same_prompts(mmlu):
    """As the set was first published."""
    expected = mmlu_requests(mmlu, LetterTokenizer(), seed=0)
    for path in (mmlu / "mmlu").rglob("*.csv"):
        _, *rows = path.read_text(encoding="utf-8").splitlines()
        lettered = [f"{row[:-1]}{'ABCD'[int(row[-1])]}" if row[-2] == "," else row for row in rows]
        path.write_text("\n".join(lettered) + "\n", encoding="utf-8")
    assert expected == mmlu_requests(mmlu, LetterTokenizer(), seed=0)


def test_mmlu_subjects_have_their_own_examples_as_many_as_there_are(mmlu):
    """A field may hold commas and ends of lines."""
    texts = _texts(mmlu_requests(mmlu, LetterTokenizer(), seed=0))
    (of_zoo,) = (text for text in texts if " about zoo.\n\n" in text)
    assert 2 == of_zoo.count("Answer: ")
    assert of_zoo.endswith("How many,\nthen?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:")


def test_mmlu_answers_are_two_tokens_and_all_is_there_from_the_start(mmlu):
    """The letter and the end of the text."""
    requests = mmlu_requests(mmlu, LetterTokenizer(), seed=0)
    assert {(0.0, 2)} == {(item.time_s, item.output_tokens) for item in requests}
    assert all(item.prompt_tokens == len(item.token_ids(0)) for item in requests)


@pytest.mark.parametrize(
    "row",
    [
        "Why?,a,b,c,d",
        "Why?,a,b,c,d,4",
        "Why?,a,b,c,d,E",
        "Why?,a,b,c,d,",
        "Why?,a,b,c,d,01",
        "Why?,a,b,c,d,1,2",
        "\x00",
    ],
)
@pytest.mark.parametrize("part", ["dev", "test"])
def test_mmlu_broken_row_is_reported_with_file_and_the_line_where_it_begins(mmlu, part, row):
    """Counted as an editor does, with blank lines and fields that go over several lines."""
    path = mmlu / "mmlu" / part / f"zoo_{part}.csv"
    write_lines(path, COLUMNS, '"Two\nlines?",a,b,c,d,1', "", row, "Last?,a,b,c,d,0")
    message = refusal(lambda: mmlu_requests(mmlu, LetterTokenizer(), seed=0))
    assert f"{path}:5: expected a question, four choices and the number of one" == message


def test_mmlu_broken_row_of_several_lines_is_reported_with_its_first(mmlu):
    """Where it begins is where a reader starts to look."""
    path = mmlu / "mmlu" / "test" / "zoo_test.csv"
    write_lines(
        path, COLUMNS, '"Two\nlines?",a,b,c,d,1', '"Three\nmore\nlines?",a,b', "x,a,b,c,d,0"
    )
    message = refusal(lambda: mmlu_requests(mmlu, LetterTokenizer(), seed=0))
    assert message.startswith(f"{path}:4: expected a question")


@pytest.mark.parametrize("rest", [b'"' + b"x" * 200_000, b"\xff\xfe\n"])
def test_mmlu_file_that_is_no_csv_is_reported_with_file_and_line(mmlu, rest):
    """Neither an open quote nor bytes that are no text end in a traceback."""
    path = mmlu / "mmlu" / "test" / "zoo_test.csv"
    path.write_bytes(COLUMNS.encode() + b"\nWhy?,a,b,c,d,1\n" + rest)
    message = refusal(lambda: mmlu_requests(mmlu, LetterTokenizer(), seed=0))
    assert message.startswith(f"{path}:3: ")


def test_mmlu_folder_without_questions_is_refused_with_what_was_looked_for(tmp_path):
    """A data folder may hold other sets only."""
    folder = tmp_path / "mmlu" / "test"
    message = refusal(lambda: mmlu_requests(tmp_path, LetterTokenizer(), seed=0))
    assert f"{folder}: no file SUBJECT_test.csv" == message


def test_mmlu_subject_without_examples_is_an_error_of_its_file(mmlu):
    """No subject is served without examples in silence."""
    (mmlu / "mmlu" / "dev" / "zoo_dev.csv").unlink()
    with pytest.raises(OSError, match=r"zoo_dev\.csv"):
        mmlu_requests(mmlu, LetterTokenizer(), seed=0)


def test_gsm8k_prompt_is_the_first_eight_examples_and_a_question(gsm8k):
    """All prompts begin alike and end where the model answers."""
    texts = _texts(gsm8k_requests(gsm8k, LetterTokenizer(), seed=0))
    shown = "".join(f"Question: e{n}\nAnswer: {'!' * n}\n\n" for n in range(8))
    assert sorted(f"{shown}Question: q{n}\nAnswer:" for n in range(20)) == sorted(texts)


def test_gsm8k_outputs_are_as_long_as_the_answers_and_never_empty(gsm8k):
    """Answers of 0 to 19 letters; even an empty one takes a token."""
    requests = gsm8k_requests(gsm8k, LetterTokenizer(), seed=0)
    found = {
        int(text.removesuffix("\nAnswer:").rpartition("q")[2]): item.output_tokens
        for text, item in zip(_texts(requests), requests, strict=True)
    }
    assert {number: max(1, number) for number in range(20)} == found


@pytest.mark.parametrize("name", [GSM8K_TRAIN, GSM8K_TEST])
def test_gsm8k_broken_row_is_reported_with_file_and_line(gsm8k, name):
    """Of examples as of questions; blank lines count."""
    write_lines(gsm8k / name, '{"question": "a", "answer": "b"}', "", '{"question": "a"}')
    message = refusal(lambda: gsm8k_requests(gsm8k, LetterTokenizer(), seed=0))
    assert message.startswith(f"{gsm8k / name}:3: expected a JSON object")


@pytest.mark.parametrize("make", [mmlu_requests, gsm8k_requests])
def test_order_is_shuffled_by_the_seed(make, mmlu, gsm8k):
    """Every seed serves the same requests, each in its own order."""
    first, again, other = (make(mmlu, LetterTokenizer(), seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert Counter(_texts(first)) == Counter(_texts(other))
    assert sorted(_texts(first)) != _texts(first)


@pytest.fixture
def few_built_in(monkeypatch):
    """Built-in subjects take seconds if there are 57; six do as well."""
    monkeypatch.setattr(few_shot, "NUM_BUILT_IN_SUBJECTS", 6)


def test_built_in_mmlu_prompts_share_about_as_much_as_real_ones(few_built_in):
    """Of 245 questions of a subject, all begin with its examples: some 85 % of tokens."""
    requests = mmlu_requests(None, HashTokenizer(), seed=0)
    assert 6 * 245 == len(requests)
    assert _shared(requests) == pytest.approx(0.85, abs=0.03)


def test_built_in_gsm8k_prompts_share_about_as_much_as_real_ones(few_built_in):
    """All begin with the same eight examples: some 95 % of tokens."""
    requests = gsm8k_requests(None, HashTokenizer(), seed=0)
    assert 6 * 20 - 8 == len(requests)
    assert _shared(requests) == pytest.approx(0.95, abs=0.02)
    assert 20 < min(item.output_tokens for item in requests)


def test_built_in_mmlu_answers_are_among_the_choices(few_built_in):
    """The letter of an example is that of the number which its worked answer comes to."""
    text = _texts(mmlu_requests(None, LetterTokenizer(), seed=0))[0]
    example = text.split("\n\n")[1]
    letter = example.rpartition("Answer: ")[2]
    choices = [int(line[3:]) for line in example.splitlines() if line[1:3] == ". "]
    assert [choices[0] + step for step in range(4)] == choices
    assert "ABCD"[int(text.split(" about subject ")[1].split(".")[0]) % 4] == letter


@pytest.mark.parametrize("make", [mmlu_requests, gsm8k_requests])
def test_built_in_prompts_are_seeded(make, few_built_in):
    """The same seed gives the same prompts, another one none of them."""
    first, again, other = (make(None, HashTokenizer(), seed) for seed in (1, 1, 2))
    assert first == again
    assert {tuple(item.token_ids(0)) for item in first}.isdisjoint(
        tuple(item.token_ids(0)) for item in other
    )


@needs_data
def test_real_mmlu_prompts_share_85_percent(tmp_path):
    """Measured on every sixth subject, which takes a sixth of the time."""
    for path in sorted((data_dir() / "mmlu" / "test").glob("*_test.csv"))[::6]:
        for part in ("dev", "test"):
            link = tmp_path / "mmlu" / part / path.name.replace("_test.", f"_{part}.")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(data_dir() / "mmlu" / part / link.name)
    requests = mmlu_requests(tmp_path, HashTokenizer(), seed=0)
    assert 1500 < len(requests)
    assert _shared(requests) == pytest.approx(0.85, abs=0.03)


@needs_data
def test_real_gsm8k_prompts_share_95_percent(tmp_path):
    """Measured on the first 300 questions."""
    for name, count in ((GSM8K_TRAIN, 8), (GSM8K_TEST, 300)):
        lines = (data_dir() / name).read_text(encoding="utf-8").splitlines()
        write_lines(tmp_path / name, *lines[:count])
    requests = gsm8k_requests(tmp_path, HashTokenizer(), seed=0)
    assert 300 == len(requests)
    assert _shared(requests) == pytest.approx(0.95, abs=0.01)
