# SPDX-License-Identifier: Apache-2.0
"""TargetController: what it measures, what it tells its targets, and the terms they agree on."""

import math
from collections.abc import Iterable
from typing import Any

import pytest

from hygen_vllm.cost.step_cost import StepCost
from hygen_vllm.slo import Slo
from hygen_vllm.step.feedback import MeasuredStep
from hygen_vllm.step.terms import StepForecast, StepTerms
from hygen_vllm.targets.controller import TargetController
from hygen_vllm.targets.online_alone import EngineLimits
from tests.support.targets import Account, Load

COST = StepCost(0.02, 0, 0, 0, 1e-3, 0, 0)
"""20 ms a step and 1 ms a prefill token."""
ALL = ("tbt_mean=+20%", "tbt_p99=45ms", "ttft_mean=+20%", "ttft_p99=1s")
ALONE = StepForecast(0.02, 0.02)
SHARED = StepForecast(0.02, 0.04)


class _Engine:
    """Steps that a controller is told of, from 100 s on."""

    def __init__(
        self,
        *slos: str,
        window_s: float = 900.0,
        idle_step_s: float = 0.1,
        is_async: bool = False,
        num_stages: int = 1,
    ) -> None:
        self.lines: list[str] = []
        self.controller = TargetController(
            [Slo.parse(text) for text in slos],
            EngineLimits(512, 64, 100_000, is_async, num_stages),
            window_s,
            idle_step_s,
            self.lines.append,
        )
        self.measures = self.controller.measures
        self.now_s = 100.0

    def arrive(self, *request_ids: str, prompt_tokens: int = 1) -> None:
        for request_id in request_ids:
            self.controller.came(request_id, self.now_s, prompt_tokens)

    def step(
        self,
        tokens: Iterable[tuple[str, int]] = (),
        seconds: float = 0.02,
        forecast: StepForecast | None = ALONE,
        cost: StepCost | None = COST,
        has_prefill: bool = False,
        passed_s: float | None = None,
    ) -> None:
        """Complete a step `passed_s` after the one before, after its seconds if not told."""
        self.now_s += seconds if passed_s is None else passed_s
        step = MeasuredStep(
            forecast=forecast, has_online_prefill=has_prefill, seconds=seconds, is_steady=True
        )
        self.controller.completed(step, tokens, cost, self.now_s)

    def decode(self, count: int, *request_ids: str, **step: Any) -> None:
        """Complete so many steps with a token for each request."""
        for _ in range(count):
            self.step([(request_id, 1) for request_id in request_ids], **step)

    def serve(self, count: int, **step: Any) -> None:
        """Serve so many requests of one and twenty tokens, one after the other."""
        for _ in range(count):
            self.arrive("r")
            self.decode(20, "r", **step)
            self.controller.online.left("r")
            self.step([("r", 1)], **step)


def _known(*slos: str, **engine: Any) -> _Engine:
    """Return an engine that served alone for long enough to steer all targets at factor 1."""
    served = _Engine(*slos, **engine)
    served.serve(20)
    for target in served.controller.targets:
        target.allowance = Account()  # type: ignore[assignment]
    served.step(passed_s=1.0)
    return served


def _settled(engine: _Engine) -> list[tuple[float, float, float]]:
    """Return what the only target of a _known engine was told."""
    return engine.controller.targets[0].allowance.settled  # type: ignore[attr-defined]


# --- what is told of targets -------------------------------------------------------------------

LINE = "tbt_mean=10ms cannot be met: without offline work it would be 20.0 ms. "
LINE += "Offline work now gets only what delays nobody"


def test_report_of_a_target_out_of_reach_comes_once() -> None:
    """With enough samples of online alone, at the next refresh, and never again."""
    engine = _Engine("tbt_mean=10ms")
    engine.arrive("a")
    engine.decode(99, "a")
    engine.step(passed_s=1.0)
    assert (True, []) == (engine.controller.targets[0].is_out_of_reach, engine.lines)
    engine.decode(10, "a")
    engine.step(passed_s=1.0)
    assert [LINE] == engine.lines
    engine.decode(500, "a")
    assert [LINE] == engine.lines


