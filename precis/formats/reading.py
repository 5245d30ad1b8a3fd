"""A number as a format sees it: its bits, the value that they stand for, and how far off it is."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Literal

from precis.formats.exact import Number, exact, landing, value_of
from precis.formats.float_format import FloatFormat
from precis.formats.parse import Format, parse
from precis.formats.scaled import Rounded, ScaledFormat
from precis.formats.spec import Codebook, Grid, IntFormat

Status = Literal["exact", "rounded", "subnormal", "underflowed", "overflowed", "not a number"]

# float64 spans 1e-324 to 1e309; beyond this, powers of ten only cost memory.
_LARGEST_EXPONENT = 5000
_POWER_OF_TWO = re.compile(r"([+-]?)2(?:\^|\*\*)([+-]?\d{1,9})")


@dataclass(frozen=True, slots=True)
class Reading:
    """What becomes of a number in a format.

    Invariants: `nearest == value_of(code, grid)`, `sign + exponent + fraction` is `code` in
    binary, `error == nearest - value`.

    Attributes:
        grid: The format's grid.
        value: The number itself, exact; a float if it is NaN, ±Inf or -0.0.
        code: The code of what it becomes.
        nearest: What it becomes, exact; a float if that is NaN, ±Inf or -0.0.
        sign: The sign bit, empty where there is none.
        exponent: The bits of the exponent field, empty but in floats.
        fraction: The bits of the fraction field; of an integer those behind its sign, of a
            codebook the place in its list.
        error: `nearest - value`; None if either is not finite.
        relative_error: `error / |value|`; None also if the number is zero.
        ulp: Distance from `nearest` to its neighbor further from zero, as if the largest number
            had one; None if `nearest` is not finite.
        status: `exact`; `rounded`; `subnormal`, rounded or not; `underflowed`: to zero, or in a
            format without zero to its smallest number; `overflowed`: beyond the range, whatever
            that becomes; `not a number`, given or made.
    """

    grid: Grid
    value: Number
    code: int
    nearest: Number
    sign: str
    exponent: str
    fraction: str
    error: Fraction | None
    relative_error: Fraction | None
    ulp: Fraction | None
    status: Status


def read_number(number: str | float | Fraction, fmt: Format | str) -> Reading:
    """What `number` becomes in `fmt`.

    Text is taken at its word: `0.1` is a tenth, not the float64 next to it. Read are decimals
    (`-1e-8`), powers of two (`2^-24`), `inf` and `nan`, with either kind of minus; `-0` is the
    negative zero. Rounding, overflow and subnormals are the format's own options.

    >>> reading = read_number("0.1", "f16")
    >>> reading.sign, reading.exponent, reading.fraction, float(reading.nearest)
    ('0', '01011', '1001100110', 0.0999755859375)
    >>> read_number("2^-25", "f16").status
    'underflowed'

    Raises:
        ValueError: The text is no number or one beyond 1e±5000; `fmt` is unknown, scaled, or
            rounds stochastically.
    """
    fmt = parse(fmt)
    if isinstance(fmt, ScaledFormat):
        raise ValueError(
            f"what a number becomes in {fmt} depends on its neighbors: read it in {fmt.grid}"
        )
    how = fmt if isinstance(fmt, Rounded) else Rounded(fmt)
    value = parse_number(number) if isinstance(number, str) else exact(number)
    code, is_overflow = landing(value, how)
    nearest = value_of(code, how.grid)
    error = None
    if _is_finite(value) and _is_finite(nearest):
        error = Fraction(nearest) - Fraction(value)
    sign, exponent, fraction = bit_fields(code, how.grid)
    return Reading(
        grid=how.grid,
        value=value,
        code=code,
        nearest=nearest,
        sign=sign,
        exponent=exponent,
        fraction=fraction,
        error=error,
        relative_error=error / abs(Fraction(value)) if error is not None and value else None,
        ulp=_ulp(nearest, how.grid) if _is_finite(nearest) else None,
        status="overflowed" if is_overflow else _status(value, nearest, how.grid),
    )


def parse_number(text: str) -> Number:
    """The number that `text` names, exactly; a float if it is NaN, ±Inf or -0.0.

    Raises:
        ValueError: It names none, or one beyond 1e±5000.
    """
    plain = text.strip().replace("−", "-")
    if match := _POWER_OF_TWO.fullmatch(plain):
        _check_exponent(text, int(int(match[2]) * math.log10(2)))
        return Fraction(2) ** int(match[2]) * (-1 if match[1] == "-" else 1)
    try:
        number = Decimal(plain)
    except InvalidOperation:
        raise ValueError(
            f"a number is wanted, such as 0.1, -7e4, 2^-24 or inf, got {text!r}"
        ) from None
    if not number.is_finite() or number.is_zero():
        return exact(float(number)) if not number.is_snan() else math.nan
    _check_exponent(text, number.adjusted())
    return Fraction(number)


def bit_fields(code: int, grid: Grid) -> tuple[str, str, str]:
    """The bits of sign, exponent and fraction, each empty where there is no such field.

    >>> from precis.formats import parse_grid
    >>> bit_fields(0xBC, parse_grid("e4m3fn"))
    ('1', '0111', '100')
    """
    bits = format(code, f"0{grid.bits}b")
    match grid:
        case FloatFormat():
            first = int(grid.is_signed)
            last = first + grid.exponent_bits
            return bits[:first], bits[first:last], bits[last:]
        case IntFormat():
            return bits[: int(grid.signed)], "", bits[int(grid.signed) :]
        case Codebook():
            return "", "", bits


def _check_exponent(text: str, decimal_exponent: int) -> None:
    if abs(decimal_exponent) > _LARGEST_EXPONENT:
        raise ValueError(
            f"{text!r} is beyond every format: numbers from 1e-{_LARGEST_EXPONENT} to "
            f"1e{_LARGEST_EXPONENT} are read"
        )


def _is_finite(number: Number) -> bool:
    return isinstance(number, Fraction) or math.isfinite(number)


def _ulp(number: Number, grid: Grid) -> Fraction:
    match grid:
        case FloatFormat():
            # A value of the grid is exact in float64, so its exponent is, too.
            exponent = math.frexp(float(number))[1] - 1 if number else grid.min_exponent
            return Fraction(2) ** (max(exponent, grid.min_exponent) - grid.mantissa_bits)
        case IntFormat():
            return Fraction(grid.unit)
        case Codebook():
            place = grid.values.index(float(number))
            other = place + 1 if number >= 0 else place - 1
            if not 0 <= other < len(grid.values):
                other = place - 1 if number >= 0 else place + 1
            return abs(Fraction(grid.values[other]) - Fraction(grid.values[place]))


def _status(value: Number, nearest: Number, grid: Grid) -> Status:
    """The status of what did not overflow."""
    if nearest != nearest or value != value:
        return "not a number"
    if not _is_finite(nearest):
        return "exact"
    if isinstance(grid, FloatFormat):
        if not grid.has_zero and value < grid.min:
            return "underflowed"
        if 0 < abs(nearest) < grid.smallest_normal:
            return "subnormal"
    if nearest == 0 != value:
        return "underflowed"
    return "exact" if nearest == value else "rounded"
