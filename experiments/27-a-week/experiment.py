# SPDX-License-Identifier: Apache-2.0
"""A week with all that happens in one."""

from harness.days_findings import cases, draw, findings
from harness.experiment import Experiment

EXPERIMENT = Experiment(cases, findings, draw)