def test_report_names_each_target_that_is_out_of_reach() -> None:
    """One line each; none for those that can be met."""
    engine = _Engine("tbt_mean=10ms", "tbt_p90=21ms", "tbt_p99=+0%", "tbt_p50=5ms")
    engine.arrive("a")
    engine.decode(300, "a")
    assert ["tbt_mean=10ms", "tbt_p50=5ms"] == [line.split()[0] for line in engine.lines]


def test_report_counts_samples_of_the_metric_of_the_target() -> None:
    """Many tokens do not make many first tokens."""
    engine = _Engine("ttft_mean=10ms")
    engine.serve(95)
    assert (True, []) == (engine.controller.targets[0].is_out_of_reach, engine.lines)
    engine.serve(10)
    engine.step(passed_s=1.0)
    assert ["ttft_mean=10ms"] == [line.split()[0] for line in engine.lines]


def test_status_before_anything_is_measured_says_so() -> None:
    """Only a limit in seconds is known."""
    assert (
        "tbt_p99=45ms unknown of 45.0 ms (online alone unknown), "
        "ttft_mean=+10% unknown of unknown (online alone unknown)"
    ) == _Engine("tbt_p99=45ms", "ttft_mean=+10%").controller.status()


def test_status_has_measured_limit_and_alone_of_each_target() -> None:
    """Each by its own metric and statistic."""
    engine = _Engine("tbt_mean=+20%", "tbt_p50=1s", "ttft_mean=+50%")
    engine.serve(20, seconds=0.025, forecast=StepForecast(0.02, 0.025))
    engine.serve(10, seconds=0.05, forecast=StepForecast(0.02, 0.05))
    engine.step(passed_s=1.0)
    tbt, median, ttft = engine.controller.status().split(", ")
    assert "tbt_mean=+20% 33.3 ms of 24.0 ms (online alone 20.0 ms)" == tbt
    assert "ttft_mean=+50% 33.3 ms of 31.5 ms (online alone 21.0 ms)" == ttft
    assert "tbt_p50=1000ms 25.1 ms of 1000.0 ms (online alone 19.9 ms)" == median


# --- online alone ------------------------------------------------------------------------------


def test_online_alone_gets_the_requests_as_they_really_are() -> None:
    """Their arrival, their prompt less what the prefix cache had, and their tokens."""
    engine = _Engine("tbt_mean=+20%")
    engine.arrive("a", prompt_tokens=100)
    engine.controller.online.started("a", 60)
    engine.step([("a", 1)], seconds=0.5, forecast=StepForecast(0.06, 0.5), has_prefill=True)
    assert pytest.approx(0.06) == engine.measures.alone["ttft"].mean_s
    assert 0.0 == engine.measures.alone["tbt"].num_samples
    engine.decode(3, "a", seconds=0.04, forecast=SHARED)
    assert pytest.approx(3, rel=1e-3) == engine.measures.alone["tbt"].num_samples
    assert pytest.approx(0.02) == engine.measures.alone["tbt"].mean_s
    assert pytest.approx(0.04) == engine.measures.real["tbt"].mean_s


def test_online_alone_is_not_ahead_of_requests_that_still_wait() -> None:
    """What a step of online alone has in it depends on all that came before it began."""
    engine = _Engine("tbt_mean=+20%")
    engine.arrive("a", "b")
    engine.decode(5, "a")
    assert pytest.approx(0.021) == engine.measures.alone["ttft"].mean_s
    assert 0.0 == engine.measures.alone["tbt"].num_samples
    engine.decode(1, "b")
    assert pytest.approx(2, rel=1e-3) == engine.measures.alone["ttft"].num_samples


