# SPDX-License-Identifier: Apache-2.0
"""OnlineAlone: the times of a chunked-prefill, first come first served engine, step by step."""

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hygen_vllm.cost.composition import StepComposition
from hygen_vllm.targets.online_alone import (
    MOST_LAG_S,
    MOST_STEPS_AT_ONCE,
    AloneRequest,
    EngineLimits,
    OnlineAlone,
)

LAW = settings(derandomize=True, deadline=None, max_examples=60)
Seconds = Callable[[StepComposition], float]
Request = tuple[float, int, int, int]
"""Arrival, prompt tokens to compute, tokens made, cached tokens."""


class _Engine:
    """An engine of eight tokens and one second a step, if not told otherwise."""

    def __init__(self, step_seconds: Seconds = lambda _: 1.0, **limits: int) -> None:
        few = {"max_step_tokens": 8, "max_requests": 8, "kv_tokens": 1000, "is_async": False}
        self.steps: list[StepComposition] = []
        self.gaps: list[tuple[float, int]] = []
        self.ttft_s: list[tuple[float, float]] = []
        """(arrival, TTFT) of each request, in the order of their first tokens."""
        self.alone = OnlineAlone(
            EngineLimits(**(few | limits)),
            gaps=lambda *gap: self.gaps.append(gap),
            first_token=lambda one, ttft_s: self.ttft_s.append((one.arrival_s, ttft_s)),
        )
        self._step_seconds = step_seconds

    def _seconds(self, step: StepComposition) -> float:
        self.steps.append(step)
        return self._step_seconds(step)

    def arrive(
        self, arrival_s: float, prompt: int = 1, made: int = 1, cached: int = 0, over: bool = True
    ) -> AloneRequest:
        """Add a request that made so many tokens, and no more if it is over."""
        request = AloneRequest(arrival_s, prompt, cached, 0.0, made, over)
        self.alone.arrive(request)
        return request

    def advance(self, until_s: float = 50.0) -> None:
        self.alone.advance(self._seconds, until_s)

    @property
    def prefills(self) -> list[int]:
        """Prefill tokens of each step."""
        return [step.prefill_tokens for step in self.steps]


def _served(*requests: tuple[float, int, int], **limits: int) -> _Engine:
    """Return an engine after it served (arrival, prompt tokens, tokens made) of each request."""
    engine = _Engine(**limits)
    for request in requests:
        engine.arrive(*request)
    engine.advance()
    return engine


def _step(*chunks: tuple[int, int], decodes: tuple[int, int] = (0, 0)) -> StepComposition:
    """Return a step with chunks of (new, computed) tokens, and decodes: (number, context)."""
    step = StepComposition(*decodes)
    for new_tokens, computed_tokens in chunks:
        step.add_prefill(new_tokens, computed_tokens)
    return step


# --- small cases -------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True])
def test_request_in_an_idle_engine_starts_at_once(is_async: bool) -> None:
    """One step to the first token, one to each other, with a context that grows."""
    engine = _served((2.5, 5, 3), is_async=is_async)
    assert [(2.5, 1.0)] == engine.ttft_s
    assert [(1.0, 1), (1.0, 1)] == engine.gaps
    assert [_step((5, 0)), *(_step(decodes=(1, n)) for n in (5, 6))] == engine.steps


def test_request_alone_in_a_pipeline_has_a_token_a_step() -> None:
    """All stages work for it one after the other; nobody else is served meanwhile."""
    engine = _served((0.0, 5, 3), num_stages=2)
    assert [(0.0, 1.0)] == engine.ttft_s
    assert [(1.0, 1), (1.0, 1)] == engine.gaps


def test_two_prompts_in_a_pipeline_take_turns_and_lose_nothing() -> None:
    """The second completes a stage after the first; each has its tokens as if it were alone."""
    engine = _served((0.0, 8, 3), (0.0, 8, 3), num_stages=2)
    assert [(0.0, 1.0), (0.0, 1.5)] == engine.ttft_s
    assert [(1.0, 1)] * 4 == engine.gaps


