# SPDX-License-Identifier: Apache-2.0
"""Bursts, drift, noise and no profile: are targets kept, and what does it cost?"""

from harness.comparison import comparison_cases
from harness.experiment import Experiment
from harness.troubles import draw_troubles, findings_of_troubles

EXPERIMENT = Experiment(comparison_cases, findings_of_troubles, draw_troubles)
