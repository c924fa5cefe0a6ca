# SPDX-License-Identifier: Apache-2.0
"""Steps that run at once, where the layers are spread over stages. Pure.

Each of p steps has other requests, and one is in every stage. A stage is left when the next one
is free, so all of them go on at the pace of the longest: what is added to a step that is shorter
than the others delays nobody, what is added to the longest delays the requests of all of them.
"""

from collections import deque

from hygen_vllm.step.online_share import OnlineShare


class Pipeline:
    """The online load of the last p steps; with one stage that of the last step.

    Args: num_stages: p.
    """

    def __init__(self, num_stages: int) -> None:
        self._steps: deque[tuple[int, float]] = deque(maxlen=num_stages)
        """(online decodes, seconds of the online work), the last one at the end."""

    def enter(self, share: OnlineShare) -> None:
        """Add a step."""
        self._steps.append((share.num_decodes, share.alone_s))

    @property
    def num_decodes(self) -> float:
        """Online decodes that wait for a second added to each of the steps, by step."""
        return sum(num_decodes for num_decodes, _ in self._steps) / len(self._steps)

    @property
    def others_s(self) -> float:
        """Mean seconds of the online work of all steps but the last; 0 with one stage."""
        others = [seconds for _, seconds in self._steps][:-1]
        return sum(others) / len(others) if others else 0.0
