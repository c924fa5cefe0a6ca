# SPDX-License-Identifier: Apache-2.0
"""The vLLM releases this package supports, declared once and checked before an engine starts."""

SUPPORTED_FROM = (0, 31)
SUPPORTED_BELOW = (0, 34)


class UnsupportedReleaseError(RuntimeError):
    """The installed vLLM is not in the supported range; one line that names it."""


def supported_range() -> str:
    """Return the range as in a requirement, for example `>=0.31,<0.34`."""
    return f">={_text(SUPPORTED_FROM)},<{_text(SUPPORTED_BELOW)}"


def check_release(version: str) -> None:
    """Raise UnsupportedReleaseError, one line naming the range, for any other `version`."""
    if not is_supported(version):
        raise UnsupportedReleaseError(
            f"hygen-vllm supports vLLM {supported_range()}, found {version}; install a supported "
            "vLLM release or another hygen-vllm, or leave out --scheduler-cls"
        )


def is_supported(version: str) -> bool:
    """Whether a version string such as `0.32.0+cpu` lies in the range."""
    return SUPPORTED_FROM <= release_of(version) < SUPPORTED_BELOW


def release_of(version: str) -> tuple[int, int]:
    """Return (major, minor) of a version string, (0, 0) if it has none."""
    try:
        major, minor = (int(part) for part in version.split(".")[:2])
    except ValueError:
        return 0, 0
    return major, minor


def _text(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
