# SPDX-License-Identifier: Apache-2.0
"""Draws one chart as an SVG element that can stand in a page beside others.

Text stays text. Identifiers are made from the name of the chart, so that those of two charts never
meet; there is no date and no address in it, so the same chart is the same bytes.
"""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INSTALL_HINT = 'the charts need matplotlib: pip install "hygen-vllm[lab]"'
LETTERS_PER_INCH = 9.0
"""Of a title, roughly."""
_AXIS_COLOUR, _GRID_COLOUR = "#59636e", "#e6e9ed"
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": "#1d2733",
    "axes.labelcolor": _AXIS_COLOUR,
    "axes.edgecolor": "#aab2bb",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _GRID_COLOUR,
    "grid.linewidth": 0.8,
    "xtick.color": _AXIS_COLOUR,
    "ytick.color": _AXIS_COLOUR,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
    "svg.image_inline": True,
}
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


@dataclass(frozen=True)
class Frame:
    """What a chart has besides its data.

    Args:
        name: unique in the page.
        title: stands above the axes, and is read out where the chart cannot be seen.
        size: inches; fixes the proportions, and how large the text is in them.
    """

    name: str
    title: str
    size: tuple[float, float]


def draw_svg(frame: Frame, draw: Callable[["Axes"], None]) -> str:
    """Return the SVG of one pair of axes. Raises ModuleNotFoundError, one line, for matplotlib."""
    try:
        from matplotlib import style
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ModuleNotFoundError(INSTALL_HINT) from None
    buffer, salt = io.StringIO(), {"svg.hashsalt": frame.name}
    with warnings.catch_warnings(), style.context(["default", _STYLE, salt]):
        # Browsers have the letters that the font which measures the text has not.
        warnings.filterwarnings("ignore", message="Glyph")
        figure = Figure(figsize=frame.size)
        axes = figure.add_subplot()
        axes.set_title(frame.title)
        draw(axes)
        figure.savefig(buffer, format="svg", metadata=_NO_METADATA, transparent=True)
    return _inline(buffer.getvalue(), frame.title)


def titles(parts: Sequence[tuple[str, str]], width: float) -> list[str]:
    """Return "what: label" for charts of a width in inches, all in two lines if one is too long."""
    num_letters = int(width * LETTERS_PER_INCH)
    is_long = any(len(f"{what}: {label}") > num_letters for what, label in parts)
    separator = ":\n" if is_long else ": "
    return [f"{what}{separator}{_short(label, num_letters)}" for what, label in parts]


def _short(label: str, num_letters: int) -> str:
    """Return a label without its middle if it is too long: its end may be what tells it apart."""
    if len(label) <= num_letters:
        return label
    half = num_letters // 2 - 1
    return f"{label[:half]}\N{HORIZONTAL ELLIPSIS}{label[-half:]}"


def _inline(document: str, title: str) -> str:
    """Return the svg element of a document, without what only a file of its own needs."""
    element = document[document.index("<svg ") :]
    head, body = element.split(">", 1)
    view = re.search(r'viewBox="[^"]*"', head)
    assert view is not None, f"no viewBox in {head}"
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    named = set(re.findall(r'(?:url\(|href=")#([\w.-]+)', body))
    body = re.sub(r' id="([\w.-]+)"', lambda found: found[0] if found[1] in named else "", body)
    label = escape(" ".join(title.split()))
    return f'<svg {view[0]} role="img" aria-label="{label}">{body.rstrip()}'