@pytest.mark.parametrize("is_async", [False, True])
def test_online_alone_has_the_limits_of_the_engine(is_async: bool) -> None:
    """With asynchronous scheduling a step more is made ahead."""
    engine = _known("ttft_mean=60ms", is_async=is_async)
    (target,) = engine.controller.targets
    assert int(is_async) == engine.measures.steps_ahead
    expected_s = engine.measures.alone_step_s + target.spare_s / (1.5 if is_async else 0.5)
    assert pytest.approx(expected_s) == engine.controller.terms(Load()).limit_s


@pytest.mark.parametrize("has_prefill", [False, True])
def test_error_of_forecasts_without_offline_work_corrects_online_alone(has_prefill: bool) -> None:
    """Steps with prefill and those without are corrected each by their own."""
    engine = _Engine("tbt_mean=+20%")
    for _ in range(2000):
        engine.step(seconds=0.024, has_prefill=has_prefill)
    engine.arrive("a")
    engine.decode(50, "a", forecast=None)
    tbt_s, ttft_s = (engine.measures.alone[metric].mean_s for metric in ("tbt", "ttft"))
    expected_s = (0.02, 0.0252) if has_prefill else (0.024, 0.021)
    assert pytest.approx(expected_s) == (tbt_s, ttft_s)


def test_steps_of_no_known_cost_leave_online_alone_behind() -> None:
    """It catches up when there is a price."""
    engine = _Engine("tbt_mean=+20%")
    engine.arrive("a", "b")
    engine.decode(30, "a", "b", cost=None)
    assert [0.0, 0.0] == [window.num_samples for window in engine.measures.alone.values()]
    assert pytest.approx(58, rel=1e-3) == engine.measures.real["tbt"].num_samples
    engine.decode(1, "a", "b")
    assert pytest.approx(60, rel=1e-3) == engine.measures.alone["tbt"].num_samples


# --- what targets are told ---------------------------------------------------------------------


@pytest.mark.parametrize(("forecast", "alone_s"), [(SHARED, 0.025), (None, 0.05)])
def test_mean_step_of_online_is_the_part_of_steps_that_is_online(
    forecast: StepForecast | None, alone_s: float
) -> None:
    """As the forecast divides it; a step without one had no offline work."""
    engine = _Engine("tbt_mean=+50%")
    engine.arrive("a", "b")
    engine.step([("a", 1), ("b", 1)])
    engine.step([("a", 1), ("b", 1)], 0.05, forecast)
    assert pytest.approx(alone_s) == engine.measures.alone_step_s


def test_mean_is_told_what_was_measured_and_what_online_alone_has() -> None:
    """Of 10 ms that a gap may be longer, 5 were taken; time in which none came counts for nothing.

    Nothing drifts: all that is told adds up to all that was measured.
    """
    engine = _known("tbt_mean=+50%")
    engine.arrive("a")
    engine.decode(5000, "a", seconds=0.025, forecast=StepForecast(0.02, 0.025))
    engine.step(passed_s=3600.0)
    allowed_s, taken_s, _ = map(sum, zip(*_settled(engine), strict=True))
    assert pytest.approx(0.01 * 5000, rel=0.01) == allowed_s
    assert pytest.approx(0.005 * 5000, rel=0.01) == taken_s


@pytest.mark.parametrize("forecast", [None, StepForecast(0.0, 0.0)])
def test_steps_that_were_not_forecast_teach_no_error(forecast: StepForecast | None) -> None:
    """Neither do those that were to take no time."""
    engine = _Engine("tbt_mean=+50%")
    margin = engine.controller._errors.margin
    engine.arrive("a")
    engine.decode(200, "a", seconds=0.5, forecast=forecast)
    assert margin == engine.measures.error_margin
    assert pytest.approx(0.5) == engine.measures.alone_step_s


def test_steps_with_offline_work_teach_the_margin_of_a_tail() -> None:
    """Longer than forecast they have to be planned below the limit."""
    engine = _known("tbt_p99=500ms")
    engine.arrive("a")
    engine.decode(500, "a", seconds=0.05, forecast=SHARED)
    assert engine.measures.error_margin > 1.24
    assert pytest.approx(0.5 / engine.measures.error_margin) == engine.controller.online_cap_s


