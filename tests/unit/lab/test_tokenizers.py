# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hygen_vllm.lab.workloads.prompt_tokens import VOCABULARY
from hygen_vllm.lab.workloads.tokenizers import HashTokenizer

LAW = settings(derandomize=True, deadline=None, max_examples=100)
ENGLISH = """
The scheduler decides in every step which requests a model works on next. Requests of people who
wait for an answer come first; a batch that nobody watches takes what is left. When the machine is
busy, the batch makes room at once, and when it becomes quiet again, the work continues where it
stopped. Nothing of what had been computed is lost, as long as the memory is not needed elsewhere.
Who runs such a service wants two numbers: how long the slowest one in a hundred had to wait, and
how many words the machine wrote in an hour. A good plan keeps the first below a promise and makes
the second as large as it can be. It is easy to reach one of them alone, and hard to reach both.
"""


@LAW
@given(st.text(max_size=40), st.text(max_size=20), st.text(max_size=20))
def test_texts_that_begin_alike_up_to_a_space_begin_with_the_same_tokens(start, one, two):
    """The space may belong to the next word; everything before it is the same."""
    tokenizer = HashTokenizer()
    common = tokenizer.encode(start)
    for end in (one, two):
        assert common == tokenizer.encode(f"{start} {end}")[: len(common)]


@LAW
@given(st.text(max_size=60), st.integers(1, 200_000), st.integers(-(1 << 70), 1 << 70))
def test_tokens_are_numbers_of_the_vocabulary_for_any_text_and_seed(text, vocabulary, seed):
    """Whatever the text, and however large or negative the seed that a user types."""
    tokens = HashTokenizer(seed, vocabulary).encode(text)
    assert all(0 <= token < vocabulary for token in tokens)


@pytest.mark.parametrize(
    ("text", "num_tokens"),
    [
        ("", 0),
        ("A word", 2),
        ("incomprehensible", 3),
        ("1234", 4),
        ("one, two", 3),
        ("\n\n", 2),
        ("a_b", 1),
        ("  double", 2),
        ("naïve Äpfel", 2),
        ("数学", 1),
        ("\ud83d", 1),
    ],
)
def test_pieces_are_of_up_to_six_letters_or_one_other_character(text, num_tokens):
    """A space belongs to the word after it; even half a character is a token."""
    assert num_tokens == len(HashTokenizer().encode(text))


def test_english_text_has_about_four_characters_a_token():
    """As many tokens as a model's own tokenizer would make, roughly."""
    assert len(ENGLISH) / len(HashTokenizer().encode(ENGLISH)) == pytest.approx(4.2, abs=0.5)


def test_different_words_have_different_tokens():
    """Hardly any two of some hundred words are taken for one another."""
    words = set(ENGLISH.split())
    tokens = {tuple(HashTokenizer().encode(word)) for word in words}
    assert len(words) - 1 <= len(tokens)


def test_seeds_choose_other_tokens_for_the_same_text():
    """The same seed gives the same tokens, another one gives others nearly everywhere."""
    first, again, other = (HashTokenizer(seed).encode(ENGLISH) for seed in (0, 0, 1))
    assert first == again
    assert len(first) == len(other)
    assert 0.01 > sum(map(int.__eq__, first, other)) / len(first)


def test_vocabulary_is_the_one_of_made_tokens_unless_given():
    """A text's tokens and made ones can be served by the same model."""
    tokens = HashTokenizer().encode(ENGLISH)
    assert VOCABULARY > max(tokens) > 0.9 * VOCABULARY
