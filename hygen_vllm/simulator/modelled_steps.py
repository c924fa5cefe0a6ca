# SPDX-License-Identifier: Apache-2.0
"""The profiler's batches on a device model instead of an engine."""

import numpy as np
import pandas as pd

from hygen_vllm.latency.engine_info import EngineInfo
from hygen_vllm.latency.step_features import FEATURES, StepComposition
from hygen_vllm.profiler.batch_shapes import NUM_STEPS, BatchShape, design
from hygen_vllm.profiler.fit import MeasuredSteps
from hygen_vllm.simulator.device_model import DeviceModel


def modelled_steps(device: DeviceModel, engine: EngineInfo, num_mixes: int) -> MeasuredSteps:
    """Return one step for each shape of a design, with the seconds the device model says."""
    shapes = design(engine, num_mixes, seed=0)
    rows = [{**_sums(shape), "seconds": device.seconds(_requests(shape))} for shape in shapes]
    table = pd.DataFrame(rows)
    table["batch"] = np.arange(len(shapes)) * NUM_STEPS
    return MeasuredSteps.of(engine, table)


def _requests(shape: BatchShape) -> list[tuple[int, int]]:
    return [*((1, context) for context in shape.contexts), *shape.chunks]


def _sums(shape: BatchShape) -> dict[str, float]:
    step = StepComposition()
    for context in shape.contexts:
        step.add_decode(1, context)
    for new_tokens, computed_tokens in shape.chunks:
        step.add_prefill(new_tokens, computed_tokens)
    return dict(zip(FEATURES, step.features(), strict=True))
