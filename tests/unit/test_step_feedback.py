# SPDX-License-Identifier: Apache-2.0
"""StepFeedback: a busy engine's step lasts from completion to completion; idle time is nobody's."""

from hygen_vllm.latency.step_features import StepComposition
from hygen_vllm.step_feedback import StepFeedback, StepRecord, StepSample


def _step(tokens: int = 1) -> StepRecord:
    return StepRecord(StepComposition(decode_tokens=tokens))


def test_first_step_lasts_from_its_schedule_to_its_completion() -> None:
    """With nothing before it a step begins when it is scheduled."""
    feedback, record = StepFeedback(), _step()
    feedback.scheduled("a", 10.0, record)
    assert feedback.completed("a", 10.5, is_busy=False) == StepSample(record, 0.5)


def test_step_of_a_busy_engine_lasts_from_the_completion_before() -> None:
    """Work between two steps belongs to the second: a user sees it between two tokens."""
    feedback, record = StepFeedback(), _step()
    feedback.scheduled("a", 10.0, _step())
    feedback.completed("a", 10.5, is_busy=True)
    feedback.scheduled("b", 10.75, record)
    assert feedback.completed("b", 11.0, is_busy=True) == StepSample(record, 0.5)


def test_steps_in_flight_together_each_last_from_the_completion_before() -> None:
    """With steps scheduled ahead the times still add up to the time that passed."""
    feedback = StepFeedback()
    for step, now_s in (("a", 1.0), ("b", 1.25), ("c", 1.5)):
        feedback.scheduled(step, now_s, _step())
    done = [feedback.completed(step, now_s, True) for step, now_s in (("a", 2), ("b", 4), ("c", 7))]
    assert [sample.seconds for sample in done if sample] == [1.0, 2.0, 3.0]


def test_step_after_idle_time_does_not_include_it() -> None:
    """The time in which no request was there is in no sample."""
    feedback, record = StepFeedback(), _step()
    feedback.scheduled("a", 1.0, _step())
    feedback.completed("a", 2.0, is_busy=False)
    feedback.scheduled("b", 100.0, record)
    assert feedback.completed("b", 100.25, is_busy=True) == StepSample(record, 0.25)


def test_step_in_flight_when_the_last_request_ends_lasts_from_that_completion() -> None:
    """A step scheduled ahead of the end is no step after idle time."""
    feedback, record = StepFeedback(), _step()
    feedback.scheduled("a", 1.0, _step())
    feedback.scheduled("b", 1.5, record)
    feedback.completed("a", 2.0, is_busy=False)
    feedback.scheduled("c", 2.25, _step())
    assert feedback.completed("b", 3.0, is_busy=False) == StepSample(record, 1.0)


def test_step_unwanted_has_no_sample_but_ends_the_time_before_the_next() -> None:
    """What is not measured still takes its time, which the next step must not be charged."""
    feedback, wanted = StepFeedback(), _step()
    feedback.scheduled("a", 1.0, None)
    assert feedback.completed("a", 3.0, is_busy=True) is None
    feedback.scheduled("b", 3.5, wanted)
    assert feedback.completed("b", 4.0, is_busy=True) == StepSample(wanted, 1.0)


def test_completion_of_a_later_step_passes_over_those_never_completed() -> None:
    """A step whose output never came is forgotten, not given to another step."""
    feedback, record = StepFeedback(), _step(2)
    feedback.scheduled("lost", 1.0, _step(1))
    feedback.scheduled("b", 2.0, record)
    sample = feedback.completed("b", 3.0, is_busy=True)
    assert sample is not None
    assert sample.record is record


def test_completion_of_an_unknown_step_has_no_sample() -> None:
    """Nothing is made up for a step that was not scheduled here."""
    assert StepFeedback().completed("unknown", 1.0, is_busy=True) is None


def test_equal_steps_are_told_apart_by_identity() -> None:
    """Two steps that compare equal are two steps."""
    feedback, first, second = StepFeedback(), [1], [1]
    feedback.scheduled(first, 1.0, _step(1))
    feedback.scheduled(second, 1.0, _step(2))
    sample = feedback.completed(second, 2.0, is_busy=True)
    assert sample is not None
    assert sample.record == _step(2)
