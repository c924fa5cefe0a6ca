# SPDX-License-Identifier: Apache-2.0
"""What offline work costs online requests, over some time and several engines. Pure."""

from dataclasses import astuple, dataclass

from hygen_vllm.json_types import JsonView


@dataclass(frozen=True, slots=True)
class Interference:
    """Sums over the online requests of an engine since it started, and over the same requests as
    they would have been served alone. The difference of two is what was between them.

    Args:
        ttft_s, tbt_s: seconds to first tokens, and between tokens.
        num_ttft, num_tbt: how many of them.
        alone_...: estimated, without offline requests in the engine.
    """

    ttft_s: float = 0.0
    num_ttft: float = 0.0
    tbt_s: float = 0.0
    num_tbt: float = 0.0
    alone_ttft_s: float = 0.0
    alone_num_ttft: float = 0.0
    alone_tbt_s: float = 0.0
    alone_num_tbt: float = 0.0

    @classmethod
    def from_dict(cls, values: JsonView) -> "Interference":
        """Return what `dataclasses.asdict` gave."""
        return cls(**values)

    def __add__(self, other: "Interference") -> "Interference":
        return Interference(*map(sum, zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: "Interference") -> "Interference":
        return Interference(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __str__(self) -> str:
        if not self.num_ttft:
            return "no online requests"
        ttft = _compared(self.ttft_s, self.num_ttft, self.alone_ttft_s, self.alone_num_ttft)
        tbt = _compared(self.tbt_s, self.num_tbt, self.alone_tbt_s, self.alone_num_tbt)
        return f"{self.num_ttft:.0f} online requests, mean TTFT {ttft}, mean TBT {tbt}"


def _compared(total_s: float, count: float, alone_s: float, alone_count: float) -> str:
    if not count:
        return "unknown"
    mean_s = total_s / count
    if not alone_s or not alone_count:
        return f"{1e3 * mean_s:.1f} ms"
    rise = mean_s / (alone_s / alone_count) - 1.0
    return f"{1e3 * mean_s:.1f} ms ({rise:+.0%} against none offline)"