@pytest.mark.parametrize(("new_tokens", "ttft_s"), [(4, 2.5), (6, 3.5)])
def test_request_behind_a_long_prompt_gets_what_its_last_chunk_leaves(
    new_tokens: int, ttft_s: float
) -> None:
    """Chunks of eight, eight and four; a prompt that does not fit beside these ends later."""
    engine = _served((0.0, 20, 1), (0.5, new_tokens, 1))
    assert [_step((8, 0)), _step((8, 8)), _step((4, 16), (4, 0))] == engine.steps[:3]
    assert [(0.0, 3.0), (0.5, ttft_s)] == engine.ttft_s


@pytest.mark.parametrize(
    ("is_async", "made", "arrival_s", "first_step"),
    [(False, 9, 1.5, 2), (True, 9, 1.5, 3), (True, 9, 1.0, 2), (True, 2, 1.5, 2)],
)
def test_arrival_during_a_step_joins_the_first_that_is_not_made_yet(
    is_async: bool, made: int, arrival_s: float, first_step: int
) -> None:
    """The next step; where steps are made when the one before begins, the one after that.

    An engine that becomes idle made none ahead.
    """
    engine = _served((0.0, 1, made), (arrival_s, 2, 1), is_async=is_async)
    assert (arrival_s, first_step + 1.0 - arrival_s) == engine.ttft_s[1]
    assert 2 == engine.prefills[first_step]


@pytest.mark.parametrize(
    ("limit", "prefills"),
    [(3, [3, 0, 0, 0, 0, 2]), (4, [3, 1, 1, 0, 0]), (5, [3, 2, 0, 0, 0])],
)
def test_decodes_take_their_tokens_before_prefills_do(limit: int, prefills: list[int]) -> None:
    """A prompt of two shares what three decodes leave, and waits where they leave nothing."""
    engine = _served(*[(0.0, 1, 5)] * 3, (0.5, 2, 1), max_step_tokens=limit)
    assert prefills == engine.prefills
    assert [(1.0, 3)] * 4 == engine.gaps


def test_tokens_left_by_prompts_admit_the_next() -> None:
    """Prompts of three share steps of eight; the fourth finds no token left in the first."""
    steps = [_step((3, 0), (3, 0), (2, 0)), _step((1, 2), (3, 0))]
    assert steps == _served(*[(0.0, 3, 1)] * 4).steps


@pytest.mark.parametrize(
    ("limits", "arrival_s", "prompt", "ttft_s"),
    [
        ({"max_requests": 1}, 0.5, 1, 4.5),
        ({"kv_tokens": 10}, 0.5, 4, 1.5),
        ({"kv_tokens": 10}, 0.5, 5, 4.5),
        ({"kv_tokens": 10}, 1.5, 4, 3.5),
    ],
)
def test_request_beyond_a_limit_waits_for_one_to_end(
    limits: dict[str, int], arrival_s: float, prompt: int, ttft_s: float
) -> None:
    """Ten tokens of cache hold six and four, but not after one of the six made another token."""
    engine = _served((0.0, 6, 4), (arrival_s, prompt, 1), **limits)
    assert [(0.0, 1.0), (arrival_s, ttft_s)] == engine.ttft_s


@pytest.mark.parametrize(
    ("prompt", "made", "kv_tokens", "ttft_s"), [(5, 9, 11, 7.5), (2, 3, 7, 6.5)]
)
def test_request_in_a_full_step_is_not_admitted_ahead(
    prompt: int, made: int, kv_tokens: int, ttft_s: float
) -> None:
    """Where it would have found room, later there is none until another ends."""
    requests = (0.0, 2, 6), (0.5, prompt, made), (0.5, 3, 1)
    engine = _served(*requests, max_step_tokens=3, kv_tokens=kv_tokens)
    assert (0.5, ttft_s) == engine.ttft_s[2]


