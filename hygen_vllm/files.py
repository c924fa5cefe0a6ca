# SPDX-License-Identifier: Apache-2.0
"""User files: read, or one line says why not; written whole, or not at all."""

import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hygen_vllm.config import ConfigError


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 as `replacing` does."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to, beside `path` and with its suffix, which then takes its place.

    If that fails or is interrupted, what was at `path` stays as it was. What is no regular file,
    such as a pipe or /dev/null, is written to directly.
    Raises: OSError that names `path`.
    """
    target = path.resolve()
    with naming(path):
        if target.exists() and not target.is_file():
            yield path
            return
        part = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
        try:
            yield part
            with part.open("rb") as file:
                os.fsync(file.fileno())
            if target.exists():
                shutil.copymode(target, part)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Raise an OSError again as one that names `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"cannot write: {reason}", str(path)) from None


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
