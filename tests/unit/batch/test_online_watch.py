# SPDX-License-Identifier: Apache-2.0
"""What a job says of the online requests beside it."""

from dataclasses import asdict
from types import SimpleNamespace

import pytest

from hygen_vllm.batch.online_watch import LOOK_EVERY_S, OnlineWatch
from hygen_vllm.fleet.interference import Interference

BEFORE = Interference(10.0, 100, 20.0, 1000, 10.0, 100, 20.0, 1000)
"""100 requests with a TTFT of 100 ms, 1,000 tokens 20 ms apart, nothing offline."""


def after(num_requests, ttft_s, alone_s):
    """As many more requests with ten tokens each; TBT 22 ms, alone 20 ms."""
    n = num_requests
    more = (n * ttft_s, n, 0.22 * n, 10 * n, n * alone_s, n, 0.2 * n, 10 * n)
    return BEFORE + Interference(*more)


def replica(interference, doing=0, targets=""):
    told = None if interference is None else asdict(interference)
    return {"doing": doing, "interference": told, "targets": targets}


def watch_of(*statuses):
    """Return a watch that has looked that often."""
    left = [*statuses]
    watch = OnlineWatch(lambda: left.pop(0))
    for _ in statuses:
        watch.look()
    return watch


def status(waiting=0, **replicas):
    return {"waiting": waiting, "replicas": replicas}


def test_report_compares_what_was_between_the_looks():
    """Not what was before the job, and over all replicas."""
    first = status(a=replica(BEFORE), b=replica(BEFORE))
    last = status(a=replica(after(10, 0.2, 0.1)), b=replica(after(30, 0.12, 0.1), targets="met"))
    expected = (
        "meanwhile: 40 online requests, mean TTFT 140.0 ms (+40% against none offline), "
        "mean TBT 22.0 ms (+10% against none offline)"
    )
    assert [expected, "  b: met"] == watch_of(first, last).report()


def test_replica_that_ended_counts_as_far_as_it_was_seen():
    """The pool has forgotten it."""
    first = status(a=replica(BEFORE))
    watch = watch_of(first, status(a=replica(after(10, 0.2, 0.1))), status())
    assert "meanwhile: 10 online requests" in watch.report()[0]


def test_replica_that_began_meanwhile_counts_from_then():
    """From the first that was seen of it."""
    watch = watch_of(status(), status(a=replica(BEFORE)), status(a=replica(after(7, 0.2, 0.1))))
    assert "meanwhile: 7 online requests" in watch.report()[0]


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([status(a=replica(BEFORE))] * 2, "meanwhile: no online requests"),
        ([status(a=replica(None))], "online requests: no replica steers by latency targets"),
        ([None], "online requests: no replica steers"),
    ],
)
def test_report_without_online_requests_says_so(statuses, expected):
    """Or that nothing is known."""
    assert watch_of(*statuses).report()[0].startswith(expected)


def test_place_says_where_requests_are():
    """For the progress bar; the last one stays while the pool does not answer."""
    watch = watch_of(status(20, a=replica(None, 3), b=replica(None, 5)), None)
    assert "3 + 5 in replicas, 20 wait" == watch.place
    assert "0 in replicas, 4 wait" == watch_of(status(4)).place


def test_it_looks_now_and_then():
    """However many results come."""
    clock = SimpleNamespace(now_s=0.0)
    looks = []
    watch = OnlineWatch(lambda: looks.append(clock.now_s), lambda: clock.now_s)
    for clock.now_s in (0.0, 0.5 * LOOK_EVERY_S, LOOK_EVERY_S, 1.5 * LOOK_EVERY_S):
        watch.look_if_due()
    assert [0.0, LOOK_EVERY_S] == looks
