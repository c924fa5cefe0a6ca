# SPDX-License-Identifier: Apache-2.0
"""OnlineLatency: TTFT and TBT of the online requests, and what the engine alone is told of them."""

import pytest

from hygen_vllm.targets.online_alone import AloneRequest
from hygen_vllm.targets.online_latency import OVERTAKEN_S, OnlineLatency, Tokens


def _online(*request_ids: str, arrival_s: float = 10.0) -> OnlineLatency:
    """Return a measure with requests of 100 prompt tokens that all came at one time."""
    online = OnlineLatency(window_s=1e6)
    for request_id in request_ids:
        online.came(request_id, arrival_s, 100)
    return online


def _num_samples(online: OnlineLatency) -> dict[str, float]:
    return {
        metric: pytest.approx(window.num_samples, rel=1e-3)
        for metric, window in online.windows.items()
    }


def test_first_token_is_a_ttft_and_no_gap() -> None:
    """TTFT runs from the arrival of the request, not from its first step."""
    online = _online("a")
    tokens = online.tokens_came([("a", 1)], 10.75)
    assert Tokens(0, [AloneRequest(10.0, 100, 0, 0.75)]) == tokens
    assert {"ttft": 1, "tbt": 0} == _num_samples(online)
    assert pytest.approx(0.75) == online.windows["ttft"].mean_s


def test_later_token_is_a_gap_since_the_one_before() -> None:
    """Each token is one sample of TBT and none of TTFT."""
    online = _online("a")
    online.tokens_came([("a", 1)], 11.0)
    assert Tokens(1, []) == online.tokens_came([("a", 1)], 11.5)
    assert Tokens(1, []) == online.tokens_came([("a", 1)], 11.75)
    assert 0.5 + 0.25 == online.windows["tbt"].total_s
    assert {"ttft": 1, "tbt": 2} == _num_samples(online)
    assert pytest.approx(0.375) == online.windows["tbt"].mean_s


def test_tokens_that_come_at_once_are_one_gap_and_others_of_zero() -> None:
    """Three tokens after a second took a third of a second each on average."""
    online = _online("a")
    online.tokens_came([("a", 1)], 11.0)
    assert Tokens(3, []) == online.tokens_came([("a", 3)], 12.0)
    assert 1.0 == online.windows["tbt"].total_s
    assert {"ttft": 1, "tbt": 3} == _num_samples(online)
    assert pytest.approx(1 / 3) == online.windows["tbt"].mean_s
    (block,) = online.windows["tbt"].latest_blocks()
    assert (1.0, 3) == (block.count_above(0.5), block.count)


def test_tokens_that_come_with_the_first_are_gaps_of_zero() -> None:
    """They are there as soon as it is."""
    online = _online("a")
    tokens = online.tokens_came([("a", 3)], 11.0)
    assert (2, 1) == (tokens.num_gaps, len(tokens.first))
    assert 0.0 == online.windows["tbt"].total_s
    assert {"ttft": 1, "tbt": 2} == _num_samples(online)
    assert 0.0 == online.windows["tbt"].mean_s
    assert Tokens(1, []) == online.tokens_came([("a", 1)], 11.5)
    assert 0.5 == online.windows["tbt"].total_s


def test_step_adds_up_the_tokens_of_all_its_requests() -> None:
    """The gaps are summed, the first tokens listed in the order in which they came."""
    online = _online("a", "b", "c", "d")
    online.tokens_came([("a", 1)], 11.0)
    online.tokens_came([("b", 1)], 12.0)
    tokens = online.tokens_came([("d", 1), ("a", 2), ("b", 1), ("c", 1)], 13.0)
    assert 3 == tokens.num_gaps
    assert 2.0 + 1.0 == online.windows["tbt"].total_s
    assert [3.0, 3.0] == [request.real_ttft_s for request in tokens.first]
    assert {"ttft": 4, "tbt": 3} == _num_samples(online)


@pytest.mark.parametrize("counts", [[], [("a", 0)], [("x", 1)], [("x", 4), ("a", 0)]])
def test_step_without_online_tokens_changes_nothing(counts: list[tuple[str, int]]) -> None:
    """A chunk in the middle of a prompt brings no token, and offline requests are not measured."""
    online = _online("a")
    assert Tokens(0, []) == online.tokens_came(counts, 11.0)
    assert {"ttft": 0, "tbt": 0} == _num_samples(online)
    assert 10.0 == online.first_waiting_s(12.0)


def test_step_without_a_token_for_a_request_does_not_shorten_its_next_gap() -> None:
    """A request that was preempted waits for its token all the time."""
    online = _online("a")
    online.tokens_came([("a", 1)], 11.0)
    online.tokens_came([("a", 0)], 12.0)
    assert Tokens(1, []) == online.tokens_came([("a", 1)], 13.0)
    assert 2.0 == online.windows["tbt"].total_s


def test_samples_are_forgotten_after_the_window() -> None:
    """In both windows."""
    online = OnlineLatency(window_s=30.0)
    for request_id in ("a", "b"):
        online.came(request_id, 10.0, 5)
    online.tokens_came([("a", 1)], 12.0)
    online.tokens_came([("a", 1)], 13.0)
    online.tokens_came([("b", 1)], 56.0)
    online.tokens_came([("b", 1)], 57.0)
    assert {"ttft": 1, "tbt": 1} == _num_samples(online)


# --- requests that wait ------------------------------------------------------------------------


def test_first_waiting_is_the_oldest_without_a_token() -> None:
    """Now where none waits: everything before is known."""
    online = _online("a")
    online.came("b", 11.0, 50)
    seen_s = [online.first_waiting_s(20.0)]
    online.tokens_came([("a", 1)], 20.0)
    seen_s.append(online.first_waiting_s(21.0))
    online.tokens_came([("b", 1)], 21.0)
    seen_s.append(online.first_waiting_s(22.0))
    assert [10.0, 11.0, 22.0] == seen_s


