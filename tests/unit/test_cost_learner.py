# SPDX-License-Identifier: Apache-2.0
"""CostLearner: known prices come back from noisy steps, soon, whatever single steps do."""

import math
import random
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hygen_vllm.latency.cost_learner import (
    REFIT_EVERY,
    SAMPLES_PER_KIND,
    CostLearner,
    fit_relative,
)
from hygen_vllm.latency.step_cost import StepCost
from hygen_vllm.latency.step_features import NUM_FEATURES, StepComposition

TRUE = StepCost(0.02, 2e-4, 3e-8, 1e-3, 1.2e-4, 2e-8, 1e-7, hinge_token_s=(0.0, 5e-5, 0.0, 1e-4))
"""About a small model on a CPU: 20 ms a step, 0.12 ms a prefill token, bends at 128 and 512."""

NOTHING_GIVEN = np.zeros(NUM_FEATURES)


def _decodes(rng: random.Random, most: int = 48) -> StepComposition:
    step = StepComposition()
    for _ in range(rng.randint(1, most)):
        step.add_decode(1, rng.randint(1, 2000))
    return step


def _mixed(rng: random.Random) -> StepComposition:
    step = _decodes(rng)
    for _ in range(rng.randint(0, 2)):
        step.add_prefill(rng.randint(1, 400), rng.choice([0, 0, rng.randint(1, 2000)]))
    return step


def _steps(seed: int, count: int) -> Iterator[StepComposition]:
    rng = random.Random(seed)
    return (_mixed(rng) for _ in range(count))


def _noise(rng: random.Random) -> float:
    """Return 1 give or take a twentieth."""
    return math.exp(rng.gauss(0, 0.05))


def _errors(cost: StepCost | None, true: StepCost = TRUE) -> np.ndarray:
    """Return relative errors on steps never seen before."""
    assert cost is not None
    return np.array([cost.seconds(s) / true.seconds(s) - 1 for s in _steps(seed=99, count=200)])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_learner_after_noisy_steps_with_outliers_predicts_the_true_seconds(seed: int) -> None:
    """Known prices, 5% noise, and one step in 50 twenty times too long."""
    rng, learner = random.Random(seed), CostLearner()
    for step in _steps(seed, 600):
        stall = 20 if rng.random() < 0.02 else 1
        learner.observe(step, TRUE.seconds(step) * _noise(rng) * stall)
    errors = np.abs(_errors(learner.cost))
    assert np.median(errors) < 0.06
    assert errors.max() < 0.2


@pytest.mark.parametrize("seed", range(5))
def test_learner_from_scratch_predicts_within_few_steps(seed: int) -> None:
    """The first step is enough for a price; after 24 most prices are right."""
    rng, learner = random.Random(seed), CostLearner()
    for step in _steps(seed, 24):
        learner.observe(step, TRUE.seconds(step) * _noise(rng))
        assert learner.cost is not None
    assert np.median(np.abs(_errors(learner.cost))) < 0.1


@pytest.mark.parametrize("stall", [10, 1000, 1e9])
def test_learner_after_one_stall_predicts_nearly_the_same(stall: float) -> None:
    """However long a single step takes, no prediction moves by more than a few percent."""
    calm, stalled = CostLearner(), CostLearner()
    for number, step in enumerate(_steps(3, 200)):
        seconds = TRUE.seconds(step)
        calm.observe(step, seconds)
        stalled.observe(step, seconds * (stall if number == 190 else 1))
    assert calm.cost is not None
    assert np.abs(_errors(stalled.cost, calm.cost)).max() < 0.05


def test_learner_after_a_long_time_of_decodes_still_prices_prefills() -> None:
    """Steps of one kind do not wash out those of another."""
    rng, learner = random.Random(4), CostLearner()
    for step in _steps(4, 200):
        learner.observe(step, TRUE.seconds(step))
    for _ in range(1000):
        step = _decodes(rng)
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


def test_learner_with_many_steps_fits_at_once_only_every_so_many() -> None:
    """The first steps are all fitted; later a fit is rare enough to cost nothing."""
    learner, costs = CostLearner(), []
    for step in _steps(13, 256 + 20 * REFIT_EVERY):
        learner.observe(step, TRUE.seconds(step))
        costs.append(learner.cost)
    is_fit = [new is not old for old, new in zip([None, *costs], costs, strict=False)]
    assert all(is_fit[:4])
    assert sum(is_fit[-20 * REFIT_EVERY :]) == 20


def test_learner_on_an_engine_that_became_slower_follows() -> None:
    """Only the latest steps of each kind count: most prices follow, none stays behind by half."""
    learner = CostLearner()
    slower = StepCost.from_coefficients([2 * value for value in TRUE.coefficients()])
    for step in _steps(5, 300):
        learner.observe(step, TRUE.seconds(step))
    for step in _steps(6, 40 * SAMPLES_PER_KIND):
        learner.observe(step, slower.seconds(step))
    errors = np.abs(_errors(learner.cost, slower))
    assert np.median(errors) < 0.05
    assert errors.max() < 0.25


