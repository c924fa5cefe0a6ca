# SPDX-License-Identifier: Apache-2.0
"""Steps of an engine that is not there, with times that are known. Needs no vLLM."""

import random
from collections.abc import Iterable
from pathlib import Path

from hygen_vllm.cost.composition import StepComposition
from hygen_vllm.cost.curve import TokenCurve
from hygen_vllm.cost.engine_info import EngineInfo
from hygen_vllm.cost.step_cost import StepCost
from hygen_vllm.cost.trace import TracedStep, header, row
from hygen_vllm.lab.profile.batch_shapes import NUM_STEPS, BatchShape, design

ENGINE = EngineInfo(
    model="Tiny",
    architecture="TinyForCausalLM, 2 layers, 8 hidden",
    dtype="float32",
    tensor_parallel=1,
    pipeline_parallel=1,
    device="Abacus x 2",
    vllm_version="0.32.0",
    is_async=False,
    max_num_batched_tokens=64,
    max_num_seqs=8,
    max_model_len=128,
    block_size=4,
    num_kv_blocks=400,
)
COST = StepCost(2e-2, 1e-3, 1e-5, 2e-3, 5e-4, 1e-6, 1e-5, TokenCurve((0, 32), (1e-4, 1e-3)))
"""Prices of ENGINE."""


def composition(shape: BatchShape) -> StepComposition:
    """Return what a step of a shape holds."""
    step = StepComposition()
    for context in shape.contexts:
        step.add_decode(1, context)
    for new_tokens, computed_tokens in shape.chunks:
        step.add_prefill(new_tokens, computed_tokens)
    return step


def steps_in_a_row(shape: BatchShape, rng: random.Random, noise: float) -> list[TracedStep]:
    """Return NUM_STEPS alike, each off its price by a factor of standard deviation `noise`."""
    step = composition(shape)
    times = [COST.seconds(step) * rng.lognormvariate(0.0, noise) for _ in range(NUM_STEPS)]
    return [TracedStep(i, float(i), step, None, seconds) for i, seconds in enumerate(times, 1)]


def profiled_rows(num_mixes: int, num_repeats: int, noise: float) -> list[str]:
    """Return the lines of a profiler's trace of ENGINE: all shapes of a design, then all again."""
    rng = random.Random(0)
    shapes = design(ENGINE, num_mixes, seed=0)
    return [
        row(step, batch=number * NUM_STEPS + i, visit=repeat * len(shapes) + number)
        for repeat in range(num_repeats)
        for number, shape in enumerate(shapes)
        for i, step in enumerate(steps_in_a_row(shape, rng, noise))
    ]


def served_rows(num_steps: int, noise: float) -> list[str]:
    """Return the lines of a scheduler's trace of ENGINE, which knows no batches."""
    rng = random.Random(1)
    shapes = design(ENGINE, num_mixes=num_steps, seed=1)[:num_steps]
    return [row(steps_in_a_row(shape, rng, noise)[0]) for shape in shapes]


def write_trace(path: Path, rows: Iterable[str], engine: EngineInfo = ENGINE) -> Path:
    """Write a trace file; returns its path."""
    path.write_text(header(engine) + "".join(rows), encoding="utf-8")
    return path
