"""What a number format is: frozen data, be it floats, integers or a list of values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from precis.formats.float_format import FloatFormat
from precis.formats.storage import stored_dtype


@dataclass(frozen=True, slots=True)
class IntFormat:
    """Two's-complement or unsigned fixed-point numbers: integers, unless told otherwise.

    Attributes:
        bits: Width, 2 to 32.
        signed: Whether one code in two is negative.
        fraction_bits: How many bits stand behind the point: `int8q6` counts in steps of 1/64,
            as OCP's MXINT8 does.
    """

    bits: int
    signed: bool = True
    fraction_bits: int = 0

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        """`int8`, `uint4`, `int8q6` and so on."""
        fraction = f"q{self.fraction_bits}" if self.fraction_bits else ""
        return f"{'int' if self.signed else 'uint'}{self.bits}{fraction}"

    @property
    def unit(self) -> float:
        """Distance between neighbors."""
        return 2.0**-self.fraction_bits

    @property
    def min(self) -> float:
        """Smallest value."""
        return -(2 ** (self.bits - 1)) * self.unit if self.signed else 0.0

    @property
    def max(self) -> float:
        """Largest value."""
        return (2 ** (self.bits - int(self.signed)) - 1) * self.unit

    @property
    def storage_dtype(self) -> np.dtype:
        """Where one value is kept: int8, uint4 and so on, or the next wider one."""
        return stored_dtype(self.name, self.bits, "int" if self.signed else "uint")

    def value_of(self, code: int) -> float:
        """The exact value of a code.

        >>> IntFormat(8).value_of(0xFF)
        -1.0
        """
        wraps = self.signed and code >= 1 << (self.bits - 1)
        return (code - (1 << self.bits if wraps else 0)) * self.unit


@dataclass(frozen=True, slots=True)
class Codebook:
    """A list of values, each named by its place in the list.

    Attributes:
        name: The name that `parse` gives back.
        values: Ascending, each one exact in float32; at most 2^16 of them.
    """

    name: str
    values: tuple[float, ...]

    def __str__(self) -> str:
        return self.name

    @property
    def bits(self) -> int:
        """Bits of one code."""
        return (len(self.values) - 1).bit_length()

    @property
    def min(self) -> float:
        """Smallest value."""
        return self.values[0]

    @property
    def max(self) -> float:
        """Largest value."""
        return self.values[-1]

    @property
    def storage_dtype(self) -> np.dtype:
        """Where one code is kept."""
        return stored_dtype(self.name, self.bits)

    def value_of(self, code: int) -> float:
        """The exact value of a code."""
        return self.values[code]


Grid = FloatFormat | IntFormat | Codebook
"""A set of numbers that have codes of a fixed width."""


def held_by(grid: Grid, carrier: FloatFormat) -> bool:
    """Whether `carrier` has every value of `grid`."""
    match grid:
        case FloatFormat():
            return grid.fits_in(carrier)
        case IntFormat():
            significant = grid.bits - int(grid.signed)
            reach = max(abs(grid.min), grid.max)
            return significant <= carrier.mantissa_bits + 1 and reach <= carrier.max
        case Codebook():
            return all(_has(value, carrier) for value in grid.values)


def _has(value: float, carrier: FloatFormat) -> bool:
    """Whether `value` is one of `carrier`'s."""
    if value == 0:
        return carrier.has_zero
    step = max(math.frexp(abs(value))[1] - 1, carrier.min_exponent) - carrier.mantissa_bits
    return abs(value) <= carrier.max and math.ldexp(value, -step).is_integer()
