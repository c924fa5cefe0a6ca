# SPDX-License-Identifier: Apache-2.0
"""Where a target begins before anything was saved or owed."""

import pytest

from hygen_vllm.slo.latency_window import LatencyWindow
from hygen_vllm.slo.slo import Slo
from hygen_vllm.slo.steered_slo import FEWEST_SAMPLES, Measures, steered


def _measures(decodes: float) -> Measures:
    windows = {metric: LatencyWindow(900.0) for metric in ("ttft", "tbt")}
    windows["tbt"].add(0.01, FEWEST_SAMPLES, 1.0)
    return Measures(900.0, windows, windows, decodes=decodes)


@pytest.mark.parametrize(("decodes", "factor"), [(0.0, 1.0), (1.5, 1.0), (4.0, 2.0), (60.0, 30.0)])
def test_mean_tbt_starts_where_half_as_many_wait_as_on_average(
    decodes: float, factor: float
) -> None:
    """An engine that always has many online decodes need not find out first that it has."""
    target = steered(Slo.parse("tbt_mean=+20%"), _measures(decodes))
    target.refresh(1.0)
    assert pytest.approx(factor) == target.allowance.factor


def test_mean_tbt_starts_once() -> None:
    """What was settled since is not forgotten at the next refresh."""
    target = steered(Slo.parse("tbt_mean=+20%"), _measures(4.0))
    target.refresh(1.0)
    target.allowance.set_saved(100.0, 2.0)
    settled = target.allowance.factor
    target.refresh(3.0)
    assert settled == target.allowance.factor
