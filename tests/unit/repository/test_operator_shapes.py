# SPDX-License-Identifier: Apache-2.0
"""Derived operator times: what was measured, carried over by what is computed and moved."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))

from operator_shapes import BYTES, LINK_LATENCY_S, LINK_SHARE, Gpu, Llm, Split

GPU = Gpu("small", peak_flops=1e12, memory_bytes_per_s=1e10, link_bytes_per_s=1e9)
LLM = Llm("tiny", "LlamaForCausalLM", 4, 64, 256, 8, 2, 100)
MEASURED_S = {"attn_pre_proj": 0.01, "mlp_up_proj": 0.02, "mlp_act": 0.003, "add": 0.001}


def test_times_of_what_was_measured_are_those_that_were_measured() -> None:
    split = Split(GPU, LLM)
    assert pytest.approx(sum(MEASURED_S.values())) == split.layer_seconds(7, MEASURED_S, split)


@pytest.mark.parametrize(("num_tokens", "ratio"), [(1, 2.0), (100_000, 4.0)])
def test_few_tokens_follow_the_bandwidth_and_many_the_arithmetic(
    num_tokens: int, ratio: float
) -> None:
    """A matrix product of a token reads its weights; one of many multiplies."""
    llm = Llm("wide", "LlamaForCausalLM", 1, 4096, 16384, 32, 32, 100)
    slower = Split(Gpu("slower", GPU.peak_flops / 4, GPU.memory_bytes_per_s / 2), llm)
    measured_s = {"mlp_down_proj": 1.0}
    seconds = slower.layer_seconds(num_tokens, measured_s, Split(GPU, llm))
    assert pytest.approx(ratio, rel=0.01) == seconds


def test_layer_twice_as_wide_takes_four_times_as_long_in_products_and_twice_in_others() -> None:
    wide = Llm("wide", "LlamaForCausalLM", 4, 128, 512, 8, 2, 100)
    source = Split(GPU, LLM)
    products, others = ({"mlp_up_proj": 1.0}, {"mlp_act": 1.0})
    assert pytest.approx(4.0, rel=0.05) == Split(GPU, wide).layer_seconds(1, products, source)
    assert pytest.approx(2.0) == Split(GPU, wide).layer_seconds(1, others, source)


def test_layer_over_two_gpus_has_half_of_its_matrices_and_sends_activations_twice() -> None:
    """Two all-reduces of two transfers; each sends as many numbers as there are activations."""
    source, split = Split(GPU, LLM), Split(GPU, LLM, tensor=2)
    num_tokens = 3
    sent_s = BYTES * num_tokens * LLM.hidden / (LINK_SHARE * 1e9)
    expected_s = 0.5 + 2 * (2 * LINK_LATENCY_S + sent_s)
    seconds = split.layer_seconds(num_tokens, {"mlp_act": 1.0}, source)
    assert pytest.approx(expected_s) == seconds


def test_stages_hand_their_activations_over_once_each() -> None:
    split = Split(GPU, LLM, pipeline=3)
    sent_s = LINK_LATENCY_S + BYTES * 5 * LLM.hidden / (LINK_SHARE * 1e9)
    assert pytest.approx(2 * sent_s) == split.hand_over_seconds(5)
    assert 0.0 == Split(GPU, LLM).hand_over_seconds(5)


def test_gpu_without_a_link_cannot_share_a_layer() -> None:
    split = Split(Gpu("alone", 1e12, 1e10), LLM, tensor=2)
    with pytest.raises(ValueError, match="alone has no link to another"):
        split.layer_seconds(1, MEASURED_S, Split(GPU, LLM))
