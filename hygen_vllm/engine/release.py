# SPDX-License-Identifier: Apache-2.0
"""The vLLM releases this package supports, declared once and checked before an engine starts."""

import functools
import logging
import os

SUPPORTED_FROM = (0, 31)
"""The first release on which the tests run."""
SUPPORTED_BELOW = (0, 34)
"""The first after the last of them."""
ALLOW_VARIABLE = "HYGEN_ALLOW_UNSUPPORTED_VLLM"

# Below vLLM's logger, so that a warning is a line of vLLM's log; without vLLM it goes to stderr.
logger = logging.getLogger("vllm.hygen")


class UnsupportedReleaseError(RuntimeError):
    """The installed vLLM is not in the supported range; one line that names it."""


def supported_range() -> str:
    """Return the range as in a requirement, for example `>=0.31,<0.34`."""
    return f">={_text(SUPPORTED_FROM)},<{_text(SUPPORTED_BELOW)}"


def check_release(version: str) -> None:
    """Raise UnsupportedReleaseError, one line naming the range, for any other `version`.

    With HYGEN_ALLOW_UNSUPPORTED_VLLM=1 in the environment a process logs one warning instead.
    """
    if is_supported(version):
        return
    problem = f"hygen-vllm supports vLLM {supported_range()}, found {version}"
    if not _is_allowed():
        raise UnsupportedReleaseError(
            f"{problem}; install a supported vLLM release or another hygen-vllm, leave out "
            f"--scheduler-cls, or set {ALLOW_VARIABLE}=1 to try it at your own risk"
        )
    _warn_once(f"{problem}; it may fail or schedule wrongly ({ALLOW_VARIABLE} is set)")


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


def _is_allowed() -> bool:
    value = os.environ.get(ALLOW_VARIABLE, "")
    if value.lower() not in {"1", "true", "0", "false", ""}:
        raise UnsupportedReleaseError(
            f"{ALLOW_VARIABLE} must be 1, true, 0 or false, got {value!r}"
        )
    return value.lower() in {"1", "true"}


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning(message)


def _text(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