def test_first_tokens_are_compared_with_those_of_online_alone() -> None:
    """With their delay, at the time at which online alone gets that far."""
    engine = _known("ttft_mean=+50%")
    engine.arrive("a")
    engine.step([("a", 1)], seconds=0.071, forecast=StepForecast(0.021, 0.071))
    assert [(pytest.approx(0.0105), pytest.approx(0.05), engine.now_s)] == _settled(engine)


def test_mean_step_of_online_is_that_of_steps_with_gaps() -> None:
    """First all count alike; once there were many, the last ones a little more."""
    engine = _Engine("tbt_mean=+50%")
    engine.arrive("a")
    engine.step([("a", 1)], seconds=0.9)
    assert 0.0 == engine.measures.alone_step_s
    for seconds in (0.02, 0.04, 0.06):
        engine.step([("a", 1)], seconds, StepForecast(0.5, 1.0))
    assert pytest.approx(0.02) == engine.measures.alone_step_s
    engine.step(seconds=0.9)
    assert pytest.approx(0.02) == engine.measures.alone_step_s
    engine.controller._num_steps = 10**6
    engine.step([("a", 1)], 0.52, None)
    assert pytest.approx(0.02 + 5e-5) == engine.measures.alone_step_s


def test_step_in_which_the_device_stood_still_is_none_of_online_alone() -> None:
    """What it should have taken counts; the rest was nobody's fault."""
    engine = _Engine("tbt_mean=+50%")
    engine.arrive("a")
    engine.step([("a", 1)], 0.02, StepForecast(0.01, 0.02))
    engine.step([("a", 1)], 30.0, StepForecast(0.01, 0.02))
    assert pytest.approx(0.01) == engine.measures.alone_step_s


def test_idle_step_is_as_long_as_it_may_be_until_a_target_says_less() -> None:
    """The cap of TTFT holds for steps without online requests as well."""
    idle = Load(has_online=False, alone_s=0.0)
    assert StepTerms(0.1, is_idle=True) == _Engine(*ALL).controller.terms(idle)
    assert StepTerms(math.inf, 3.0) == _known(ALL[0]).controller.terms(Load(num_decodes=3))
    assert StepTerms(0.1, is_idle=True) == _known("tbt_mean=+20%", "tbt_p99=45ms").controller.terms(
        idle
    )
    cap_s = _known("ttft_mean=+20%").controller.terms(idle).limit_s
    assert 0.02 < cap_s < 0.05
    assert StepTerms(0.01, is_idle=True) == _known(
        "ttft_mean=+20%", idle_step_s=0.01
    ).controller.terms(idle)


def test_idle_step_is_two_of_the_smallest_at_least() -> None:
    """A slow engine serves more than one offline request while it waits for an online one."""
    idle = Load(has_online=False, alone_s=0.0, least_s=0.3)
    assert StepTerms(0.6, is_idle=True) == _Engine(*ALL).controller.terms(idle)


def test_terms_of_several_targets_are_the_lowest_limit_and_the_sum_of_prices() -> None:
    """All targets are kept at once."""
    load = Load(num_decodes=3, num_first=2)
    each = [_known(text).controller.terms(load) for text in ALL]
    terms = _known(*ALL).controller.terms(load)
    assert sum(one.price > 0 for one in each) == 3
    assert pytest.approx(sum(one.price for one in each)) == terms.price
    assert min(one.limit_s for one in each) == terms.limit_s
    assert len({one.limit_s for one in each}) == len(each)


def test_step_in_a_pipeline_is_paid_by_the_requests_of_all_and_free_up_to_the_others() -> None:
    """Of two with six and no decodes either pays for three; without a pipeline each for its own."""
    long, short = Load(num_decodes=6, alone_s=0.05), Load(alone_s=0.02)
    pipeline = _known("tbt_mean=+20%", num_stages=2).controller
    assert StepTerms(math.inf, 6.0, free_s=0.0) == pipeline.terms(long)
    assert StepTerms(0.1, 3.0, free_s=0.05, is_idle=True) == pipeline.terms(short)
    assert StepTerms(math.inf, 3.0, free_s=0.02) == pipeline.terms(long)
    one = _known("tbt_mean=+20%").controller
    assert [6.0, 0.0] == [one.terms(load).price for load in (long, short)]
    assert 0.0 == one.terms(short).free_s


