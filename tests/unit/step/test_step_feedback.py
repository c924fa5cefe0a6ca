# SPDX-License-Identifier: Apache-2.0
"""StepFeedback: a busy engine's step lasts from completion to completion; idle time is nobody's."""

import pytest

from hygen_vllm.price.composition import StepComposition
from hygen_vllm.step.feedback import StepFeedback, StepRecord, StepSample, StepSize

DECODES = StepSize(4, 4)
PREFILL = StepSize(4, 600)


def _step(tokens: int = 1) -> StepRecord:
    return StepRecord(StepComposition(decode_tokens=tokens))


def test_first_step_lasts_from_its_schedule_to_its_completion() -> None:
    """With nothing before it a step begins when it is scheduled."""
    feedback, record = StepFeedback(), _step()
    feedback.scheduled("a", 10.0, record, DECODES)
    assert feedback.completed("a", 10.5, is_busy=False) == StepSample(record, 0.5)


def test_step_of_a_busy_engine_lasts_from_the_completion_before() -> None:
    """Work between two steps belongs to the second: a user sees it between two tokens."""
    feedback, record = StepFeedback(), _step()
    feedback.scheduled("a", 10.0, _step(), DECODES)
    feedback.completed("a", 10.5, is_busy=True)
    feedback.scheduled("b", 10.75, record, DECODES)
    assert feedback.completed("b", 11.0, is_busy=True) == StepSample(record, 0.5)


def test_steps_in_flight_together_each_last_from_the_completion_before() -> None:
    """With steps scheduled ahead the times still add up to the time that passed."""
    feedback = StepFeedback()
    for step, now_s in (("a", 1.0), ("b", 1.25), ("c", 1.5)):
        feedback.scheduled(step, now_s, _step(), DECODES)
    done = [feedback.completed(step, now_s, True) for step, now_s in (("a", 2), ("b", 4), ("c", 7))]
    assert [sample.seconds for sample in done if sample] == [1.0, 2.0, 3.0]


def test_step_after_idle_time_does_not_include_it() -> None:
    """The time in which no request was there is in no sample."""
    feedback, record = StepFeedback(), _step()
    feedback.scheduled("a", 1.0, _step(), DECODES)
    feedback.completed("a", 2.0, is_busy=False)
    feedback.scheduled("b", 100.0, record, DECODES)
    assert feedback.completed("b", 100.25, is_busy=True) == StepSample(record, 0.25)


def test_step_in_flight_when_the_last_request_ends_lasts_from_that_completion() -> None:
    """A step scheduled ahead of the end is no step after idle time."""
    feedback, record = StepFeedback(), _step()
    feedback.scheduled("a", 1.0, _step(), DECODES)
    feedback.scheduled("b", 1.5, record, DECODES)
    feedback.completed("a", 2.0, is_busy=False)
    feedback.scheduled("c", 2.25, _step(), DECODES)
    assert feedback.completed("b", 3.0, is_busy=False) == StepSample(record, 1.0)


def test_step_in_a_full_pipeline_lasts_as_long_as_its_requests_wait_for_a_token() -> None:
    """Two completions in a second, two stages: between two tokens of a request lies a second."""
    feedback = StepFeedback(num_stages=2)
    first, second = _step(), _step()
    feedback.scheduled("a", 10.0, first, DECODES)
    feedback.scheduled("b", 10.25, second, DECODES)
    sample = feedback.completed("a", 11.0, is_busy=True)
    assert sample is not None
    assert 1.0 == sample.seconds, "nothing ran before it"
    feedback.scheduled("c", 11.0, None, DECODES)
    sample = feedback.completed("b", 11.5, is_busy=True)
    assert sample is not None
    assert 1.0 == sample.seconds


