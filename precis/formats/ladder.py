"""A grid as a ladder of numbered rungs, in ascending order, whose numbers are exact fractions.

Floats and integers count from zero up and down, a codebook counts from its first value.
"""

from __future__ import annotations

from fractions import Fraction

from precis.formats.float_format import FloatFormat
from precis.formats.spec import Codebook, Grid, IntFormat


def ends(grid: Grid) -> tuple[int, int]:
    """The lowest and the highest rung."""
    match grid:
        case FloatFormat():
            return (-grid.max_code if grid.is_signed else 0), grid.max_code
        case IntFormat():
            return int(grid.min / grid.unit), int(grid.max / grid.unit)
        case Codebook():
            return 0, len(grid.values) - 1


def number_at(rung: int, grid: Grid) -> Fraction:
    """The number on a rung; floats and integers have one more beyond each end."""
    match grid:
        case FloatFormat():
            if abs(rung) > grid.max_code:
                step = Fraction(2) ** (grid.max_exponent - grid.mantissa_bits)
                return (Fraction(grid.max) + step) * (1 if rung > 0 else -1)
            return Fraction(grid.value_of(abs(rung))) * (1 if rung >= 0 else -1)
        case IntFormat():
            return rung * Fraction(grid.unit)
        case Codebook():
            return Fraction(grid.values[rung])


def code_at(rung: int, grid: Grid, *, negative: bool) -> int:
    """The code of a rung; that of -0 for the rung of zero if `negative`."""
    if isinstance(grid, FloatFormat):
        signed = rung < 0 or (rung == 0 and negative and grid.has_negative_zero)
        return abs(rung) | (signed << (grid.bits - 1))
    return rung % (1 << grid.bits)


def rung_below(number: Fraction, grid: Grid) -> int:
    """The highest rung at or below `number`; one less than the lowest if there is none."""
    low, high = ends(grid)
    low -= 1
    while low < high:
        middle = (low + high + 1) // 2
        if number_at(middle, grid) <= number:
            low = middle
        else:
            high = middle - 1
    return low
