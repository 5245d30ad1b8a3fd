"""The picture of formats: number lines, whole and close by, and the spacing of the numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precis.formats.facts import facts
from precis.formats.parse import Format
from precis.report.number_line import NumberLine, Point, number_line
from precis.report.palette import FLOOR, INK, INKS, MUTED, RULE
from precis.report.powers import decimal, figure, is_short, power

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

USUAL = ("f32", "tf32", "bf16", "f16", "e5m2", "e4m3fn", "e2m1", "int8")
# One color a format, in their order; a format that was asked for stands in the text's own.
_COLORS = tuple(ink.light for ink in (MUTED, *INKS[-6:], FLOOR))
_DPI, _FINE_DPI = 72, 144
_SIZE = (1000, 860)
_BAR = 0.56

Colored = tuple[NumberLine, str]


def draw_number_lines(file: Path, also: Format | str | None = None) -> None:
    """Writes the picture: the usual formats, and one more if it is given.

    Above, the whole range; in the middle, every value of the narrow formats; below, the spacing
    as a share of the number. The same bytes each time.

    Args:
        file: Where to; its end decides between SVG and PNG.
        also: A format that is drawn before the others, in the color of the text.

    Raises:
        ValueError: The file ends neither in .svg nor in .png, or no format has that name.
    """
    kind = file.suffix.lower().removeprefix(".")
    if kind not in ("svg", "png"):
        raise ValueError(f"a picture is a .svg or a .png file, got {file.name!r}")
    lines = [(number_line(name), color) for name, color in zip(USUAL, _COLORS, strict=True)]
    if also is not None:
        asked = number_line(also)
        lines = [(asked, INK.light), *(pair for pair in lines if pair[0].label != asked.label)]
    # matplotlib takes half a second, which only those who want a picture should wait for.
    import matplotlib

    with matplotlib.rc_context(_look()):
        picture = _picture(lines)
        # Nothing that changes from one day or version to the next.
        metadata: dict[str, None] = {"Date": None} if kind == "svg" else {"Software": None}
        dpi = _DPI if kind == "svg" else _FINE_DPI
        picture.savefig(file, format=kind, metadata=metadata, dpi=dpi)


def _look() -> dict[str, Any]:
    return {
        # Outlines, so that it looks alike where the font is missing.
        "svg.fonttype": "path",
        "svg.hashsalt": "number lines",
        "font.family": "DejaVu Sans",
        "font.size": 11,
        "axes.edgecolor": RULE.light,
        "axes.labelcolor": MUTED.light,
        "axes.titlecolor": INK.light,
        "axes.titlelocation": "left",
        "axes.titlesize": 12.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": RULE.light,
        "grid.linewidth": 0.7,
        "hatch.linewidth": 1.0,
        "text.color": MUTED.light,
        "xtick.color": MUTED.light,
        "ytick.color": MUTED.light,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
    }


def _picture(lines: list[Colored]) -> Figure:
    from matplotlib.figure import Figure

    size = (_SIZE[0] / _DPI, _SIZE[1] / _DPI)
    picture = Figure(figsize=size, dpi=_DPI, facecolor="white")
    picture.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
    whole, near, spacing = picture.subplots(3, height_ratios=(1.0, 1.0, 1.25))
    low = min(line.low for line, _ in lines)
    high = max(line.normal[1] for line, _ in lines)
    reach = 0.1 * (high - low)
    _draw_lines(whole, lines, (low - reach, high + reach), closely=False)
    whole.set_title("The positive numbers of a format: solid where normal, hatched where subnormal")
    f16 = facts("f16")
    # As wide as f16, which lies between the wide formats and the narrow ones.
    close = (math.log2(f16.smallest_positive) - 2, math.log2(f16.max) + 2)
    _draw_lines(near, lines, close, closely=True)
    near.set_title("A closer look, with every single number of the narrow formats")
    _draw_spacing(spacing, lines, close)
    spacing.set_title("Distance to the next number, as a share of the number")
    return picture


def _draw_lines(axes: Axes, lines: list[Colored], reach: Point, *, closely: bool) -> None:
    """One row a format: bars, or in the close-up ticks where there are any."""
    for place, (line, color) in enumerate(lines):
        has_ticks = closely and bool(line.ticks)
        if line.subnormal:
            low, high = line.subnormal
            axes.barh(place, high - low, _BAR, low, color=color, alpha=0.2)
            hatched: dict[str, Any] = {
                "facecolor": "none",
                "edgecolor": color,
                "linewidth": 0,
                "hatch": "////",
            }
            axes.barh(place, high - low, _BAR, low, **hatched)
        low, high = line.normal
        axes.barh(place, high - low, _BAR, low, color=color, alpha=0.15 if has_ticks else 0.85)
        if has_ticks:
            half = _BAR / 2
            axes.vlines(line.ticks, place - half, place + half, color=color, linewidth=1.2)
        if not closely:
            _label_ends(axes, line, place)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_yticks(range(len(lines)), [line.label for line, _ in lines])
    for text, (_, color) in zip(axes.get_yticklabels(), lines, strict=True):
        text.set_color(color)
    axes.grid(visible=False, axis="y")
    _powers_of_ten(axes, reach)


def _label_ends(axes: Axes, line: NumberLine, place: int) -> None:
    beside: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 9.5}
    smallest, largest = line.ends
    axes.annotate(figure(smallest), (line.low, place), (-4, 0), ha="right", **beside)
    axes.annotate(figure(largest), (line.normal[1], place), (4, 0), ha="left", **beside)


def _draw_spacing(axes: Axes, lines: list[Colored], reach: Point) -> None:
    for line, color in lines:
        # f16 has tf32's spacing where both are normal: dashes let the one below show through.
        dashes = (0, (4, 3)) if line.label == "f16" else "-"
        axes.plot(*zip(*line.spacing, strict=True), color=color, linewidth=1.7, linestyle=dashes)
    _label_curves(axes, lines, reach)
    eps = sorted({math.log2(facts(name).eps or 1.0) for name in ("f32", "f16", "bf16", "e4m3fn")})
    places = [*eps, 0.0]
    axes.set_yticks(places, [_as_share(place) for place in places])
    axes.set_ylim(min(places) - 2.5, 4.5)
    _powers_of_ten(axes, reach)


def _label_curves(axes: Axes, lines: list[Colored], reach: Point) -> None:
    """Names each curve: above its beginning, or at the right edge if that is out of sight."""
    last = -math.inf
    level = 0
    for line, color in sorted(lines, key=lambda pair: pair[0].low):
        first = line.spacing[0]
        if first[0] < reach[0]:
            inside = [y for x, y in line.spacing if x < reach[1]]
            axes.annotate(
                line.label,
                (1, inside[-1]),
                (4, 0),
                color=color,
                va="center",
                xycoords=axes.get_yaxis_transform(),
                textcoords="offset points",
            )
            continue
        # Names that would touch stand one above the other.
        level = 1 - level if first[0] - last < 2.5 else 0
        last = first[0]
        axes.annotate(
            line.label,
            first,
            (0, 4 + 13 * level),
            color=color,
            ha="center",
            textcoords="offset points",
        )


def _as_share(exponent: float) -> str:
    percent = 100 * 2.0**exponent
    return f"{power(2.0**exponent)} {'=' if is_short(percent, 3) else '≈'} {decimal(percent, 3)}%"


def _powers_of_ten(axes: Axes, reach: Point) -> None:
    """Labels a logarithmic axis whose places are logarithms to base 2."""
    decade = math.log2(10)
    first, last = math.ceil(reach[0] / decade), math.floor(reach[1] / decade)
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100) if (last - first) / step <= 14)
    shown = [k for k in range(first, last + 1) if k % step == 0]
    axes.set_xticks([k * decade for k in shown], [decimal(10.0**k, 1) for k in shown])
    axes.set_xlim(*reach)
