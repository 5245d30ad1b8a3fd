"""The bits of a carrier: how float32 and float64 are taken apart into integers and put together.

XLA's CPU backend flushes float32 subnormals, and `exp2` and `log2` are inexact at integers. So
exponents are read from bits, and multiplied in as bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from precis.formats.catalogue import FLOAT32, FLOAT64
from precis.formats.float_format import FloatFormat


class Carrier(NamedTuple):
    """A dtype wide enough to hold other formats' values, and the integers of its width."""

    format: FloatFormat
    uint: Any
    int: Any

    @property
    def dtype(self) -> np.dtype:
        """float32 or float64."""
        return self.format.carrier

    @property
    def sign_bit(self) -> int:
        """The bit that is set in negative values."""
        return 1 << (self.format.bits - 1)

    @property
    def infinity(self) -> int:
        """Bits of Inf; what is larger, as an integer without sign, is NaN."""
        return self.format.max_code + 1

    @property
    def nan(self) -> int:
        """Bits of the quiet NaN without payload."""
        return self.infinity | 1 << (self.format.mantissa_bits - 1)

    def bits_of(self, value: float) -> int:
        """Bits of a Python float that the carrier holds exactly."""
        return int(np.asarray(value, self.dtype).view(self.uint))


CARRIERS: dict[np.dtype[Any], Carrier] = {
    np.dtype(np.float32): Carrier(FLOAT32, np.uint32, np.int32),
    np.dtype(np.float64): Carrier(FLOAT64, np.uint64, np.int64),
}


def carrier_of(bits: Array) -> Carrier:
    """The carrier whose bits have the dtype of `bits`, uint32 or uint64."""
    return next(carrier for carrier in CARRIERS.values() if carrier.uint == bits.dtype)


def split(x: Array) -> tuple[Array, Array]:
    """The sign bit and the remaining bits of x: [...] float32 or float64, as unsigned integers."""
    carrier = CARRIERS[x.dtype]
    bits = lax.bitcast_convert_type(x, carrier.uint)
    sign_bit = np.asarray(carrier.sign_bit, carrier.uint)
    return bits & sign_bit, bits & ~sign_bit


def exponent_of(magnitude: Array, carrier: Carrier) -> Array:
    """floor(log2 |x|) plus the carrier's bias, from the bits of |x|, subnormals included.

    Args:
        magnitude: [...] unsigned: bits of finite nonnegative values.
        carrier: Whose bits they are.

    Returns:
        [...] signed: ≥ 1 for normal values, ≤ 0 for subnormal ones, the lowest of all for zero.
    """
    m = carrier.format.mantissa_bits
    field = (magnitude >> np.asarray(m, magnitude.dtype)).astype(carrier.int)
    # A subnormal's bits are an integer below 2^m, which converts to the carrier exactly.
    count = magnitude.astype(carrier.dtype)
    normalized = lax.bitcast_convert_type(count, carrier.uint) >> np.asarray(m, carrier.uint)
    unit = carrier.format.bias + m - 1
    return jnp.where(
        field > 0, field, normalized.astype(carrier.int) - np.asarray(unit, carrier.int)
    )


def times_power_of_two(x: Array, exponent: Array) -> Array:
    """The product of x and 2^exponent, exact where it can be.

    Subnormals are read and written bit by bit, truncated where they have too many. Beyond the
    range is Inf; zeros, Inf and NaN stay what they are.

    Args:
        x: [...] float32 or float64.
        exponent: int32 that broadcasts against x.
    """
    carrier = CARRIERS[x.dtype]
    m = carrier.format.mantissa_bits
    sign, magnitude = split(x)
    implicit = np.asarray(1 << m, carrier.uint)
    old = exponent_of(magnitude, carrier)
    # The significand with its leading bit at place m, whatever it was.
    fraction = magnitude & (implicit - np.asarray(1, carrier.uint))
    lift = jnp.clip(1 - old, 0, m).astype(carrier.uint)
    significand = jnp.where(old > 0, fraction | implicit, magnitude << lift)
    new = old + exponent
    drop = jnp.clip(1 - new, 0, m + 1).astype(carrier.uint)
    field = jnp.maximum(new, 1).astype(carrier.uint) - np.asarray(1, carrier.uint)
    bits = (field << np.asarray(m, carrier.uint)) + (significand >> drop)
    infinity = np.asarray(carrier.infinity, carrier.uint)
    bits = jnp.where(new > carrier.format.max_exponent + carrier.format.bias, infinity, bits)
    keep = (magnitude == 0) | (magnitude >= infinity)
    return lax.bitcast_convert_type(sign | jnp.where(keep, magnitude, bits), x.dtype)


def to_float32(x: Array) -> Array:
    """x: [...] float64 in float32, which has its values; XLA's CPU would flush subnormals."""
    sign, magnitude = split(x)
    size = lax.bitcast_convert_type(magnitude, x.dtype)
    # A subnormal's bits are how many times 2^-149 it is.
    subnormal = (size * np.asarray(2.0**149, x.dtype)).astype(np.uint32)
    bits = jnp.where(
        size < np.asarray(FLOAT32.smallest_normal, x.dtype),
        (sign >> np.asarray(32, sign.dtype)).astype(np.uint32) | subnormal,
        lax.bitcast_convert_type(x.astype(np.float32), np.uint32),
    )
    return lax.bitcast_convert_type(bits, np.float32)
