# SPDX-License-Identifier: Apache-2.0
"""The first day of the week of 27."""

from harness.days_findings import cases, draw, findings
from harness.experiment import Experiment

EXPERIMENT = Experiment(cases, findings, draw)
