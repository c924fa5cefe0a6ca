# SPDX-License-Identifier: Apache-2.0
"""What a scheduler says when it starts: what is in force, and which settings have no effect."""

from pathlib import Path
from typing import Any

import pytest

from hygen_vllm import __version__
from hygen_vllm.config import ConfigError, HyGenConfig
from hygen_vllm.operate.log import remarks, start_line


def line_of(policy: str = "fcfs", source: str | None = None, **settings: Any) -> str:
    return start_line(HyGenConfig(**settings), "0.32.0", policy, source)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "mode slo, targets tbt_mean=+20%, ttft_mean=+20% (the default); online alone estim"),
        ({"slos": ["tbt_p99=45ms"]}, "mode slo, targets tbt_p99=45ms; online alone estimated whi"),
        ({"latency_budget_s": 0.05}, "mode fixed, 50 ms a step; step times learned while serving"),
        ({"mode": "off"}, "mode off; offline: requests with slo_class offline or a priority above"),
        ({"profile": "a100-llama2-7b"}, "while serving; step times a100-llama2-7b; offline: "),
        ({"default_class": "offline"}, "; offline: all requests but those with slo_class online"),
        ({"offline_priority_above": 4}, "; offline: requests with slo_class offline or a priority"),
        ({"offline_priority_above": 4}, " or a priority above 4"),
    ],
)
def test_line_says_what_is_in_force(settings: dict[str, Any], expected: str) -> None:
    """In one line, beginning with the versions."""
    line = line_of(**settings)
    assert line.startswith(f"HyGen {__version__} on vLLM 0.32.0: mode ")
    assert expected in line
    assert "\n" not in line


def test_line_names_where_online_alone_is_known_from() -> None:
    """A file that was measured before."""
    assert "; online alone from x.json; step" in line_of(source="from x.json")


def test_line_says_where_a_priority_is_no_label() -> None:
    """Under vLLM's priority policy, unless told otherwise."""
    assert "priority is no label under vLLM's priority policy" in line_of("priority")
    assert "no label" not in line_of("priority", offline_priority_above=0)


def remarks_of(additional_config: Any = None, **settings: Any) -> list[str]:
    return list(remarks(HyGenConfig(**settings), additional_config))


@pytest.mark.parametrize(
    ("additional_config", "remark"),
    [
        ({"slos": ["tbt_p99=45ms"]}, 'slos beside "hygen" in additional_config has no effect'),
        ({"hygen": {}, "mode": "off"}, 'mode beside "hygen" in additional_config has no effect'),
        ({"hygn": {}}, 'additional_config["hygn"] has no effect; did you mean "hygen"?'),
        ({"HyGen": {}}, 'additional_config["HyGen"] has no effect; did you mean "hygen"?'),
    ],
)
def test_settings_in_the_wrong_place_are_remarked_on(
    additional_config: dict[str, Any], remark: str
) -> None:
    """Nothing reads them there."""
    (found,) = remarks_of(additional_config)
    assert found.startswith(remark)


@pytest.mark.parametrize(
    "additional_config", [None, {}, {"hygen": {"mode": "off"}}, {"gdn_prefill_backend": "x", 7: 1}]
)
def test_settings_of_others_are_not_remarked_on(additional_config: Any) -> None:
    """additional_config belongs to all plug-ins."""
    assert [] == remarks_of(additional_config)


@pytest.mark.parametrize(
    ("settings", "remark"),
    [
        (
            {"latency_budget_s": 50},
            "latency_budget_s = 50 lets a step take 50 seconds; 50 ms are 0.05",
        ),
        ({"idle_step_s": 100}, "idle_step_s = 100 lets a step take 100 seconds; 100 ms are 0.1"),
    ],
)
def test_settings_that_cannot_be_meant_are_remarked_on(
    settings: dict[str, Any], remark: str
) -> None:
    """They are in force all the same, or overruled."""
    assert [remark] == remarks_of(**settings)


@pytest.mark.parametrize("name", ["hygen.yaml", "hygen.json"])
@pytest.mark.parametrize("is_nested", [False, True])
def test_key_that_is_there_twice_is_refused(tmp_path: Path, name: str, is_nested: bool) -> None:
    """YAML and JSON would take the last one without a word."""
    pairs = [("idle_step_s", "0.2"), ("mode", '"off"'), ("idle_step_s", "0.3")]
    if name.endswith("json"):
        text = "{" + ", ".join(f'"{key}": {value}' for key, value in pairs) + "}"
        text = f'{{"hygen": {text}}}' if is_nested else text
    else:
        text = "\n".join(f"{key}: {value}" for key, value in pairs)
        text = "hygen:\n  " + text.replace("\n", "\n  ") if is_nested else text
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="has the key idle_step_s twice; remove one"):
        HyGenConfig.from_file(str(path))
