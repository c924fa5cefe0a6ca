# SPDX-License-Identifier: Apache-2.0
"""The profiler's batches on a device model instead of an engine. Pure but for the noise."""

import numpy as np
import pandas as pd

from hygen_vllm.cost.composition import FEATURES
from hygen_vllm.cost.engine_info import EngineInfo
from hygen_vllm.lab.profile.batch_shapes import NUM_STEPS, design
from hygen_vllm.lab.profile.fit import MeasuredSteps
from hygen_vllm.lab.simulator.step_time import Device
from hygen_vllm.lab.simulator.step_work import StepWork


def modelled_steps(
    device: Device, engine: EngineInfo, num_mixes: int, seed: int = 0
) -> MeasuredSteps:
    """Return one step for each shape of a design, with the seconds the device takes."""
    works = [StepWork.of(shape) for shape in design(engine, num_mixes, seed)]
    table = pd.DataFrame([work.composition().features() for work in works], columns=FEATURES)
    table["seconds"] = [device.step_seconds(work) for work in works]
    table["batch"] = np.arange(len(works)) * NUM_STEPS
    return MeasuredSteps.of(engine, table)
