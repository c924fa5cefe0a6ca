# SPDX-License-Identifier: Apache-2.0
"""CostLearner: known prices come back from noisy steps, soon, whatever single steps do."""

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hygen_vllm.cost import learner as cost_learner
from hygen_vllm.cost.composition import StepComposition
from hygen_vllm.cost.learner import REFIT_EVERY, STEPS_PER_KIND, CostLearner
from hygen_vllm.cost.step_cost import StepCost
from tests.support.steps import TRUE, decodes, mixed, mixed_steps, noise

GIVEN = [None, TRUE]
"""What a learner begins with: nothing, or the true prices."""


def _chunk(new_tokens: int, computed_tokens: int = 0) -> StepComposition:
    step = StepComposition()
    step.add_prefill(new_tokens, computed_tokens)
    return step


KINDS = [
    StepComposition(1, 100),
    StepComposition(40, 40_000),
    _chunk(16),
    _chunk(100, 1000),
    _chunk(390),
    *mixed_steps(seed=98, count=20),
]
"""Steps with and without prefill, small and large."""


def _errors(cost: StepCost | None, true: StepCost = TRUE) -> np.ndarray:
    """Return relative errors on steps never seen before."""
    assert cost is not None
    return np.array(
        [cost.seconds(s) / true.seconds(s) - 1 for s in mixed_steps(seed=99, count=200)]
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_learner_after_noisy_steps_with_outliers_predicts_the_true_seconds(seed: int) -> None:
    """Known prices, 5% noise, and one step in 50 twenty times too long."""
    rng, learner = random.Random(seed), CostLearner()
    for step in mixed_steps(seed, 600):
        stall = 20 if rng.random() < 0.02 else 1
        learner.observe(step, TRUE.seconds(step) * noise(rng) * stall)
    errors = np.abs(_errors(learner.cost))
    assert np.median(errors) < 0.06
    assert errors.max() < 0.2


@pytest.mark.parametrize("seed", range(5))
def test_learner_from_scratch_predicts_within_few_steps(seed: int) -> None:
    """The first step is enough for a price; after 24 most prices are right."""
    rng, learner = random.Random(seed), CostLearner()
    for step in mixed_steps(seed, 24):
        learner.observe(step, TRUE.seconds(step) * noise(rng))
        assert learner.cost is not None
    assert np.median(np.abs(_errors(learner.cost))) < 0.1


@pytest.mark.parametrize("stall", [10, 1000, 1e9])
def test_learner_after_one_stall_predicts_nearly_the_same(stall: float) -> None:
    """However long a single step takes, no prediction moves by more than a few percent."""
    calm, stalled = CostLearner(), CostLearner()
    for number, step in enumerate(mixed_steps(3, 200)):
        seconds = TRUE.seconds(step)
        calm.observe(step, seconds)
        stalled.observe(step, seconds * (stall if number == 190 else 1))
    assert calm.cost is not None
    assert np.abs(_errors(stalled.cost, calm.cost)).max() < 0.05


def test_learner_after_a_long_time_of_decodes_still_prices_prefills() -> None:
    """Steps of one kind do not wash out those of another."""
    rng, learner = random.Random(4), CostLearner()
    for step in mixed_steps(4, 200):
        learner.observe(step, TRUE.seconds(step))
    for _ in range(1000):
        step = decodes(rng)
        learner.observe(step, TRUE.seconds(step))
    assert np.abs(_errors(learner.cost)).max() < 0.05


def test_learner_after_decodes_as_large_as_prefills_still_prices_prefills() -> None:
    """With or without prefill is another kind, at the same number of tokens too."""
    learner, chunk = CostLearner(), StepComposition()
    chunk.add_prefill(24, 0)
    for number in range(1000):
        step = chunk if number < 20 else StepComposition(16 + number % 16, 100 * number)
        learner.observe(step, TRUE.seconds(step))
    assert learner.cost is not None
    assert learner.cost.seconds(chunk) == pytest.approx(TRUE.seconds(chunk), rel=0.05)


@pytest.mark.parametrize("given", GIVEN, ids=["learned", "given"])
def test_learner_with_many_steps_fits_only_every_so_many(
    given: StepCost | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without prices the first steps are all fitted; later a fit is rare enough to cost nothing."""
    fits: list[int] = []
    done: list[StepComposition] = []
    for name in ("fit_cost", "refit_cost"):
        fit = getattr(cost_learner, name)

        def counted(*args: Any, fit: Any = fit) -> StepCost:
            fits.append(len(done))
            return fit(*args)

        monkeypatch.setattr(cost_learner, name, counted)
    learner, last = CostLearner(given), 256 + 20 * REFIT_EVERY
    for step in mixed_steps(13, last):
        learner.observe(step, TRUE.seconds(step))
        done.append(step)
    assert ([0, 1, 2, 3] if given is None else []) == sorted(
        {number for number in fits if number < 4}
    )
    assert 20 == sum(number >= last - 20 * REFIT_EVERY for number in fits)


def test_learner_on_an_engine_that_became_slower_follows() -> None:
    """Only the latest steps of each kind count: most prices follow, none stays behind by half."""
    learner = CostLearner()
    slower = TRUE.scaled(2)
    for step in mixed_steps(5, 300):
        learner.observe(step, TRUE.seconds(step))
    for step in mixed_steps(6, 40 * STEPS_PER_KIND):
        learner.observe(step, slower.seconds(step))
    errors = np.abs(_errors(learner.cost, slower))
    assert np.median(errors) < 0.05
    assert errors.max() < 0.25


@pytest.mark.parametrize("seconds", [0.0, -0.1, math.nan, math.inf, -math.inf])
def test_step_with_impossible_seconds_is_ignored(seconds: float) -> None:
    """A clock that went wrong teaches nothing, not even that a step was seen."""
    learner = CostLearner()
    for step in mixed_steps(7, 64):
        learner.observe(step, seconds)
    assert learner.cost is None
    assert learner.largest_prefill_tokens == 0
    assert learner.is_new


def test_empty_step_is_ignored() -> None:
    """A step without tokens ran no model."""
    learner = CostLearner()
    for _ in range(64):
        learner.observe(StepComposition(), 0.001)
    assert learner.cost is None


def test_ignored_steps_between_others_change_no_price() -> None:
    """The same steps with and without impossible ones between give the same prices."""
    plain, disturbed = CostLearner(), CostLearner()
    for step in mixed_steps(8, 60):
        plain.observe(step, TRUE.seconds(step))
        disturbed.observe(step, TRUE.seconds(step))
        disturbed.observe(step, math.nan)
        disturbed.observe(StepComposition(), 1.0)
    assert plain.cost is not None
    assert plain.cost == disturbed.cost


def test_step_changed_after_it_was_observed_changes_no_price() -> None:
    """The learner keeps what a step was, not the object."""
    learner, again = CostLearner(), CostLearner()
    for step in mixed_steps(9, 60):
        again.observe(step, TRUE.seconds(step))
        learner.observe(step, TRUE.seconds(step))
        step.add_prefill(1000, 1000)
    assert learner.cost == again.cost


def test_largest_prefill_is_the_most_tokens_seen_in_one_step() -> None:
    """It never falls: a size once measured stays trusted."""
    learner = CostLearner()
    seen = []
    for sizes in ((16,), (30, 40), (50,), ()):
        step = StepComposition(decode_tokens=1)
        for size in sizes:
            step.add_prefill(size, 0)
        learner.observe(step, 0.1)
        seen.append(learner.largest_prefill_tokens)
    assert seen == [16, 70, 70, 70]


def test_learner_is_new_until_four_rings_of_steps_were_seen() -> None:
    """At first every step is worth measuring."""
    learner = CostLearner()
    was_new = []
    for step in mixed_steps(10, 4 * STEPS_PER_KIND + 1):
        was_new.append(learner.is_new)
        learner.observe(step, 0.1)
    assert was_new == 4 * STEPS_PER_KIND * [True] + [False]


def test_given_cost_is_used_from_the_first_step_and_trusted_at_any_size() -> None:
    """A profile prices the first step; without one nothing is known."""
    assert CostLearner(TRUE).cost == TRUE
    assert CostLearner(TRUE).trusts_any_size
    assert CostLearner().cost is None
    assert not CostLearner().trusts_any_size


def test_given_prices_of_what_was_not_seen_stay_as_they_are() -> None:
    """Steps without prefill teach nothing about prefill, however often they are fitted."""
    learner = CostLearner(TRUE)
    step = StepComposition(decode_tokens=4, decode_context_tokens=400)
    for _ in range(4 * REFIT_EVERY):
        learner.observe(step, TRUE.seconds(step))
    assert learner.cost is not None
    step = StepComposition(num_prefills=1, prefill_tokens=4)
    expected = TRUE.added_chunk_seconds(step, 512, 0)
    assert learner.cost.added_chunk_seconds(step, 512, 0) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_learner_with_wrong_given_prices_corrects_them(seed: int) -> None:
    """A profile is where learning begins, not where it ends."""
    wrong = replace(TRUE, prefill_token_s=3 * TRUE.prefill_token_s, base_s=0.7 * TRUE.base_s)
    rng, learner = random.Random(seed), CostLearner(wrong)
    before = np.abs(_errors(learner.cost))
    for step in mixed_steps(seed, 600):
        learner.observe(step, TRUE.seconds(step) * noise(rng, 0.03))
    after = np.abs(_errors(learner.cost))
    assert np.median(after) < 0.03 < 0.2 * np.median(before)
    assert after.max() < 0.15


# --- drift -------------------------------------------------------------------------------------


def _learner_after(given: StepCost | None, seed: int, count: int, share: float) -> CostLearner:
    """Return a learner after so many mixed steps with that share of noise."""
    rng, learner = random.Random(seed), CostLearner(given)
    for step in mixed_steps(seed, count):
        learner.observe(step, TRUE.seconds(step) * noise(rng, share))
    return learner


def _level_errors(learner: CostLearner, true: StepCost) -> np.ndarray:
    """Return the relative errors of a learner's prediction and of its published prices."""
    assert learner.cost is not None
    predicted = [(learner.predict(step), learner.cost.seconds(step)) for step in KINDS]
    seconds = np.array([true.seconds(step) for step in KINDS])
    return np.array(predicted, dtype=np.float64) / seconds[:, None] - 1


@pytest.mark.parametrize("given", GIVEN, ids=["learned", "given"])
@pytest.mark.parametrize("factor", [1.3, 0.7])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_learner_50_steps_after_all_times_changed_by_30_percent_is_within_10_percent(
    given: StepCost | None, factor: float, seed: int
) -> None:
    """A neighbour on the device is noticed within tens of steps, 3% noise or not."""
    learner = _learner_after(given, seed, 400, share=0.03)
    rng = random.Random(seed + 50)
    for step in mixed_steps(seed + 50, 50):
        learner.observe(step, factor * TRUE.seconds(step) * noise(rng, 0.03))
    errors = np.abs(_level_errors(learner, TRUE.scaled(factor)))
    assert np.median(errors) < 0.05
    assert errors.max() < 0.1


@pytest.mark.parametrize("given", GIVEN, ids=["learned", "given"])
@pytest.mark.parametrize("factor", [1.3, 0.75])
@pytest.mark.parametrize("is_fitted", [False, True], ids=["level", "fitted"])
def test_kinds_of_steps_not_seen_since_a_drift_follow_it(
    given: StepCost | None, factor: float, is_fitted: bool
) -> None:
    """Decodes alone show that the device is slower; prefills are then predicted slower too."""
    learner, rng = _learner_after(given, 0, 400, share=0.0), random.Random(60)
    for _ in range(50 if is_fitted else REFIT_EVERY - 1):
        step = decodes(rng)
        learner.observe(step, factor * TRUE.seconds(step))
    errors = np.abs(_level_errors(learner, TRUE.scaled(factor)))
    assert errors.max() < 0.1


def test_given_prices_of_what_was_never_seen_follow_a_drift() -> None:
    """A profile's prefill prices are those of a slower device, too, once decodes show it."""
    learner, rng = CostLearner(TRUE), random.Random(61)
    for _ in range(4 * REFIT_EVERY):
        step = decodes(rng)
        learner.observe(step, 1.3 * TRUE.seconds(step))
    errors = np.abs(_level_errors(learner, TRUE.scaled(1.3)))
    assert errors.max() < 0.05


@pytest.mark.parametrize("given", GIVEN, ids=["learned", "given"])
@pytest.mark.parametrize("share", [0.0, 0.03])
def test_steps_of_one_kind_that_grow_on_a_steady_device_move_no_other_kind(
    given: StepCost | None, share: float
) -> None:
    """Contexts grow with every decode; that is no drift, however long it goes on."""
    learner, rng = _learner_after(given, 1, 64, share), random.Random(62)
    for i in range(600):
        step = StepComposition(32, 32 * (20 + 3 * i))
        learner.observe(step, TRUE.seconds(step) * noise(rng, share))
    errors = np.abs(_level_errors(learner, TRUE))
    assert errors.max() < 0.1


@pytest.mark.parametrize("given", GIVEN, ids=["learned", "given"])
@pytest.mark.parametrize("share", [0.0, 0.03])
@pytest.mark.parametrize("number", [380, 384, 399])
def test_one_step_of_ten_times_its_length_moves_no_prediction_by_2_percent(
    given: StepCost | None, share: float, number: int
) -> None:
    """A single stall is hardly seen, in no kind of step, whenever it comes and long after it."""
    rng = random.Random(1)
    calm, stalled = CostLearner(given), CostLearner(given)
    for i, step in enumerate(mixed_steps(1, 480)):
        seconds = TRUE.seconds(step) * noise(rng, share)
        calm.observe(step, seconds)
        stalled.observe(step, seconds * (10 if i == number else 1))
        if i >= number:
            ratios = [stalled.predict(kind) / calm.predict(kind) for kind in KINDS]  # type: ignore[operator]
            assert np.abs(np.array(ratios) - 1).max() < 0.02


@pytest.mark.parametrize("given", GIVEN, ids=["learned", "given"])
@pytest.mark.parametrize("seconds", [math.nan, 0.0, -0.1, math.inf, -math.inf])
def test_step_with_impossible_seconds_moves_no_prediction(
    given: StepCost | None, seconds: float
) -> None:
    """Neither at once nor in any later fit."""
    plain, disturbed = (_learner_after(given, 2, 100, share=0.03) for _ in range(2))
    for step in mixed_steps(70, 40):
        disturbed.observe(step, seconds)
        disturbed.observe(_chunk(5000), seconds)
        assert plain.cost == disturbed.cost
        for learner in (plain, disturbed):
            learner.observe(step, TRUE.seconds(step))
        predicted = [[each.predict(kind) for kind in KINDS] for each in (plain, disturbed)]
        assert predicted[0] == predicted[1]
    assert plain.largest_prefill_tokens == disturbed.largest_prefill_tokens


@pytest.mark.parametrize("given", GIVEN, ids=["learned", "given"])
def test_published_prices_are_within_a_percent_of_the_prediction(given: StepCost | None) -> None:
    """What the gate charges is what is predicted, up to a change too small to publish."""
    learner, rng = CostLearner(given), random.Random(3)
    for i, step in enumerate(mixed_steps(3, 300)):
        learner.observe(step, TRUE.seconds(step) * noise(rng) * (1 + i / 300))
        assert learner.cost is not None
        predicted = np.array([learner.predict(kind) for kind in KINDS], dtype=np.float64)
        charged = np.array([learner.cost.seconds(kind) for kind in KINDS])
        assert np.abs(charged / predicted - 1).max() < 0.01


@pytest.mark.parametrize("given", GIVEN, ids=["learned", "given"])
def test_noise_alone_makes_no_drift(given: StepCost | None) -> None:
    """Over thousands of noisy steps of a steady device the level stays where it is."""
    learner, rng = CostLearner(given), random.Random(4)
    worst = []
    for i in range(2000):
        step = mixed(rng) if (i // 200) % 2 == 0 else decodes(rng)
        learner.observe(step, TRUE.seconds(step) * noise(rng, 0.03))
        if i >= 400 and i % 50 == 0:
            worst.append(np.abs(_level_errors(learner, TRUE)).max())
    assert np.median(worst) < 0.05
    assert max(worst) < 0.1


def test_prediction_before_the_first_step_is_unknown_or_the_given_one() -> None:
    """Nothing is made up."""
    assert CostLearner().predict(KINDS[0]) is None
    assert CostLearner(TRUE).predict(KINDS[0]) == TRUE.seconds(KINDS[0])
