# SPDX-License-Identifier: Apache-2.0
"""What an engine has to do, as it tells those who send it requests. Pure."""

from dataclasses import dataclass, fields

from hygen_vllm.json_types import JsonView

UTILITY = "hygen_load"
"""EngineCore's answer to it is that of its scheduler's LoadReport."""


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """The load of an engine at one moment.

    Args:
        num_online: online requests that run or wait.
        online_prefill_tokens: tokens of theirs that are to be computed before they can decode.
        num_offline: offline requests that run or wait.
        offline_wanted: offline requests that it would take now, beyond those it has.
        free_tokens: KV that online requests could have, in tokens, that of offline ones among it.
        decode_step_s: predicted seconds of a step of all online decodes; 0 if unknown.
        prefill_token_s: predicted seconds of a token in a step full of prefill; 0 if unknown.
    """

    num_online: int = 0
    online_prefill_tokens: int = 0
    num_offline: int = 0
    offline_wanted: int = 0
    free_tokens: int = 0
    decode_step_s: float = 0.0
    prefill_token_s: float = 0.0

    @classmethod
    def from_dict(cls, values: JsonView) -> "EngineLoad":
        """Return what `dataclasses.asdict` gave; names that are not known here are passed over."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})
