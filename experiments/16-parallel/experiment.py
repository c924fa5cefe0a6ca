# SPDX-License-Identifier: Apache-2.0
"""A model of 34B on four GPUs, tensor parallel and in a pipeline, against every baseline."""

from harness.comparison import comparison_cases
from harness.comparison_findings import findings_of_comparison
from harness.experiment import Experiment
from harness.figures import draw_bars

EXPERIMENT = Experiment(comparison_cases, findings_of_comparison, draw_bars)