@pytest.mark.parametrize(
    ("limits", "prefills"),
    [
        ({"max_requests": 1}, [8, 1, 8, 1]),
        ({"kv_tokens": 17}, [8, 1, 8, 1]),
        ({"kv_tokens": 18}, [8, 8, 2]),
        ({"kv_tokens": 3}, [8, 1, 8, 1]),
    ],
)
def test_prompt_that_is_being_computed_counts_as_a_whole(
    limits: dict[str, int], prefills: list[int]
) -> None:
    """Two prompts of nine need room for eighteen; one that never fits still runs, alone."""
    assert prefills == _served((0.0, 9, 1), (0.0, 9, 1), **limits).prefills


def test_request_that_does_not_fit_holds_up_those_behind_it() -> None:
    """First come, first served: a smaller one does not pass it."""
    engine = _served((0.0, 6, 3), (0.25, 5, 1), (0.5, 1, 1), kv_tokens=10)
    assert [(0.0, 1.0), (0.25, 3.75), (0.5, 3.5)] == engine.ttft_s


def test_contexts_are_all_that_was_computed_of_requests_that_are_here() -> None:
    """Cached tokens count though nothing computes them; who ends leaves with all of its own."""
    engine = _Engine()
    engine.arrive(0.0, prompt=10, made=2, cached=20)
    engine.arrive(0.0, prompt=4, made=4)
    engine.advance()
    steps = [_step((8, 20)), _step((2, 28), (4, 0))]
    decodes = [_step(decodes=each) for each in ((2, 30 + 4), (1, 5), (1, 6))]
    assert steps + decodes == engine.steps
    assert [(1.0, 2), (1.0, 1), (1.0, 1)] == engine.gaps


def test_requests_are_served_in_the_order_of_arrival() -> None:
    """Whatever order they are told in, and those of one time in the order of telling."""
    engine = _served((2.0, 2, 1), (1.0, 1, 1), (2.0, 3, 1), max_requests=1)
    assert [1, 2, 3] == engine.prefills
    assert [(1.0, 1.0), (2.0, 1.0), (2.0, 2.0)] == engine.ttft_s


# --- what is not known yet ---------------------------------------------------------------------


def test_engine_waits_where_the_next_token_is_not_known() -> None:
    """It goes on from where it stopped when tokens were really made, as if it had not waited."""
    engine = _Engine()
    request = engine.arrive(0.0, over=False)
    engine.arrive(2.5)
    counts = []
    for num_tokens in (1, 3, 4):
        request.num_tokens = num_tokens
        for _ in range(2):
            engine.advance()
            counts.append(len(engine.steps))
    assert [1, 1, 3, 3, 4, 4] == counts
    assert [1, 0, 0, 1] == engine.prefills
    assert [(0.0, 1.0), (2.5, 1.5)] == engine.ttft_s


@pytest.mark.parametrize(("until_s", "num_steps"), [(2.5, 3), (3.0, 4), (0.0, 1)])
def test_engine_begins_no_step_after_the_given_time(until_s: float, num_steps: int) -> None:
    """Requests that come later may be in it."""
    engine = _Engine()
    engine.arrive(0.0, made=9)
    engine.advance(until_s)
    assert num_steps == len(engine.steps)


def test_engine_catches_up_by_a_bounded_number_of_steps() -> None:
    """The rest follows in the next calls."""
    engine, most, counts = _Engine(lambda _: 0.125), MOST_STEPS_AT_ONCE, []
    engine.arrive(0.0, made=2 * most + 10)
    for _ in range(4):
        engine.advance()
        counts.append(len(engine.steps))
    assert [most, 2 * most, 2 * most + 10, 2 * most + 10] == counts


def test_engine_that_lags_by_the_most_goes_on() -> None:
    """It lags by the time since its next step could have begun."""
    engine = _Engine()
    request = engine.arrive(0.0, over=False)
    engine.advance()
    engine.advance(1.0 + MOST_LAG_S)
    request.num_tokens = 3
    engine.advance(1.0 + MOST_LAG_S)
    assert [(1.0, 1), (1.0, 1)] == engine.gaps


