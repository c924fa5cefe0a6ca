# SPDX-License-Identifier: Apache-2.0
"""How long a request is expected to go on, from those that ended."""

import pytest

from hygen_vllm.kv.output_lengths import REMEMBERED, UNKNOWN, OutputLengths


def lengths_of(*lengths: int) -> OutputLengths:
    lengths_so_far = OutputLengths()
    for length in lengths:
        lengths_so_far.add(length)
    return lengths_so_far


def test_before_any_request_has_ended_a_usual_length_is_expected() -> None:
    """Whatever it may have at most, and as long again when it has made more."""
    assert UNKNOWN == OutputLengths().expected(4000)
    assert 30 == OutputLengths().expected(30)
    assert 1000 == OutputLengths().expected(4000, made=1000)


@pytest.mark.parametrize(
    ("made", "expected"),
    [(0, 40), (9, 31), (10, 45), (29, 26), (30, 50), (79, 1), (80, 80), (100, 100)],
)
def test_those_that_made_more_tell_how_many_are_left(made: int, expected: float) -> None:
    """Of 10, 30 and 80; who made more than all is expected to make as many again."""
    assert expected == lengths_of(80, 10, 30).expected(1000, made)


def test_no_more_is_expected_than_is_allowed() -> None:
    """A request ends at its limit."""
    assert 7 == lengths_of(100).expected(7)
    assert 0 == lengths_of(100).expected(0, made=50)


def test_only_the_last_ones_are_remembered() -> None:
    """Work changes."""
    lengths = lengths_of(*[1000] * 5, *[10] * REMEMBERED)
    assert 10 == lengths.expected(1000)
    lengths.add(10 + REMEMBERED)
    assert 11 == lengths.expected(1000)