@pytest.mark.parametrize("seconds", [0.0, -0.1, math.nan, math.inf, -math.inf])
def test_step_with_impossible_seconds_is_ignored(seconds: float) -> None:
    """A clock that went wrong teaches nothing, not even that a step was seen."""
    learner = CostLearner()
    for step in _steps(7, 64):
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
    for step in _steps(8, 60):
        plain.observe(step, TRUE.seconds(step))
        disturbed.observe(step, TRUE.seconds(step))
        disturbed.observe(step, math.nan)
        disturbed.observe(StepComposition(), 1.0)
    assert plain.cost is not None
    assert plain.cost == disturbed.cost


def test_step_changed_after_it_was_observed_changes_no_price() -> None:
    """The learner keeps what a step was, not the object."""
    learner, again = CostLearner(), CostLearner()
    for step in _steps(9, 60):
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
    for step in _steps(10, 4 * SAMPLES_PER_KIND + 1):
        was_new.append(learner.is_new)
        learner.observe(step, 0.1)
    assert was_new == 4 * SAMPLES_PER_KIND * [True] + [False]


def test_given_cost_is_used_from_the_first_step_and_trusted_at_any_size() -> None:
    """A profile prices the first step; without one nothing is known."""
    assert CostLearner(TRUE).cost == TRUE
    assert CostLearner(TRUE).trusts_any_size
    assert CostLearner().cost is None
    assert not CostLearner().trusts_any_size


def test_fit_of_exact_steps_returns_their_prices() -> None:
    """Without noise the coefficients come back, up to the small ridge."""
    steps = list(_steps(11, 400))
    features = np.array([step.features() for step in steps])
    seconds = np.array([TRUE.seconds(step) for step in steps])
    predicted = features @ fit_relative(features, seconds, NOTHING_GIVEN)
    assert predicted == pytest.approx(seconds, rel=0.03)


def test_fit_of_a_feature_never_seen_gives_it_no_price() -> None:
    """Decodes alone say nothing of prefills."""
    rng = random.Random(12)
    steps = [_decodes(rng) for _ in range(40)]
    features = np.array([step.features() for step in steps])
    coefficients = fit_relative(
        features, np.array([TRUE.seconds(step) for step in steps]), NOTHING_GIVEN
    )
    assert coefficients[3:7].tolist() == [0, 0, 0, 0]
    assert coefficients[0] == pytest.approx(TRUE.base_s, rel=0.1)


def test_fit_of_features_that_move_together_shares_the_price_among_them() -> None:
    """Where data cannot tell features apart none of them takes all: each takes as much."""
    features = np.zeros((40, NUM_FEATURES))
    features[:, 0] = 1
    chunks = np.arange(40) % 5
    features[:, 3:7] = np.outer(chunks, [1, 16, 128, 16])
    coefficients = fit_relative(features, 0.02 + 0.01 * chunks, NOTHING_GIVEN)
    shares = coefficients[3:7] * [1, 16, 128, 16]
    assert shares == pytest.approx(np.full(4, 0.01 / 4), rel=0.02)


SAMPLES = st.lists(
    st.tuples(
        st.integers(0, 64), st.integers(0, 10**6), st.integers(0, 8192), st.floats(1e-6, 1e6)
    ),
    min_size=1,
    max_size=20,
)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(SAMPLES)
def test_fit_of_any_steps_gives_prices_finite_and_not_negative(
    samples: list[tuple[int, int, int, float]],
) -> None:
    """Whatever was measured, more work never costs less and learning never fails."""
    steps = []
    for num_decodes, computed_tokens, new_tokens, _ in samples:
        step = StepComposition(decode_tokens=num_decodes, decode_context_tokens=computed_tokens)
        if new_tokens:
            step.add_prefill(new_tokens, computed_tokens)
        steps.append(step.features())
    coefficients = fit_relative(
        np.array(steps), np.array([sample[3] for sample in samples]), NOTHING_GIVEN
    )
    assert coefficients.shape == (NUM_FEATURES,)
    assert np.isfinite(coefficients).all()
    assert (coefficients >= 0).all()


def test_given_prices_of_what_was_not_seen_stay_as_they_are() -> None:
    """A step without prefill teaches nothing about prefill."""
    learner = CostLearner(TRUE)
    step = StepComposition(decode_tokens=4, decode_context_tokens=400)
    learner.observe(step, TRUE.seconds(step))
    assert learner.cost is not None
    expected = TRUE.added_chunk_seconds(4, 512, 0)
    assert learner.cost.added_chunk_seconds(4, 512, 0) == pytest.approx(expected, rel=0.5)