def test_request_that_was_overtaken_holds_up_nobody() -> None:
    """It lacks something of its own; who comes after it is waited for as before."""
    online = _online("stuck", arrival_s=10.0)
    for number in range(3):
        online.came(f"{number}", 12.0 + number, 100)
    online.tokens_came([("0", 1), ("1", 1)], 15.0)
    assert 10.0 == online.first_waiting_s(16.0), "a little later is no overtaking"
    online.came("later", 15.0 + OVERTAKEN_S, 100)
    online.tokens_came([("later", 1)], 30.0)
    assert 31.0 == online.first_waiting_s(31.0)
    online.came("next", 32.0, 100)
    assert 32.0 == online.first_waiting_s(33.0)
    (request,) = online.tokens_came([("stuck", 1)], 40.0).first
    assert (10.0, 30.0) == (request.arrival_s, request.real_ttft_s)


def test_first_waiting_is_never_later_than_now() -> None:
    """A request may come while the step that is completing is counted."""
    assert 9.0 == _online("a").first_waiting_s(9.0)


# --- the request in the engine alone -----------------------------------------------------------


@pytest.mark.parametrize(("cached_tokens", "expected"), [(0, 0), (64, 64), (99, 99), (100, 99)])
def test_cached_tokens_are_not_computed_but_for_the_last(cached_tokens: int, expected: int) -> None:
    """vLLM computes at least one token of a prompt that is cached as a whole."""
    online = _online("a")
    online.started("a", cached_tokens)
    (request,) = online.tokens_came([("a", 1)], 11.0).first
    assert (expected, 100 - expected) == (request.cached_tokens, request.new_tokens)
    assert 100 == request.prompt_tokens


def test_start_of_an_unknown_request_is_ignored() -> None:
    """Offline requests start too."""
    online = _online("a")
    online.started("x", 50)
    assert 0 == online.tokens_came([("a", 1)], 11.0).first[0].cached_tokens


def test_tokens_made_are_told_to_the_engine_alone() -> None:
    """It may make as many as were really made, and no more."""
    online = _online("a", "b")
    first, other = online.tokens_came([("a", 1), ("b", 1)], 11.0).first
    for now_s, count in ((12.0, 1), (13.0, 0), (14.0, 3)):
        online.tokens_came([("a", count)], now_s)
    assert (5, 1) == (first.num_tokens, other.num_tokens)


def test_request_that_leaves_is_over_after_the_tokens_of_its_last_step() -> None:
    """Its last token is counted; later ones of the same name are not its own."""
    online = _online("a", "b")
    first, other = online.tokens_came([("a", 1), ("b", 1)], 11.0).first
    online.left("a")
    assert not first.is_over
    assert Tokens(1, []) == online.tokens_came([("a", 1)], 12.0)
    assert 1.0 == online.windows["tbt"].total_s
    assert (True, 2) == (first.is_over, first.num_tokens)
    assert Tokens(0, []) == online.tokens_came([("a", 1)], 13.0)
    assert not other.is_over


def test_request_that_leaves_with_its_first_token_is_measured() -> None:
    """An answer of one token has a TTFT."""
    online = _online("a")
    online.left("a")
    (request,) = online.tokens_came([("a", 1)], 11.0).first
    assert (True, 1.0) == (request.is_over, request.real_ttft_s)


def test_request_that_leaves_without_a_token_waits_no_more() -> None:
    """Who gave up has no TTFT, and holds nobody up."""
    online = _online("a")
    online.left("a")
    assert Tokens(0, []) == online.tokens_came([], 12.0)
    assert 15.0 == online.first_waiting_s(15.0)
    assert {"ttft": 0, "tbt": 0} == _num_samples(online)


def test_request_that_leaves_unknown_or_twice_is_ignored() -> None:
    """An offline request, or one that was aborted as it ended."""
    online = _online("a")
    for request_id in ("x", "a", "a"):
        online.left(request_id)
    online.tokens_came([], 11.0)
    online.left("a")
    assert Tokens(0, []) == online.tokens_came([("x", 1)], 12.0)
    online.left("b")
    online.came("b", 12.0, 5)
    assert 1 == len(online.tokens_came([("b", 1)], 13.0).first)
    assert Tokens(1, []) == online.tokens_came([("b", 1)], 14.0)
    assert 1.0 == online.windows["tbt"].total_s


def test_request_with_the_name_of_one_that_left_is_another() -> None:
    """It waits from its own arrival, and the old one is not held against it."""
    online = _online("a")
    online.tokens_came([("a", 1)], 11.0)
    online.left("a")
    online.tokens_came([], 12.0)
    online.came("a", 13.0, 20)
    (request,) = online.tokens_came([("a", 1)], 15.0).first
    assert AloneRequest(13.0, 20, 0, 2.0) == request


def test_tokens_that_come_with_the_first_are_told_to_the_engine_alone() -> None:
    """It makes as many as were really made."""
    online = _online("a")
    tokens = online.tokens_came([("a", 3)], 11.0)
    assert [3] == [request.num_tokens for request in tokens.first]


def test_name_that_is_used_again_before_the_step_is_done_is_another_request() -> None:
    """Its client went away and came back; online alone waits for no more tokens of the first."""
    online = _online("a")
    first = online.tokens_came([("a", 1)], 11.0).first[0]
    online.left("a")
    online.came("a", 11.5, 8)
    assert first.is_over
    second = online.tokens_came([("a", 1)], 12.0).first[0]
    assert 0.5 == second.real_ttft_s
    assert not second.is_over
