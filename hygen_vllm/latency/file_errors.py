# SPDX-License-Identifier: Apache-2.0
"""One line for whatever is wrong with a file that should hold a certain format."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from hygen_vllm.config import ConfigError


@contextmanager
def one_line_errors(unreadable: str, subject: str, kind: str, remedy: str = "") -> Iterator[None]:
    """Turn what reading and parsing a file may raise into a ConfigError.

    Args:
        unreadable, subject: how the file is called where it cannot be read, and where it is not
            what it should be.
        kind: format and version that were expected.
        remedy: what to do then.
    """
    try:
        yield
    except ConfigError:
        raise
    except KeyError as error:
        reason = f"no {error}"
    except (
        *(ValueError, TypeError, AttributeError, OverflowError),
        *(EOFError, RecursionError, zlib.error),
    ) as error:
        reason = " ".join(str(error).split())
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"cannot read {unreadable}: {reason}") from None
    else:
        return
    raise ConfigError(f"{subject} is not a {kind} file: {reason}{remedy}")
