"""`round_to`: the one place where a bit changes.

Rounding works on the bits of the carrier, as integers. Floating-point tricks do not survive
compilation: XLA folds `(x + c) - c` to `x`, may drop a pair of converts, flushes subnormals on
CPU, and `lax.reduce_precision` flushes those of the target.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from precis.formats.catalogue import FLOAT32, FLOAT64
from precis.formats.parse import Format, parse_float
from precis.formats.spec import FloatFormat


class _Carrier(NamedTuple):
    format: FloatFormat
    uint: type[np.unsignedinteger]


_CARRIERS = {
    np.dtype(np.float32): _Carrier(FLOAT32, np.uint32),
    np.dtype(np.float64): _Carrier(FLOAT64, np.uint64),
}


def round_to(x: Array, fmt: Format | str) -> Array:
    """`x` with every value replaced by the nearest one of `fmt`, ties to even.

    The values come back on a wide carrier: float64 for float64 input, else float32 (narrower
    floats are first widened, which is exact). NaN stays NaN; ±Inf and ±0 stay as they are; what
    lies at or beyond `max + ulp/2` becomes ±Inf, as in a cast; subnormals of the format are kept,
    and what lies at or below half of the smallest becomes zero with its sign. Bit-exact on every
    backend, also for subnormal input. The gradient is straight-through: 1 everywhere.

    Invariants: `round_to(round_to(x)) == round_to(x)`, `round_to(-x) == -round_to(x)`, monotone.

    >>> round_to(jnp.float32(0.1), "bf16")
    Array(0.10009766, dtype=float32)
    >>> round_to(jnp.float32([1e-8, 3e-8, 7e4]), "f16")
    Array([0.0000000e+00, 5.9604645e-08,           inf], dtype=float32)

    Args:
        x: [...] floating point.
        fmt: A float format or its name.

    Returns:
        [...] float32, or float64 if `x` is.

    Raises:
        TypeError: `x` is not floating point.
        ValueError: `fmt` is no float format, or has values that the carrier lacks.

    Source: IEEE 754-2019, section 4.3.1 (roundTiesToEven) and 7.4 (overflow).
    """
    fmt = parse_float(fmt)
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"round_to wants a floating-point array, got {x.dtype}: cast it first")
    if x.dtype not in _CARRIERS:
        x = x.astype(jnp.float32)
    carrier = _CARRIERS[x.dtype].format
    if not fmt.fits_in(carrier):
        raise ValueError(f"{fmt} has values that {carrier} lacks: pass a {fmt} array")
    return _straight_through(x, fmt)


@jax.custom_jvp
def _identity_gradient(x: Array, rounded: Array) -> Array:
    del x
    return rounded


@_identity_gradient.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return primals[1], tangents[0]


def _straight_through(x: Array, fmt: FloatFormat) -> Array:
    return _identity_gradient(x, _round_bits(lax.stop_gradient(x), fmt))


@functools.partial(jax.jit, static_argnums=1)
def _round_bits(x: Array, fmt: FloatFormat) -> Array:
    carrier, uint = _CARRIERS[x.dtype]
    if fmt == carrier:
        return x
    u = lambda value: np.asarray(value, uint)  # noqa: E731
    sign_bit = u(1 << (carrier.bits - 1))
    bits = lax.bitcast_convert_type(x, uint)
    sign, magnitude = bits & sign_bit, bits & ~sign_bit

    rounded = _drop(magnitude, u(carrier.mantissa_bits - fmt.mantissa_bits))
    if fmt.min_exponent > carrier.min_exponent:
        smallest_normal = u(_bits_of(fmt.smallest_normal, carrier))
        below = magnitude < smallest_normal
        rounded = jnp.where(below, _round_subnormal(magnitude, fmt, carrier, uint), rounded)
    infinity = u(_bits_of(np.inf, carrier))
    rounded = jnp.where(rounded > u(_bits_of(fmt.max, carrier)), infinity, rounded)
    rounded = jnp.where(magnitude > infinity, magnitude, rounded)  # NaN keeps its payload
    return lax.bitcast_convert_type(sign | rounded, x.dtype)


def _drop(bits: Array, count: Array | np.ndarray) -> Array:
    """`bits` with its low `count` bits rounded away, ties to even; 0 ≤ count < width."""
    one = np.asarray(1, bits.dtype)
    # Adding half minus one, plus the lowest kept bit, carries exactly when it should; a carry
    # out of the fraction raises the exponent, which is right in the carrier's own encoding.
    lowest = (bits >> count) & one
    half = (one << count) >> one
    bias = jnp.where(count == 0, np.asarray(0, bits.dtype), half - one + lowest)
    return ((bits + bias) >> count) << count


def _round_subnormal(
    magnitude: Array, fmt: FloatFormat, carrier: FloatFormat, uint: type[np.unsignedinteger]
) -> Array:
    """Bits of |x| rounded to a multiple of the format's smallest subnormal, for small |x|.

    The significand with its implicit bit is an integer; shifting it by the distance of the two
    exponents leaves a count of smallest subnormals. That count times a power of two is exact.
    The carrier's own subnormals lie far below half of any such unit, and shift out to zero.
    """
    m = carrier.mantissa_bits
    implicit = np.asarray(1 << m, uint)
    exponent = (magnitude >> np.asarray(m, uint)).astype(np.int32)
    significand = (magnitude & (implicit - np.asarray(1, uint))) | implicit
    shift = (m - fmt.mantissa_bits) + (fmt.min_exponent + carrier.bias) - exponent
    # m + 2 places leave nothing, not even a tie: the significand has m + 1 bits.
    count = jnp.minimum(shift, m + 2).astype(uint)
    units = _drop(significand, count) >> count
    value = units.astype(carrier.dtype) * np.asarray(fmt.smallest_subnormal, carrier.dtype)
    return lax.bitcast_convert_type(value, uint)


def _bits_of(value: float, carrier: FloatFormat) -> int:
    uint = _CARRIERS[carrier.carrier].uint
    return int(np.asarray(value, carrier.dtype).view(uint))
