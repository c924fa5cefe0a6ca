# SPDX-License-Identifier: Apache-2.0
"""Greedy outputs of the real model in float32 are those of stock vLLM, token for token.

vLLM's CPU kernels need not be bit-identical for prompts that are cut into other chunks, so stock
vLLM with longer steps is measured beside ours: ours may differ no more than that.
"""

import pytest

from tests.support.engine_runner import ABORTED, STAGGERED, TOGETHER
from tests.support.recording_scheduler import read_records

pytestmark = pytest.mark.engine


def num_different(outputs, expected):
    return sum(mine != theirs for mine, theirs in zip(outputs, expected, strict=True))


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("hygen", TOGETHER),
        ("hygen", STAGGERED),
        ("hygen, no time to spare", STAGGERED),
        ("hygen, targets", STAGGERED),
        ("hygen, asynchronous", STAGGERED),
        ("hygen, offloading", STAGGERED),
    ],
)
def test_outputs_of_hygen_are_those_of_stock(serve, capsys, name, run):
    """Chunked, skipped or preempted: every request gets stock vLLM's tokens."""
    expected = serve("stock").outputs[TOGETHER]
    own_variation = num_different(serve("stock, longer steps").outputs[TOGETHER], expected)
    differences = num_different(serve(name).outputs[run], expected)
    with capsys.disabled():
        print(  # noqa: T201
            f"\n{name}, {run}: {differences} of {len(expected)} outputs differ from stock vLLM; "
            f"stock vLLM's own with longer steps: {own_variation}"
        )
    assert differences <= own_variation
    assert all(output.finish_reason for output in serve(name).outputs[run])


def test_outputs_were_made_under_pressure(serve):
    """The engines above did preempt and skip; no time to spare means no step for both classes."""
    assert serve("hygen").num_preemptions > 0
    steps = read_records(serve("hygen, no time to spare").record, "step")
    assert any(step["num_skipped"] for step in steps)
    assert not any(step["has_prices"] and step["online"] and step["offline"] for step in steps)


def test_preempted_offline_requests_find_their_kv_in_the_offload_tier(serve):
    """It comes back after online requests took its place."""
    served = serve("hygen, offloading")
    assert served.num_preemptions > 0
    assert served.loaded_bytes > 0
    assert 0 == serve("hygen").loaded_bytes


def test_asynchronous_scheduling_has_two_steps_in_flight(serve):
    """HyGenAsyncScheduler is in use, preempts, and gives the synchronous engine's outputs."""
    served = serve("hygen, asynchronous")
    (start,) = read_records(served.record, "start")
    assert start["is_async"]
    assert 2 == max(step["in_flight"] for step in read_records(served.record, "step"))
    preempted = {record["slo_class"] for record in read_records(served.record, "preempt")}
    assert "offline" in preempted
    assert serve("hygen").outputs[STAGGERED] == served.outputs[STAGGERED]


def test_asynchronous_scheduling_with_aborts_loses_nothing(serve):
    """What was aborted stays a prefix of the full output; all the rest is complete."""
    served = serve("hygen, asynchronous")
    is_aborted = []
    for full, output in zip(served.outputs[STAGGERED], served.outputs[ABORTED], strict=True):
        is_aborted.append(output.finish_reason is None)
        if output.finish_reason is None:
            assert full.tokens[: len(output.tokens)] == output.tokens
            assert len(output.tokens) < len(full.tokens)
        else:
            assert full == output
    assert 4 == sum(is_aborted)
