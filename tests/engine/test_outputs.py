# SPDX-License-Identifier: Apache-2.0
"""Greedy outputs of the real model in float32 are those of stock vLLM, token for token.

vLLM's CPU kernels need not be bit-identical for prompts that are cut into other chunks, so stock
vLLM with longer steps is measured beside ours: ours may differ no more than that.
"""

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1500)]


def num_different(outputs, expected):
    return sum(mine != theirs for mine, theirs in zip(outputs, expected, strict=True))


@pytest.mark.parametrize(
    "name",
    ["hygen, together", "hygen", "no time to spare", "targets", "asynchronous", "offloading"],
)
def test_outputs_of_hygen_are_those_of_stock(serve, capsys, name):
    """Chunked, skipped or preempted: every request gets stock vLLM's tokens."""
    expected = serve("stock").outputs
    own_variation = num_different(serve("stock, longer steps").outputs, expected)
    outputs = serve(name).outputs
    differences = num_different(outputs, expected)
    with capsys.disabled():
        print(  # noqa: T201
            f"\n{name}: {differences} of {len(expected)} outputs differ from stock vLLM; "
            f"stock vLLM's own with longer steps: {own_variation}"
        )
    assert differences <= own_variation
    assert all(output.finish_reason for output in outputs)


def test_outputs_were_made_under_pressure(serve, records):
    """The engine did preempt and skip; no time to spare means no step for both classes."""
    assert serve("hygen").num_preemptions > 0
    serve("no time to spare")
    steps = records("no time to spare", "step")
    assert any(step["num_skipped"] for step in steps)
    assert not any(step["has_prices"] and step["online"] and step["offline"] for step in steps)


def test_preempted_offline_requests_find_their_kv_in_the_offload_tier(serve):
    """It comes back after online requests took its place."""
    served = serve("offloading")
    assert served.num_preemptions > 0
    assert served.loaded_bytes > 0
    assert 0 == serve("hygen").loaded_bytes


def test_asynchronous_scheduling_has_two_steps_in_flight(serve, records):
    """HyGenAsyncScheduler is in use, preempts, and gives the synchronous engine's outputs."""
    served = serve("asynchronous")
    (start,) = records("asynchronous", "start")
    assert start["is_async"]
    assert 2 == max(step["in_flight"] for step in records("asynchronous", "step"))
    preempted = {record["slo_class"] for record in records("asynchronous", "preempt")}
    assert "offline" in preempted
    assert serve("hygen").outputs == served.outputs


def test_asynchronous_scheduling_with_aborts_loses_nothing(serve):
    """What was aborted stays a prefix of the full output; all the rest is complete."""
    whole, with_aborts = serve("asynchronous").outputs, serve("asynchronous, aborts").outputs
    is_aborted = []
    for full, output in zip(whole, with_aborts, strict=True):
        is_aborted.append(output.finish_reason is None)
        if output.finish_reason is None:
            assert full.tokens[: len(output.tokens)] == output.tokens
            assert len(output.tokens) < len(full.tokens)
        else:
            assert full == output
    assert 4 == sum(is_aborted)
