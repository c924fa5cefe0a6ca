# SPDX-License-Identifier: Apache-2.0
"""Short summaries as offline work: articles of CNN/DailyMail's published lengths."""

from harness.comparison import comparison_cases
from harness.comparison_findings import findings_of_comparison
from harness.experiment import Experiment
from harness.figures import draw_bars

EXPERIMENT = Experiment(comparison_cases, findings_of_comparison, draw_bars)
