# SPDX-License-Identifier: Apache-2.0
"""Long prompts with shared prefixes online: Mooncake's conversation trace."""

from harness.comparison import comparison_cases
from harness.comparison_findings import findings_of_comparison
from harness.experiment import Experiment
from harness.figures import draw_bars

EXPERIMENT = Experiment(comparison_cases, findings_of_comparison, draw_bars)
