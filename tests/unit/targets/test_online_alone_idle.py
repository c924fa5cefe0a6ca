# SPDX-License-Identifier: Apache-2.0
"""OnlineAlone after idle times, and with requests that are told of out of order."""

from hygen_vllm.targets.online_alone import MOST_LAG_S, AloneRequest, EngineLimits, OnlineAlone


class _Engine:
    """An engine whose steps take a second; `ttft_s` by arrival."""

    def __init__(self) -> None:
        self.ttft_s: dict[float, float] = {}
        self._alone = OnlineAlone(
            EngineLimits(8, 8, 1000, is_async=False),
            gaps=lambda _seconds, _count: None,
            first_token=lambda one, ttft_s: self.ttft_s.update({one.arrival_s: ttft_s}),
        )

    def arrive(self, arrival_s: float) -> None:
        self._alone.arrive(AloneRequest(arrival_s, 1, 0, 0.0, is_over=True))

    def advance(self, until_s: float) -> None:
        self._alone.advance(lambda _: 1.0, until_s)


def test_first_request_is_served_whenever_it_comes() -> None:
    """Time before it is not a time by which the engine lags."""
    engine = _Engine()
    engine.arrive(100 * MOST_LAG_S)
    engine.advance(100 * MOST_LAG_S + 1.0)
    assert {100 * MOST_LAG_S: 1.0} == engine.ttft_s


def test_request_after_a_long_idle_time_is_served() -> None:
    """An online class that disappears for an hour comes back as if it had never been away."""
    engine = _Engine()
    engine.arrive(1.0)
    engine.advance(2.0)
    engine.advance(3600.0)
    engine.arrive(3601.0)
    engine.advance(3602.0)
    assert {1.0: 1.0, 3601.0: 1.0} == engine.ttft_s


def test_request_told_of_before_an_older_one_does_not_keep_it_waiting() -> None:
    """The engine does not go to a time before which others may have come."""
    engine = _Engine()
    engine.arrive(10.0)
    engine.advance(5.0)
    assert {} == engine.ttft_s
    engine.arrive(5.0)
    engine.advance(20.0)
    assert {5.0: 1.0, 10.0: 1.0} == engine.ttft_s