@pytest.mark.parametrize(("is_async", "num_waiting"), [(False, 0), (True, 1)])
def test_engine_that_lags_by_more_begins_anew(is_async: bool, num_waiting: int) -> None:
    """What ran and waited is forgotten, and what comes then is served as if it were the first."""
    engine = _Engine(max_requests=2, kv_tokens=9, is_async=is_async)
    old = engine.arrive(0.0, prompt=2, over=False)
    engine.arrive(0.0, prompt=7, made=3)
    for _ in range(num_waiting):
        engine.arrive(0.0, prompt=7)
    engine.advance()
    engine.advance(1.5 + MOST_LAG_S)
    engine.steps.clear()
    old.num_tokens, old.is_over = 9, True
    engine.arrive(1.25 + MOST_LAG_S, prompt=2, made=2)
    engine.arrive(1.5 + MOST_LAG_S, prompt=7)
    engine.advance(70.0)
    assert [_step((2, 0), (6, 0)), _step((1, 6), decodes=(1, 2))] == engine.steps
    assert [(1.25 + MOST_LAG_S, 1.25), (1.5 + MOST_LAG_S, 2.0)] == engine.ttft_s[1:]


# --- against another engine --------------------------------------------------------------------


@dataclass
class _Served:
    """A request of the reference, which knows from the start how many tokens it makes."""

    arrival_s: float
    new_tokens: int
    num_tokens: int
    cached_tokens: int
    computed: int = 0
    made: int = 0
    first_step: int = 0

    @property
    def kv_tokens(self) -> int:
        """What it holds: its prompt, and each token made that was computed since."""
        return self.cached_tokens + self.new_tokens + max(0, self.made - 1)


class _Reference:
    """The same engine with everything counted anew for each request in each step."""

    def __init__(self, limits: EngineLimits, requests: list[_Served]) -> None:
        self.limits = limits
        self.waiting = sorted(requests, key=lambda request: request.arrival_s)
        self.running: list[_Served] = []
        self.gaps: list[tuple[float, int]] = []
        self.ttft_s: list[tuple[float, float]] = []
        self.num_steps = 0
        self.completions_s = [0.0] * (limits.num_stages + 1)

    def run(self) -> tuple[list[tuple[float, int]], list[tuple[float, float]]]:
        """Serve all requests; return the gaps and TTFTs of an _Engine."""
        while True:
            over = [r for r in self.running if r.made == r.num_tokens and self._is_in_turn(r)]
            self.running = [r for r in self.running if r not in over]
            self._admit()
            if not self.running:
                if not self.waiting:
                    return self.gaps, self.ttft_s
                now_s = max(self.completions_s[-1], self.waiting[0].arrival_s)
                self.completions_s += [now_s] * (self.limits.num_stages + 1)
                self._admit()
            self._run_step()

    def _is_in_turn(self, request: _Served) -> bool:
        """Whether a request that decodes is in the next step."""
        since = self.num_steps + 1 - request.first_step
        return request.made > 0 and since % self.limits.num_stages == 0

    def _admit(self) -> None:
        limits = self.limits
        made_s = self.completions_s[-limits.num_stages - limits.is_async]
        while self.waiting and self.waiting[0].arrival_s <= made_s:
            wanted = sum(
                self._is_in_turn(r) if r.made else r.new_tokens - r.computed for r in self.running
            )
            kv_tokens = sum(r.kv_tokens for r in [*self.running, self.waiting[0]])
            is_full = len(self.running) == limits.max_requests or kv_tokens > limits.kv_tokens
            if wanted >= limits.max_step_tokens or (self.running and is_full):
                return
            self.running.append(self.waiting.pop(0))

    def _run_step(self) -> None:
        step, left, first = StepComposition(), self.limits.max_step_tokens, []
        decodes = [request for request in self.running if self._is_in_turn(request)]
        for request in decodes:
            step.add_decode(1, request.kv_tokens)
            request.made += 1
            left -= 1
        for request in self.running:
            chunk = min(left, request.new_tokens - request.computed)
            if chunk > 0:
                step.add_prefill(chunk, request.cached_tokens + request.computed)
                request.computed += chunk
                left -= chunk
                first += [request] if request.computed == request.new_tokens else []
        self.num_steps += 1
        stage_s = _exact_seconds(step) / self.limits.num_stages if step.total_tokens else 0.0
        last_of_them_s = self.completions_s[-self.limits.num_stages]
        reaches_last_stage_s = last_of_them_s + (self.limits.num_stages - 1) * stage_s
        now_s = max(self.completions_s[-1], reaches_last_stage_s) + stage_s
        self.completions_s.append(now_s)
        if decodes:
            self.gaps.append((now_s - last_of_them_s, len(decodes)))
        for request in first:
            request.made, request.first_step = 1, self.num_steps
            self.ttft_s.append((request.arrival_s, now_s - request.arrival_s))


