"""The positive numbers of a format as points on a log axis, and how far apart they are."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

from precis.formats.facts import facts
from precis.formats.float_format import FloatFormat
from precis.formats.ladder import ends, number_at
from precis.formats.parse import Format, parse
from precis.formats.spec import Codebook, Grid, IntFormat

# More than an 8-bit float has would be a bar.
_MOST_TICKS = 128

Point = tuple[float, float]


class NumberLine(NamedTuple):
    """The positive numbers of a format; all but `ends` are logarithms to base 2.

    Attributes:
        label: The format.
        ends: The smallest and the largest number themselves.
        subnormal: From the smallest number to the smallest normal one; None without.
        normal: From the smallest normal number, or simply the smallest, to the largest.
        ticks: Every number, ascending, if there are few.
        spacing: (number, distance to the next larger one as a share of it), to be joined by
            straight lines; a codebook has a point for each number.
    """

    label: str
    ends: Point
    subnormal: Point | None
    normal: Point
    ticks: tuple[float, ...]
    spacing: tuple[Point, ...]

    @property
    def low(self) -> float:
        """Where the smallest number stands."""
        return (self.subnormal or self.normal)[0]


def number_line(fmt: Format | str) -> NumberLine:
    """What there is to draw of a format; of a scaled one, of its elements.

    >>> number_line("f16").subnormal
    (-24.0, -14.0)
    >>> [2**tick for tick in number_line("e2m1").ticks][:3]
    [0.5, 1.0, 1.5]

    Raises:
        ValueError: No format has that name.
    """
    fmt = parse(fmt)
    grid = fmt if isinstance(fmt, FloatFormat | IntFormat | Codebook) else fmt.grid
    told = facts(grid)
    low, high = math.log2(told.smallest_positive), math.log2(told.max)
    first_normal = low if told.smallest_normal is None else math.log2(told.smallest_normal)
    return NumberLine(
        label=str(fmt),
        ends=(told.smallest_positive, told.max),
        subnormal=(low, first_normal) if first_normal > low else None,
        normal=(first_normal, high),
        ticks=_ticks(grid),
        spacing=tuple(_spacing(grid)),
    )


def _ticks(grid: Grid) -> tuple[float, ...]:
    last = ends(grid)[1]
    if last > 2 * _MOST_TICKS:
        return ()
    values = [number_at(rung, grid) for rung in range(max(ends(grid)[0], 0), last + 1)]
    found = tuple(math.log2(value) for value in values if value > 0)
    return found if len(found) <= _MOST_TICKS else ()


def _spacing(grid: Grid) -> list[Point]:
    match grid:
        case FloatFormat():
            m = grid.mantissa_bits
            points: list[Point] = []
            if grid.has_zero and m:
                points.append((float(grid.min_exponent - m), 0.0))
            for exponent in range(grid.min_exponent, grid.max_exponent):
                points += [(float(exponent), -float(m)), (exponent + 1.0, -m - 1.0)]
            top = math.log2(grid.max)
            return [
                *points,
                (float(grid.max_exponent), -float(m)),
                (top, grid.max_exponent - m - top),
            ]
        case IntFormat():
            unit, top = math.log2(grid.unit), math.log2(grid.max)
            return [(unit, 0.0), (top, unit - top)]
        case Codebook():
            positive = [value for value in grid.values if value > 0]
            pairs = itertools.pairwise(positive)
            return [(math.log2(low), math.log2((high - low) / low)) for low, high in pairs]
