# SPDX-License-Identifier: Apache-2.0
"""The supported vLLM releases: a range declared once, and one line for what lies outside."""

import pytest

from hygen_vllm.vllm_release import (
    SUPPORTED_BELOW,
    SUPPORTED_FROM,
    check_release,
    is_supported,
    supported_range,
)

UNSUPPORTED = ["0.30.9", "0.34.0", "0.34.0rc1", "1.0.0", "1.32.0", "0.3.1", "0.310.0"]
NO_RELEASE = ["dev", "", "0", "0.x", "unknown.version"]


@pytest.mark.parametrize(
    "version",
    ["0.31.0", "0.32.0", "0.33.0", "0.31", "0.32.0+cpu", "0.33.1rc2.dev3+g1a2b3c4", "0.33.99"],
)
def test_release_inside_the_range_is_supported(version: str) -> None:
    """Patch releases, candidates and local builds of a supported release are supported."""
    assert is_supported(version)
    check_release(version)


@pytest.mark.parametrize("version", UNSUPPORTED + NO_RELEASE)
def test_release_outside_the_range_stops_with_range_version_and_remedy(version: str) -> None:
    """Numbers are compared as numbers; what is no version is not supported."""
    assert not is_supported(version)
    with pytest.raises(RuntimeError) as caught:
        check_release(version)
    message = str(caught.value)
    assert message.startswith(f"hygen-vllm supports vLLM {supported_range()}, found {version}; ")
    assert "install a supported vLLM release" in message
    assert "leave out --scheduler-cls" in message
    assert "\n" not in message


def test_supported_range_reads_as_the_declared_requirement() -> None:
    """The text in messages and requirements is the declared range, upper end excluded."""
    (from_major, from_minor), (below_major, below_minor) = SUPPORTED_FROM, SUPPORTED_BELOW
    expected = f">={from_major}.{from_minor},<{below_major}.{below_minor}"
    assert supported_range() == expected == ">=0.31,<0.34"
    assert is_supported(f"{from_major}.{from_minor}.0")
    assert not is_supported(f"{below_major}.{below_minor}.0")
