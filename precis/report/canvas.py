"""From a function that draws on axes to an SVG that takes its colors and font from the page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

from precis.report.palette import MUTED, RULE, Style, stand_in, with_variables
from precis.report.words import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Figures are drawn at 72 dots an inch, where a point is a pixel of the page.
_DPI = 72
WHOLE, HALF = 1136, 556


def line(style: Style, width: float) -> dict[str, Any]:
    """Keywords for `Axes.plot`: an arm's color and dashes at a line width in pixels.

    matplotlib measures dashes in line widths, so they are divided out to look alike at any width.
    """
    dashes = tuple(length / width for length in style.dash)
    return {
        "color": stand_in(style.ink),
        "linewidth": width,
        "linestyle": (0, dashes) if dashes else "-",
        "markeredgewidth": width,
    }


def log_axis(axes: Axes) -> None:
    """Makes the y axis logarithmic, its ticks in plain figures."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: short(value))
    axes.yaxis.set_minor_formatter(lambda value, _: "")


def render(draw: Callable[[Axes], None], width: int, height: int, *, salt: str, label: str) -> str:
    """The SVG element that `draw` makes, the same bytes each time.

    Args:
        draw: Puts everything on the axes, in stand-in colors.
        width: Pixels at full size; the page may shrink it.
        height: Pixels at full size.
        salt: Another for each figure of a page, so that no two share an id.
        label: What the figure shows, for those who do not see it.

    Returns:
        `<svg …>…</svg>`, without size, date or outside resource.
    """
    # matplotlib takes half a second, which only a reader of figures should wait for.
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    muted, rule = stand_in(MUTED), stand_in(RULE)
    look = {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "font.family": "DejaVu Sans",
        "font.size": 11.5,
        "axes.edgecolor": rule,
        "axes.labelcolor": muted,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.unicode_minus": True,
        "grid.color": rule,
        "grid.linewidth": 0.7,
        # An arm may have a dollar sign in its name.
        "text.parse_math": False,
        "text.color": muted,
        "xtick.color": muted,
        "ytick.color": muted,
        "ytick.major.size": 0,
        "ytick.minor.size": 0,
    }
    with matplotlib.rc_context(look):
        figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        draw(axes)
        file = io.StringIO()
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    return with_variables(_inline(file.getvalue(), label))


def _inline(document: str, label: str) -> str:
    """The svg element of an SVG document, scaling with the page."""
    svg = document[document.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    # matplotlib numbers its groups from one in every figure, and nothing refers to them.
    svg = re.sub(r'<g id="[\w.]+"', "<g", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)
