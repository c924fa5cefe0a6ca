# SPDX-License-Identifier: Apache-2.0
"""StepFeedback: a busy engine's step lasts from completion to completion; idle time is nobody's."""

import pytest

from hygen_vllm.step.feedback import MeasuredStep, StepFeedback

Size = tuple[int, int]
DECODES: Size = (4, 4)
PREFILL: Size = (4, 600)
"""Requests and tokens."""


def _step(size: Size = DECODES) -> MeasuredStep:
    return MeasuredStep(*size)


def _seconds(step: MeasuredStep | None) -> float:
    assert step is not None
    return step.seconds


def test_first_step_lasts_from_its_schedule_to_its_completion() -> None:
    """With nothing before it a step begins when it is scheduled."""
    feedback, step = StepFeedback(), _step()
    feedback.scheduled("a", 10.0, step)
    assert feedback.completed("a", 10.5, is_busy=False) is step
    assert 0.5 == step.seconds


def test_step_of_a_busy_engine_lasts_from_the_completion_before() -> None:
    """Work between two steps belongs to the second: a user sees it between two tokens."""
    feedback, step = StepFeedback(), _step()
    feedback.scheduled("a", 10.0, _step())
    feedback.completed("a", 10.5, is_busy=True)
    feedback.scheduled("b", 10.75, step)
    assert feedback.completed("b", 11.0, is_busy=True) is step
    assert 0.5 == step.seconds


def test_steps_in_flight_together_each_last_from_the_completion_before() -> None:
    """With steps scheduled ahead the times still add up to the time that passed."""
    feedback = StepFeedback()
    for step, now_s in (("a", 1.0), ("b", 1.25), ("c", 1.5)):
        feedback.scheduled(step, now_s, _step())
    done = [feedback.completed(step, now_s, True) for step, now_s in (("a", 2), ("b", 4), ("c", 7))]
    assert [sample.seconds for sample in done if sample] == [1.0, 2.0, 3.0]


def test_step_after_idle_time_does_not_include_it() -> None:
    """The time in which no request was there is in no sample."""
    feedback, step = StepFeedback(), _step()
    feedback.scheduled("a", 1.0, _step())
    feedback.completed("a", 2.0, is_busy=False)
    feedback.scheduled("b", 100.0, step)
    assert feedback.completed("b", 100.25, is_busy=True) is step
    assert 0.25 == step.seconds


def test_step_in_flight_when_the_last_request_ends_lasts_from_that_completion() -> None:
    """A step scheduled ahead of the end is no step after idle time."""
    feedback, step = StepFeedback(), _step()
    feedback.scheduled("a", 1.0, _step())
    feedback.scheduled("b", 1.5, step)
    feedback.completed("a", 2.0, is_busy=False)
    feedback.scheduled("c", 2.25, _step())
    assert feedback.completed("b", 3.0, is_busy=False) is step
    assert 1.0 == step.seconds


def test_step_in_a_full_pipeline_lasts_as_long_as_its_requests_wait_for_a_token() -> None:
    """Two completions in a second, two stages: between two tokens of a request lies a second."""
    feedback = StepFeedback(num_stages=2)
    first, second = _step(), _step()
    feedback.scheduled("a", 10.0, first)
    feedback.scheduled("b", 10.25, second)
    seconds = _seconds(feedback.completed("a", 11.0, is_busy=True))
    assert 1.0 == seconds, "nothing ran before it"
    feedback.scheduled("c", 11.0, _step())
    assert 1.0 == _seconds(feedback.completed("b", 11.5, is_busy=True))


def test_completion_of_a_later_step_passes_over_those_never_completed() -> None:
    """A step whose output never came is forgotten, not given to another step."""
    feedback, step = StepFeedback(), _step()
    feedback.scheduled("lost", 1.0, _step())
    feedback.scheduled("b", 2.0, step)
    assert feedback.completed("b", 3.0, is_busy=True) is step


def test_completion_of_an_unknown_step_has_no_sample() -> None:
    """Nothing is made up for a step that was not scheduled here."""
    assert StepFeedback().completed("unknown", 1.0, is_busy=True) is None


def test_equal_steps_are_told_apart_by_identity() -> None:
    """Two steps that compare equal are two steps."""
    feedback, step, first, second = StepFeedback(), _step(), [1], [1]
    feedback.scheduled(first, 1.0, _step())
    feedback.scheduled(second, 1.0, step)
    assert feedback.completed(second, 2.0, is_busy=True) is step


@pytest.mark.parametrize(
    ("before", "behind", "is_steady"),
    [(PREFILL, PREFILL, True), (DECODES, PREFILL, False), (PREFILL, DECODES, False)],
)
def test_step_among_others_in_flight_is_steady_if_both_neighbours_are_of_its_kind(
    before: Size, behind: Size, is_steady: bool
) -> None:
    """Else its time is in part that of launching a neighbour, or was in the one before."""
    feedback = StepFeedback()
    feedback.scheduled("a", 1.0, _step(before))
    feedback.scheduled("b", 1.1, _step(PREFILL))
    feedback.completed("a", 1.5, is_busy=True)
    feedback.scheduled("c", 1.6, _step(behind))
    sample = feedback.completed("b", 2.0, is_busy=True)
    assert sample is not None
    assert sample.is_steady is is_steady


def test_first_and_last_of_steps_in_flight_together_are_not_steady() -> None:
    """One has no neighbour before it, the other none whose launch would show in its time."""
    feedback = StepFeedback()
    for step in "abc":
        feedback.scheduled(step, 1.0, _step())
    samples = [feedback.completed(step, 2.0, is_busy=step != "c") for step in "abc"]
    assert [sample.is_steady for sample in samples if sample] == [False, True, False]


def test_step_alone_in_flight_is_steady_whatever_ran_before() -> None:
    """Its launch and its work are both in its time."""
    feedback, samples = StepFeedback(), []
    for size in (DECODES, PREFILL, DECODES):
        feedback.scheduled("a", 1.0, _step(size))
        samples.append(feedback.completed("a", 1.5, is_busy=True))
    assert [sample.is_steady for sample in samples if sample] == [True, True, True]


@pytest.mark.parametrize(
    ("one", "other", "are_alike"),
    [
        ((3, 3), (6, 6), True),
        ((3, 3), (7, 7), False),
        ((4, 4), (4, 5), False),
        ((4, 300), (9, 600), True),
        ((4, 300), (4, 601), False),
        ((0, 0), (1, 1), False),
    ],
)
def test_steps_are_alike_if_both_or_neither_have_prefill_and_none_is_twice_as_large(
    one: Size, other: Size, are_alike: bool
) -> None:
    """Decodes alone are launched as one graph, and larger steps take longer to launch."""
    assert _step(one).is_like(_step(other)) is are_alike
    assert _step(other).is_like(_step(one)) is are_alike