def _exact_seconds(step: StepComposition) -> float:
    """Return seconds that depend on all sums of a step and add up without rounding."""
    weights = (8, 1, 32, 4, 2, 1)
    return (64 + sum(w * x for w, x in zip(weights, step.features(), strict=True))) / 2**13


NUMBER = st.integers(1, 9)
STAGES = st.sampled_from((1, 2, 4))
LIMITS = st.builds(
    EngineLimits, NUMBER, st.integers(1, 4), st.integers(8, 40), st.booleans(), STAGES
)
ARRIVALS = st.integers(0, 800).map(lambda number: number / 2**10)
REQUESTS = st.lists(st.tuples(ARRIVALS, NUMBER, NUMBER, NUMBER), min_size=1, max_size=8)


def _does_the_same(engine: _Engine, limits: EngineLimits, requests: list[Request]) -> bool:
    """Whether an engine, once it went on to the end, did what the reference does."""
    for _ in range(9):
        engine.advance()
    served = [_Served(*request) for request in requests]
    return _Reference(limits, served).run() == (engine.gaps, engine.ttft_s)


@LAW
@given(LIMITS, REQUESTS)
def test_engine_that_knows_all_requests_does_what_a_simple_one_does(
    limits: EngineLimits, requests: list[Request]
) -> None:
    """Sums that are kept up to date from step to step are those of the requests in it."""
    engine = _Engine(_exact_seconds, **asdict(limits))
    for request in requests:
        engine.arrive(*request)
    assert _does_the_same(engine, limits, requests)


@LAW
@given(LIMITS, REQUESTS, st.integers(0, 1000))
def test_engine_told_bit_by_bit_does_what_it_does_if_told_all_at_once(
    limits: EngineLimits, requests: list[Request], seed: int
) -> None:
    """When a request or a token becomes known changes no time."""
    engine, rng = _Engine(_exact_seconds, **asdict(limits)), random.Random(seed)
    coming, known = sorted(requests), []
    while coming or known:
        if coming and (not known or rng.random() < 0.4):
            arrival_s, prompt, made, cached = coming.pop(0)
            known.append((engine.arrive(arrival_s, prompt, 1, cached, over=False), made))
        else:
            request, made = rng.choice(known)
            request.is_over = request.num_tokens == made
            request.num_tokens += not request.is_over
            known = [each for each in known if not each[0].is_over]
        engine.advance(coming[0][0] - 1e-6 if coming else 50.0)
    assert _does_the_same(engine, limits, sorted(requests))


def test_step_during_which_the_real_engine_stood_still_is_as_much_longer() -> None:
    """The third of four tokens; those behind it come a second each after it."""
    engine = _Engine()
    engine.alone.stall(1.5, 10.0)
    engine.arrive(0.0, made=4)
    engine.advance()
    assert [(11.0, 1), (1.0, 1), (1.0, 1)] == engine.gaps
    assert [(0.0, 1.0)] == engine.ttft_s


@pytest.mark.parametrize(("arrival_s", "ttft_s"), [(0.0, 11.0), (4.0, 7.5), (20.0, 1.0)])
def test_request_that_comes_while_the_real_engine_stands_still_waits_for_it(
    arrival_s: float, ttft_s: float
) -> None:
    """From 0.5 s on, for ten seconds; one that came before is in a step that stands still."""
    engine = _Engine()
    engine.alone.stall(0.5, 10.0)
    engine.arrive(arrival_s)
    engine.advance()
    assert [(arrival_s, ttft_s)] == engine.ttft_s
