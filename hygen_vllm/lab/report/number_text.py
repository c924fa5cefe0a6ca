# SPDX-License-Identifier: Apache-2.0
"""Numbers as a reader wants them: milliseconds, thousands apart, about three digits."""

HUNDRED = 100
NOTHING = "\N{EN DASH}"


def milliseconds(value_s: float | None) -> str:
    """Return seconds as milliseconds, without the unit."""
    return NOTHING if value_s is None else rounded(1e3 * value_s)


def rounded(value: float) -> str:
    """Return a number >= 0 with a digit after the point if below 100, with two if below 1."""
    if not value:
        return "0"
    num_digits = 0 if round(value, 1) >= HUNDRED else 1 if round(value, 2) >= 1 else 2
    return f"{value:,.{num_digits}f}"


def told_apart(value: float, other: float) -> tuple[str, str]:
    """Return two numbers, rounded unless that would make different ones look equal."""
    texts = rounded(value), rounded(other)
    if value == other or texts[0] != texts[1]:
        return texts
    return f"{value:.6g}", f"{other:.6g}"


def whole(value: float) -> str:
    """Return the nearest whole number."""
    return f"{value:,.0f}"


def percent(share: float | None) -> str:
    """Return a share as a percentage, with the unit."""
    return NOTHING if share is None else f"{rounded(100 * share)}\N{NO-BREAK SPACE}%"


def setting(value: object) -> str:
    """Return the value of a setting or flag; floats without digits that mean nothing."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ":".join(setting(member) for member in value)
    return str(value)


def argument(value: object) -> str:
    """Return the value of a flag as it is typed, with all its digits."""
    if isinstance(value, list):
        return ":".join(argument(member) for member in value)
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
