"""What a number format is: frozen data, with every figure derived from a few integers."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

# Only these have a dtype whose arithmetic XLA knows. The decision is by name and never by
# equality: `e8m7` holds the same numbers as bfloat16 and is emulated all the same, which makes
# it an independent check of the native one.
_NATIVE = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


@dataclass(frozen=True, slots=True)
class FloatFormat:
    """A binary floating-point format in IEEE 754's manner.

    One sign bit, `exponent_bits`, `mantissa_bits`; the all-ones exponent holds infinities and
    NaNs, the all-zeros exponent holds zeros and subnormals. Every figure follows from the three
    integers; values are exact Python floats.

    Invariants: `max = (2 - eps) * 2**(2**exponent_bits - 2 - bias)`, `eps = 2**-mantissa_bits`.

    Attributes:
        name: The name that `parse` gives back (ml_dtypes' where there is one).
        exponent_bits: Width of the exponent field, 2 to 11.
        mantissa_bits: Width of the fraction field, without the implicit bit.
        bias: What is subtracted from the exponent field; IEEE's is `2**(exponent_bits-1) - 1`.

    Source: IEEE 754-2019, section 3.3 and 3.4.
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    bias: int

    def __str__(self) -> str:
        return _SHORT.get(self.name, self.name)

    @property
    def bits(self) -> int:
        """Bits of one code: sign, exponent and fraction."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def eps(self) -> float:
        """Distance from 1 to the next larger value."""
        return 2.0**-self.mantissa_bits

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest finite value; the all-ones field is Inf's and NaN's."""
        return 2**self.exponent_bits - 2 - self.bias

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal value, shared by all subnormals."""
        return 1 - self.bias

    @property
    def max(self) -> float:
        """Largest finite value."""
        return (2.0 - self.eps) * 2.0**self.max_exponent

    @property
    def smallest_normal(self) -> float:
        """Smallest positive value with a full significand."""
        return 2.0**self.min_exponent

    @property
    def smallest_subnormal(self) -> float:
        """Smallest positive value (the smallest normal one if there is no fraction field)."""
        return 2.0 ** (self.min_exponent - self.mantissa_bits)

    @property
    def dtype(self) -> np.dtype | None:
        """The dtype that stores and computes this format natively; None if it is emulated."""
        return _NATIVE.get(self.name)

    @property
    def is_native(self) -> bool:
        """Whether XLA has this format as a dtype; otherwise it rides on a wider carrier."""
        return self.dtype is not None

    @property
    def carrier(self) -> np.dtype:
        """The dtype in which its values travel: its own if native, else float32 or float64."""
        if self.dtype is not None:
            return self.dtype
        return np.dtype(np.float32 if self.fits_in(_FLOAT32) else np.float64)

    def fits_in(self, other: FloatFormat) -> bool:
        """Whether `other` has every value of this format.

        Subnormals count: `e8m0` has a smallest value of 2**-126, and fits in float32.
        """
        return (
            self.mantissa_bits <= other.mantissa_bits
            and self.max_exponent <= other.max_exponent
            and self.smallest_subnormal >= other.smallest_subnormal
        )


@dataclass(frozen=True, slots=True)
class IntFormat:
    """Two's-complement or unsigned integers of a given width.

    Attributes:
        bits: Width, 2 to 32.
        signed: Whether one code in two is negative.
    """

    bits: int
    signed: bool = True

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        """`int8`, `uint4` and so on."""
        return f"{'int' if self.signed else 'uint'}{self.bits}"

    @property
    def min(self) -> int:
        """Smallest value."""
        return -(2 ** (self.bits - 1)) if self.signed else 0

    @property
    def max(self) -> int:
        """Largest value."""
        return 2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 1


_FLOAT32 = FloatFormat("float32", 8, 23, 127)
_SHORT = {"float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16"}
