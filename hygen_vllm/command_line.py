# SPDX-License-Identifier: Apache-2.0
"""What the parsers of all commands are made of.

A parser whose errors are one line, and types of arguments: text to value, or the reason why not.
"""

import argparse
from typing import NoReturn

BAD_ARGUMENTS = 2


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and the reason."""
        self.exit(BAD_ARGUMENTS, f"{self.prog}: {message}\n")


def positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be > 0, got {text}")
    return value


def not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be >= 0, got {text}")
    return value


def count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be >= 1, got {text}")
    return value


def pair(text: str) -> tuple[float, float]:
    try:
        first, second = map(float, text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be like 200:1.3, got {text}") from None
    return first, second


def setting(text: str) -> tuple[str, object]:
    """Return name and value, which is YAML as in a configuration file."""
    import yaml

    name, is_given, value = text.partition("=")
    if not (name and is_given):
        raise argparse.ArgumentTypeError(f"must be like idle_step_s=0.05, got {text}")
    try:
        return name.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise argparse.ArgumentTypeError(f"{name}: not a value: {value}") from None


def share(text: str) -> float:
    value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a share from 0 to 1, or like 20%, got {text}")
    return value
