"""Exact arithmetic on the host: which numbers lie around a value, and which one it rounds to.

Nothing here looks at the bits of a float: the rung of the grid below a value is found by
bisection, and all comparisons are between fractions. Slow, and independent of `round_to`.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

from precis.formats.float_format import FloatFormat
from precis.formats.ladder import code_at, ends, number_at, rung_below
from precis.formats.options import check_option, check_rounding
from precis.formats.parse import parse_grid
from precis.formats.scaled import Overflow, Rounded, Rounding, Subnormals
from precis.formats.spec import Codebook, Grid

Number = Fraction | float
"""An exact number; a float where there is no fraction for it: NaN, ±Inf and -0.0."""


class Landing(NamedTuple):
    """Where a value comes down on a grid.

    Attributes:
        code: The code of what it becomes.
        is_overflow: Whether it lies beyond the grid's range.
    """

    code: int
    is_overflow: bool


def value_of(code: int, fmt: Grid | str) -> Number:
    """The number that `code` stands for: a fraction, or a float if it is NaN, ±Inf or -0.0.

    >>> value_of(0x0001, "f16") == Fraction(1, 2**24)
    True

    Raises:
        ValueError: `code` has more bits than the format or stands beyond its list of values, or
            `fmt` is scaled or unknown.
    """
    grid = parse_grid(fmt)
    codes = len(grid.values) if isinstance(grid, Codebook) else 1 << grid.bits
    if not 0 <= code < codes:
        raise ValueError(f"{grid} has codes from 0 to {codes - 1}, got {code}")
    return exact(grid.value_of(code))


def exact(number: Number) -> Number:
    """`number` as a fraction; NaN, ±Inf and -0.0 stay floats."""
    if not isinstance(number, float):
        return Fraction(number)
    if not math.isfinite(number) or (number == 0 and math.copysign(1.0, number) < 0):
        return number
    return Fraction(number)


def neighbors(value: Number, fmt: Grid | str) -> tuple[int | None, int | None]:
    """The codes of the largest number at or below `value` and of the smallest at or above it.

    Both are the same if `value` is one of the numbers; None where the range ends. The zero above
    a negative value, and zero itself if it is -0.0, is a negative one where there is one.

    >>> neighbors(Fraction(1, 10), "f16")
    (11878, 11879)

    Raises:
        ValueError: `value` is not finite, or `fmt` is scaled or unknown.
    """
    grid = parse_grid(fmt)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"only a finite number has neighbors, got {value}")
    number, negative = Fraction(value), _is_negative(value)
    below = rung_below(number, grid)
    first, last = ends(grid)
    above = below if below >= first and number_at(below, grid) == number else below + 1
    return (
        code_at(below, grid, negative=negative) if below >= first else None,
        code_at(above, grid, negative=negative) if above <= last else None,
    )


def nearest_code(
    value: Number,
    fmt: Grid | str,
    rounding: Rounding = "nearest_even",
    *,
    overflow: Overflow | None = None,
    subnormals: Subnormals = "keep",
) -> int:
    """The code of what `value` becomes in `fmt`; a NaN's is the quiet one.

    All is as in `round_to`, by another way: overflow, NaN, ties and the formats that lack a sign,
    a zero, an Inf or a NaN.

    >>> hex(nearest_code(70000.0, "f16")), hex(nearest_code(70000.0, "f16", overflow="saturate"))
    ('0x7c00', '0x7bff')

    Raises:
        ValueError: `rounding` is stochastic, an option is unknown or asks for a code that `fmt`
            has not, or `fmt` is scaled or unknown.
    """
    return landing(value, Rounded(parse_grid(fmt), rounding, overflow, subnormals)).code


def landing(value: Number, how: Rounded) -> Landing:
    """What `value` becomes on the grid of `how`, and whether it overflowed.

    Raises:
        ValueError: As `nearest_code`.
    """
    _check(how)
    grid, negative = how.grid, _is_negative(value)
    if isinstance(value, float) and math.isnan(value):
        return Landing(_code_for_nan(how), False)
    if isinstance(grid, FloatFormat) and not grid.is_signed and (negative or value == 0):
        return Landing(grid.nan_code, False)
    if isinstance(value, float) and math.isinf(value):
        code = _code_beyond(how, negative=negative, infinite=True)
        return Landing(code, grid.value_of(code) != value)
    number, is_beyond = _inside(Fraction(value), grid)
    rung = _rung(number, how)
    first, last = ends(grid)
    if not first <= rung <= last:
        return Landing(_code_beyond(how, negative=negative, infinite=False), True)
    if how.subnormals == "flush" and isinstance(grid, FloatFormat):
        rung = rung if abs(number_at(rung, grid)) >= grid.smallest_normal else 0
    return Landing(code_at(rung, grid, negative=negative), is_beyond)


def _check(how: Rounded) -> None:
    for key in ("rounding", "overflow", "subnormals"):
        check_option(key, getattr(how, key))
    check_rounding(how)
    if how.rounding == "stochastic":
        raise ValueError(f"{how}: stochastic rounding has no single answer; see its neighbors")


def _is_negative(value: Number) -> bool:
    return value < 0 or (isinstance(value, float) and math.copysign(1.0, value) < 0)


def _inside(number: Fraction, grid: Grid) -> tuple[Fraction, bool]:
    """`number` moved to where the ladder has no rung beyond an end, and whether that is overflow.

    Beyond the ends of a codebook lie the ends, and e8m0 has nothing below its smallest value.
    """
    if isinstance(grid, Codebook):
        inside = min(max(number, Fraction(grid.min)), Fraction(grid.max))
        return inside, inside != number
    if isinstance(grid, FloatFormat) and not grid.is_signed:
        return max(number, Fraction(grid.min)), False
    return number, False


def _rung(number: Fraction, how: Rounded) -> int:
    """The rung that `number` rounds to; one beyond the ends if it overflows."""
    grid = how.grid
    below = rung_below(number, grid)
    first, last = ends(grid)
    if below < first:
        return below + int(number > number_at(below, grid) and _goes_up(number, below, how))
    if number_at(below, grid) == number:
        return below
    if below == last and number >= number_at(last + 1, grid):
        return last + 1
    return below + int(_goes_up(number, below, how))


def _goes_up(number: Fraction, below: int, how: Rounded) -> bool:
    """Whether `number` rounds up, strictly between the rungs `below` and `below + 1`."""
    grid = how.grid
    match how.rounding:
        case "up":
            return True
        case "toward_zero":
            return number < 0
        case "nearest_even" | "nearest_away":
            # A bare exponent rounds as XLA's cast does: ties up, having no fraction that could be
            # even, and all that lies between the two smallest numbers.
            is_bare = isinstance(grid, FloatFormat) and not grid.is_signed
            if is_bare and how.rounding == "nearest_even" and below == 0:
                return True
            middle = (number_at(below, grid) + number_at(below + 1, grid)) / 2
            if number != middle:
                return number > middle
            if how.rounding == "nearest_away" or is_bare:
                return number >= 0
            # A codebook's codes have no parity: the smaller value.
            return not isinstance(grid, Codebook) and below % 2 == 1
        case _:
            return False


def _code_beyond(how: Rounded, *, negative: bool, infinite: bool) -> int:
    """What overflow, or Inf, becomes."""
    grid = how.grid
    limit = code_at(ends(grid)[0 if negative else 1], grid, negative=negative)
    if not isinstance(grid, FloatFormat) or not grid.has_nan or how.overflow == "saturate":
        return limit
    sign = int(negative and grid.has_negative_zero) << (grid.bits - 1)
    infinity, nan = sign | (grid.max_code + 1), sign | grid.nan_code
    top = infinity if grid.has_inf else nan
    if how.overflow == "inf" or infinite:
        return top
    if how.overflow == "nan":
        return nan
    return limit if how.rounding in ("toward_zero", "up" if negative else "down") else top


def _code_for_nan(how: Rounded) -> int:
    """What NaN becomes: a NaN, -0 in floats without one, else 0 or what 0 rounds to."""
    grid = how.grid
    if isinstance(grid, FloatFormat):
        return grid.nan_code if grid.has_nan else 1 << (grid.bits - 1)
    return landing(Fraction(0), how).code