def test_step_unwanted_has_no_sample_but_ends_the_time_before_the_next() -> None:
    """What is not measured still takes its time, which the next step must not be charged."""
    feedback, wanted = StepFeedback(), _step()
    feedback.scheduled("a", 1.0, None, DECODES)
    assert feedback.completed("a", 3.0, is_busy=True) is None
    feedback.scheduled("b", 3.5, wanted, DECODES)
    assert feedback.completed("b", 4.0, is_busy=True) == StepSample(wanted, 1.0)


def test_completion_of_a_later_step_passes_over_those_never_completed() -> None:
    """A step whose output never came is forgotten, not given to another step."""
    feedback, record = StepFeedback(), _step(2)
    feedback.scheduled("lost", 1.0, _step(1), DECODES)
    feedback.scheduled("b", 2.0, record, DECODES)
    sample = feedback.completed("b", 3.0, is_busy=True)
    assert sample is not None
    assert sample.record is record


def test_completion_of_an_unknown_step_has_no_sample() -> None:
    """Nothing is made up for a step that was not scheduled here."""
    assert StepFeedback().completed("unknown", 1.0, is_busy=True) is None


def test_equal_steps_are_told_apart_by_identity() -> None:
    """Two steps that compare equal are two steps."""
    feedback, first, second = StepFeedback(), [1], [1]
    feedback.scheduled(first, 1.0, _step(1), DECODES)
    feedback.scheduled(second, 1.0, _step(2), DECODES)
    sample = feedback.completed(second, 2.0, is_busy=True)
    assert sample is not None
    assert sample.record == _step(2)


@pytest.mark.parametrize(
    ("before", "behind", "is_steady"),
    [(PREFILL, PREFILL, True), (DECODES, PREFILL, False), (PREFILL, DECODES, False)],
)
def test_step_among_others_in_flight_is_steady_if_both_neighbours_are_of_its_kind(
    before: StepSize, behind: StepSize, is_steady: bool
) -> None:
    """Else its time is in part that of launching a neighbour, or was in the one before."""
    feedback = StepFeedback()
    feedback.scheduled("a", 1.0, None, before)
    feedback.scheduled("b", 1.1, _step(), PREFILL)
    feedback.completed("a", 1.5, is_busy=True)
    feedback.scheduled("c", 1.6, None, behind)
    sample = feedback.completed("b", 2.0, is_busy=True)
    assert sample is not None
    assert sample.is_steady is is_steady


def test_first_and_last_of_steps_in_flight_together_are_not_steady() -> None:
    """One has no neighbour before it, the other none whose launch would show in its time."""
    feedback = StepFeedback()
    for step in "abc":
        feedback.scheduled(step, 1.0, _step(), DECODES)
    samples = [feedback.completed(step, 2.0, is_busy=step != "c") for step in "abc"]
    assert [sample.is_steady for sample in samples if sample] == [False, True, False]


def test_step_alone_in_flight_is_steady_whatever_ran_before() -> None:
    """Its launch and its work are both in its time."""
    feedback, samples = StepFeedback(), []
    for size in (DECODES, PREFILL, DECODES):
        feedback.scheduled("a", 1.0, _step(), size)
        samples.append(feedback.completed("a", 1.5, is_busy=True))
    assert [sample.is_steady for sample in samples if sample] == [True, True, True]


@pytest.mark.parametrize(
    ("one", "other", "are_alike"),
    [
        (StepSize(3, 3), StepSize(6, 6), True),
        (StepSize(3, 3), StepSize(7, 7), False),
        (StepSize(4, 4), StepSize(4, 5), False),
        (StepSize(4, 300), StepSize(9, 600), True),
        (StepSize(4, 300), StepSize(4, 601), False),
        (StepSize(0, 0), StepSize(1, 1), False),
    ],
)
def test_steps_are_alike_if_both_or_neither_have_prefill_and_none_is_twice_as_large(
    one: StepSize, other: StepSize, are_alike: bool
) -> None:
    """Decodes alone are launched as one graph, and larger steps take longer to launch."""
    assert one.is_like(other) is are_alike
    assert other.is_like(one) is are_alike
