# SPDX-License-Identifier: Apache-2.0
"""Two targets at once: P99 TTFT and mean TBT, both kept, and what offline work is left."""

from harness.comparison import comparison_cases
from harness.comparison_findings import findings_of_comparison
from harness.experiment import Experiment
from harness.figures import draw_bars

EXPERIMENT = Experiment(comparison_cases, findings_of_comparison, draw_bars)