def test_online_cap_is_the_lowest_of_the_tails() -> None:
    """None without a tail, nor before it is known."""
    assert math.inf == _known("tbt_mean=+20%", "ttft_p99=1s").controller.online_cap_s
    assert math.inf == _Engine("tbt_p99=45ms").controller.online_cap_s
    engine = _known("tbt_p99=450ms", "tbt_p50=45ms", "tbt_p90=90ms")
    assert pytest.approx(0.045 / engine.measures.error_margin) == engine.controller.online_cap_s


# --- time --------------------------------------------------------------------------------------


def test_arrivals_per_second_are_those_of_the_last_moments() -> None:
    """Those of long ago fade, and so does the rate while nobody comes; who is told late counts."""
    engine = _Engine("tbt_mean=+50%")
    engine.step()
    assert 0.0 == engine.measures.arrivals_per_s
    for _ in range(1000):
        engine.arrive("a")
        engine.now_s += 0.25
    engine.step()
    assert pytest.approx(4.0, rel=0.02) == engine.measures.arrivals_per_s
    before = engine.measures.arrivals_per_s
    engine.step(passed_s=30.0)
    assert pytest.approx(before / math.e) == engine.measures.arrivals_per_s
    for arrival_s in (engine.now_s, engine.now_s - 30.0, engine.now_s):
        engine.controller.came("a", arrival_s, 1)
    engine.step(passed_s=1.0)
    expected = (before / math.e + 3 / 30) * math.exp(-1 / 30)
    assert pytest.approx(expected) == engine.measures.arrivals_per_s
    engine.controller.came("a", engine.now_s + 60.0, 1)  # after the step that completes
    engine.step(passed_s=1.0)
    assert pytest.approx(expected * math.exp(-2) + 1 / 30) == engine.measures.arrivals_per_s


def test_targets_take_in_what_was_measured_once_a_second() -> None:
    """From the first step on; the time of the last counts, not the number of steps."""
    engine = _Engine("tbt_mean=+50%")
    times_s: list[float] = []
    engine.controller.targets[0].refresh = times_s.append  # type: ignore[method-assign]
    for passed_s in (0.25, 0.5, 0.25, 0.25, 0.75, 0.25, 5.0, 0.5, 0.5):
        engine.step(passed_s=passed_s)
    assert [100.25, 101.25, 102.25, 107.25, 108.25] == times_s


def test_clock_that_stands_still_does_no_harm() -> None:
    """Tokens are counted; no time passes in which anything could be saved or fade."""
    engine = _known(*ALL)
    terms = engine.controller.terms(Load(num_decodes=3, num_first=2))
    samples = engine.measures.real["tbt"].num_samples
    engine.serve(19, passed_s=0.0)
    assert pytest.approx(samples + 19 * 20, rel=1e-3) == engine.measures.real["tbt"].num_samples
    assert terms == engine.controller.terms(Load(num_decodes=3, num_first=2))


def test_online_class_that_comes_back_after_an_hour_is_served_as_before() -> None:
    """What was known of it is not forgotten, and what comes now is measured against itself."""
    engine = _Engine(*ALL, window_s=60.0)
    engine.serve(50)
    before = engine.controller.status()
    engine.step(passed_s=3600.0)
    assert before == engine.controller.status()
    assert engine.measures.arrivals_per_s < 1e-40
    engine.serve(50, seconds=0.025, forecast=StepForecast(0.02, 0.025))
    assert pytest.approx(0.02, rel=1e-3) == engine.measures.alone["tbt"].mean_s
    assert pytest.approx(0.025, rel=1e-3) == engine.measures.real["tbt"].mean_s
    assert 0.02 <= engine.controller.terms(Load(num_decodes=3)).limit_s < 0.05
    assert [] == engine.lines
