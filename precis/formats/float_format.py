"""What a floating-point format is: frozen data, every figure derived from a few integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from precis.formats.storage import NATIVE, stored_dtype

Specials = Literal["ieee", "fn", "fnuz", "finite", "fnu"]


@dataclass(frozen=True, slots=True)
class FloatFormat:
    """A binary floating-point format.

    One sign bit, `exponent_bits`, `mantissa_bits`; the all-zeros exponent holds zeros and
    subnormals. What the top codes mean is said by `specials`:

    * `ieee`: the all-ones exponent holds Inf and NaN (IEEE 754).
    * `fn`: finite but for one NaN of either sign, the code of all ones (OCP's e4m3fn).
    * `fnuz`: no Inf; the code of negative zero is the only NaN, and zero has no sign.
    * `finite`: every code is a finite value (OCP's 6- and 4-bit formats).
    * `fnu`: a bare exponent without sign and without zero, all ones is NaN (OCP's e8m0).

    Every figure follows from these; values are exact Python floats.

    Invariants: `max == value_of(max_code)`, `eps == 2**-mantissa_bits`.

    Attributes:
        name: The name that `parse` gives back (ml_dtypes' where there is one).
        exponent_bits: Width of the exponent field, 2 to 11.
        mantissa_bits: Width of the fraction field, without the implicit bit.
        bias: What is subtracted from the exponent field; IEEE's is `2**(exponent_bits-1) - 1`.
        specials: Which codes are no finite numbers.

    Source: IEEE 754-2019, section 3.3 and 3.4; OCP OFP8 specification 1.0; OCP Microscaling
    Formats specification 1.0, section 5.
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    bias: int
    specials: Specials = "ieee"

    def __str__(self) -> str:
        return _SHORT.get(self.name, self.name)

    def __hash__(self) -> int:
        # Formats are all over the keys by which equal layers are traced once.
        return hash(self.name)

    @property
    def is_signed(self) -> bool:
        """Whether it has negative values."""
        return self.specials != "fnu"

    @property
    def has_inf(self) -> bool:
        """Whether it has infinities."""
        return self.specials == "ieee"

    @property
    def has_nan(self) -> bool:
        """Whether some code is NaN."""
        return self.specials != "finite"

    @property
    def has_zero(self) -> bool:
        """Whether zero is one of its values."""
        return self.specials != "fnu"

    @property
    def has_negative_zero(self) -> bool:
        """Whether zero has a sign."""
        return self.is_signed and self.specials != "fnuz"

    @property
    def bits(self) -> int:
        """Bits of one code: sign, exponent and fraction."""
        return int(self.is_signed) + self.exponent_bits + self.mantissa_bits

    @property
    def eps(self) -> float:
        """Distance from 1 to the next larger value."""
        return 2.0**-self.mantissa_bits

    @property
    def max_code(self) -> int:
        """Code of the largest finite value."""
        top = (1 << (self.exponent_bits + self.mantissa_bits)) - 1
        match self.specials:
            case "ieee":
                return top - (1 << self.mantissa_bits)
            case "fn" | "fnu":
                return top - 1
            case "fnuz" | "finite":
                return top

    @property
    def nan_code(self) -> int:
        """Code of the quiet NaN without sign; without meaning where there is no NaN."""
        match self.specials:
            case "ieee":
                return self.max_code + 1 + (1 << (self.mantissa_bits - 1))
            case "fnuz":
                return 1 << (self.bits - 1)
            case _:
                return self.max_code + 1

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest finite value."""
        return (self.max_code >> self.mantissa_bits) - self.bias

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal value, shared by all subnormals."""
        return int(self.has_zero) - self.bias

    @property
    def max(self) -> float:
        """Largest finite value."""
        return self.value_of(self.max_code)

    @property
    def min(self) -> float:
        """Most negative finite value; the smallest one of a format without sign."""
        return -self.max if self.is_signed else self.smallest_subnormal

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
        return NATIVE.get(self.name)

    @property
    def storage_dtype(self) -> np.dtype:
        """Where one value is kept: its own dtype, or the narrowest one that holds its code."""
        return stored_dtype(self.name, self.bits)

    @property
    def is_native(self) -> bool:
        """Whether XLA computes in this format; otherwise it rides on a wider carrier."""
        return self.dtype is not None

    @property
    def carrier(self) -> np.dtype:
        """The dtype in which its values travel: its own if native, else float32 or float64."""
        if self.dtype is not None:
            return self.dtype
        return np.dtype(np.float32 if self.fits_in(_FLOAT32) else np.float64)

    def fits_in(self, other: FloatFormat) -> bool:
        """Whether `other` has every finite value of this format; subnormals count."""
        return (
            self.mantissa_bits <= other.mantissa_bits
            and self.max_exponent <= other.max_exponent
            and self.smallest_subnormal >= other.smallest_subnormal
        )

    def value_of(self, code: int) -> float:
        """The exact value of a code, NaN, ±Inf and -0.0 included.

        >>> FloatFormat("float16", 5, 10, 15).value_of(0x7BFF)
        65504.0
        """
        magnitude = code & ((1 << (self.exponent_bits + self.mantissa_bits)) - 1)
        sign = -1.0 if code != magnitude else 1.0
        if self.specials == "fnuz" and code != magnitude and magnitude == 0:
            return float("nan")
        if self.has_inf and magnitude == self._inf_code:
            return sign * float("inf")
        if magnitude > self.max_code:
            return float("nan")
        field, fraction = (
            magnitude >> self.mantissa_bits,
            magnitude & ((1 << self.mantissa_bits) - 1),
        )
        if field == 0 and self.has_zero:
            return sign * fraction * self.smallest_subnormal
        return sign * (1.0 + fraction * self.eps) * 2.0 ** (field - self.bias)

    @property
    def _inf_code(self) -> int:
        return self.max_code + 1


_FLOAT32 = FloatFormat("float32", 8, 23, 127)
_SHORT = {
    "float64": "f64",
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "float8_e4m3fn": "e4m3fn",
    "float8_e5m2": "e5m2",
    "float8_e4m3": "e4m3",
    "float8_e3m4": "e3m4",
    "float8_e4m3fnuz": "e4m3fnuz",
    "float8_e5m2fnuz": "e5m2fnuz",
    "float8_e4m3b11fnuz": "e4m3b11fnuz",
    "float8_e8m0fnu": "e8m0",
    "float6_e2m3fn": "e2m3",
    "float6_e3m2fn": "e3m2",
    "float4_e2m1fn": "e2m1",
}
