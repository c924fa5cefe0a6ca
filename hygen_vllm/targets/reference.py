# SPDX-License-Identifier: Apache-2.0
"""What online requests have when they are served alone, measured beforehand. Pure.

A JSON file with statistics of TTFT and TBT in seconds, as `hygen tune` and `hygen simulate --policy
online-only` write it:

    {"online": {"ttft_s": {"mean": 0.11, "p99": 0.36}, "tbt_s": {"mean": 0.012, "p99": 0.038}}}
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hygen_vllm.config import ConfigError, HyGenConfig
from hygen_vllm.cost.profile import find_profile
from hygen_vllm.files import one_line_errors
from hygen_vllm.json_types import JsonView
from hygen_vllm.slo import METRICS, Slo

FILE_NAME = "online-alone.json"
"""Found without being asked for in the folder of the profile that is used."""


@dataclass(frozen=True)
class Reference:
    """Statistics in seconds by metric and name ("tbt", "p99"), and where they are from."""

    stats: Mapping[str, Mapping[str, float]]
    source: str

    def resolved(self, slo: Slo) -> Slo:
        """Return a target with a limit in seconds. Raises ConfigError if it is not known."""
        if slo.rise is None:
            return slo
        alone_s = self.stats.get(slo.metric, {}).get(slo.statistic)
        if alone_s is None:
            raise ConfigError(f"{self.source} has no {slo.metric}_{slo.statistic} for {slo}")
        return replace(slo, limit_s=alone_s * (1.0 + slo.rise), rise=None)


def find_reference(config: HyGenConfig) -> Reference | None:
    """Return what relative targets are relative to; None if it is to be estimated.

    Raises: ConfigError, one line, for a file that cannot be used.
    """
    if config.slo_reference is not None:
        return load_reference(Path(config.slo_reference).expanduser())
    if config.profile is not None:
        path = find_profile(config.profile).parent / FILE_NAME
        if path.is_file():
            return load_reference(path)
    return None


def load_reference(path: Path) -> Reference:
    """Return the statistics in a file. Raises ConfigError, one line."""
    with one_line_errors(f"reference {path}", f"reference {path}", "JSON"):
        online = json.loads(path.read_text(encoding="utf-8"))["online"]
        stats = {metric: _positive(online.get(f"{metric}_s", {})) for metric in METRICS}
    return Reference(stats, str(path))


def _positive(values: JsonView) -> dict[str, float]:
    found = {name: value for name, value in values.items() if not _is_nothing(value)}
    for name, value in found.items():
        if not 0 < float(value) < math.inf:
            raise ValueError(f"{name} must be > 0 and finite, got {value}")
    return {name: float(value) for name, value in found.items()}


def _is_nothing(value: object) -> bool:
    """Whether a statistic says nothing: not measured, or tokens that came at once."""
    return value is None or (value == 0 and not isinstance(value, bool))
