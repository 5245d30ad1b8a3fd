"""Between values and the bit codes that stand for them."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from precis.formats.bits import CARRIERS, Carrier, split
from precis.formats.catalogue import FLOAT32
from precis.formats.float_format import FloatFormat
from precis.formats.lookup import places_of, values_at
from precis.formats.parse import Format, parse, parse_grid
from precis.formats.round import resolve, round_to
from precis.formats.scaled import Rounded
from precis.formats.spec import Codebook, Grid, IntFormat, held_by


def encode(x: Array, fmt: Format | str, *, key: Array | None = None) -> Array:
    """The bit codes of `x` in `fmt`, after `round_to(x, fmt)`.

    Floats have sign, exponent and fraction from the highest bit down; integers are two's
    complement; a codebook's code is the place in its list. A NaN has one code, the quiet one
    with its sign. Special values as in `round_to`.

    Invariants: `decode(encode(x, fmt), fmt) == round_to(x, fmt)`,
    `encode(decode(c, fmt), fmt) == c` for every code that is no NaN.

    >>> encode(jnp.float32([1.0, -2.0, 448.0]), "e4m3fn")
    Array([ 56, 192, 126], dtype=uint8)

    Args:
        x: [...] floating point.
        fmt: A float, integer or codebook format, or its name, with or without options.
        key: A random key, for stochastic rounding.

    Returns:
        [...] uint8, uint16, uint32 or uint64: the narrowest that holds the codes.

    Raises:
        TypeError, ValueError: As `round_to`.
    """
    how = resolve(parse(fmt), None, None, None)
    return _encode(lax.stop_gradient(round_to(x, how, key=key)), how.grid)


def decode(codes: Array, fmt: Format | str, *, carrier: type | None = None) -> Array:
    """The values that `codes` stand for.

    >>> decode(jnp.uint8([56, 192, 126]), "e4m3fn")
    Array([  1.,  -2., 448.], dtype=float32)

    Args:
        codes: [...] unsigned integers; bits above the format's width must be zero.
        fmt: The format, or its name.
        carrier: float32 or float64; by default float32 where it has all values.

    Returns:
        [...] of dtype `carrier`.

    Raises:
        TypeError: `codes` are not unsigned integers.
        ValueError: `fmt` is scaled, or the carrier lacks values of it.
    """
    fmt = parse(fmt)
    grid = parse_grid(fmt.grid if isinstance(fmt, Rounded) else fmt)
    codes = jnp.asarray(codes)
    if not jnp.issubdtype(codes.dtype, jnp.unsignedinteger):
        raise TypeError(f"codes are unsigned integers, got {codes.dtype}")
    default = np.dtype(np.float32 if held_by(grid, FLOAT32) else np.float64)
    dtype = default if carrier is None else np.dtype(carrier)
    if dtype not in CARRIERS or not held_by(grid, CARRIERS[dtype].format):
        raise ValueError(f"{grid} has values that {dtype} lacks: its carrier is {default}")
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(f"{grid} in {dtype} wants x64 enabled: set JAX_ENABLE_X64=1")
    return _decode(codes, grid, dtype)


def as_integers(x: Array, dtype: np.dtype) -> Array:
    """[...] `dtype`: what float32 integers below 2^22 are, the low bits of them in the fraction.

    A convert would first see to NaN and to what `dtype` has not, none of which is here.
    """
    shifted = x + np.float32(1.5 * 2**23)
    return lax.bitcast_convert_type(shifted, np.int32).astype(dtype)


def code_dtype(grid: Grid) -> np.dtype:
    """The narrowest unsigned integers that hold the codes of `grid`."""
    return np.dtype(f"uint{next(width for width in (8, 16, 32, 64) if grid.bits <= width)}")


@functools.partial(jax.jit, static_argnums=1)
def _encode(x: Array, grid: Grid) -> Array:
    """Codes of values that are in the format already."""
    if isinstance(grid, Codebook):
        return places_of(x, grid).astype(code_dtype(grid))
    if isinstance(grid, IntFormat):
        wide = np.int32 if grid.bits < 32 else np.int64
        integers = (x * np.asarray(1 / grid.unit, x.dtype)).astype(wide)
        dtype = code_dtype(grid)
        return integers.astype(dtype) & np.asarray((1 << grid.bits) - 1, dtype)
    carrier = CARRIERS[x.dtype]
    sign, magnitude = split(x)
    code = _float_code(magnitude, grid, carrier)
    infinity = np.asarray(carrier.infinity, carrier.uint)
    is_nan = magnitude > infinity
    if grid.has_inf:
        code = jnp.where(magnitude == infinity, np.asarray(grid.max_code + 1, carrier.uint), code)
    if grid.has_nan:
        code = jnp.where(is_nan, np.asarray(grid.nan_code, carrier.uint), code)
    if grid.is_signed:
        signed = sign != 0
        if grid.specials == "fnuz":
            signed = signed & ~is_nan
        high = np.asarray(1 << (grid.bits - 1), carrier.uint)
        code = jnp.where(signed, code | high, code)
    return code.astype(code_dtype(grid))


def _float_code(magnitude: Array, grid: FloatFormat, carrier: Carrier) -> Array:
    """Exponent field and fraction of finite values of `grid`, from their carrier's bits."""
    m, u = carrier.format.mantissa_bits, functools.partial(np.asarray, dtype=carrier.uint)
    if grid.min_exponent < carrier.format.min_exponent:
        # The lowest fields of e8…fnuz and of e8m0 are subnormals of float32.
        low = magnitude >> u(m - 1 - grid.mantissa_bits)
        high = (magnitude >> u(m - grid.mantissa_bits)) + u(1 << grid.mantissa_bits)
        code = jnp.where(magnitude < u(1 << m), low, high)
        return code if grid.has_zero else code - u(1)
    rebias = (carrier.format.bias - grid.bias) << grid.mantissa_bits
    normal = (magnitude >> u(m - grid.mantissa_bits)) - u(rebias)
    if grid.min_exponent == carrier.format.min_exponent:
        return normal
    smallest_normal = u(carrier.bits_of(grid.smallest_normal))
    value = lax.bitcast_convert_type(jnp.minimum(magnitude, smallest_normal), carrier.dtype)
    # A power of two that float32 has: the smallest subnormal is 2^-85 at least.
    count = value * np.asarray(1 / grid.smallest_subnormal, carrier.dtype)
    return jnp.where(magnitude < smallest_normal, count.astype(carrier.uint), normal)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _decode(codes: Array, grid: Grid, dtype: np.dtype) -> Array:
    if isinstance(grid, Codebook):
        return values_at(codes.astype(np.int32), grid, dtype)
    carrier = CARRIERS[dtype]
    u = functools.partial(np.asarray, dtype=carrier.uint)
    codes = codes.astype(carrier.uint)
    if isinstance(grid, IntFormat):
        # Arithmetic shifts spread the sign of a code that is pushed to the top.
        spare = carrier.format.bits - grid.bits
        pushed = lax.bitcast_convert_type(codes << u(spare), carrier.int)
        integers = pushed >> np.asarray(spare, carrier.int) if grid.signed else codes
        return integers.astype(dtype) * np.asarray(grid.unit, dtype)
    high = u(1 << (grid.bits - 1)) if grid.is_signed else u(0)
    code, sign = codes & ~high, codes & high
    bits = _float_bits(code, grid, carrier)
    nan = u(carrier.nan)
    if grid.has_inf:
        bits = jnp.where(code == u(grid.max_code + 1), u(carrier.infinity), bits)
    if grid.has_nan and grid.specials != "fnuz":
        bits = jnp.where(code > u(grid.max_code + int(grid.has_inf)), nan, bits)
    bits = jnp.where(sign != 0, bits | u(carrier.sign_bit), bits)
    if grid.specials == "fnuz":
        bits = jnp.where(codes == high, nan, bits)
    return lax.bitcast_convert_type(bits, dtype)


def _float_bits(code: Array, grid: FloatFormat, carrier: Carrier) -> Array:
    """The carrier's bits of finite values of `grid`, from exponent field and fraction."""
    m, u = carrier.format.mantissa_bits, functools.partial(np.asarray, dtype=carrier.uint)
    up = u(m - grid.mantissa_bits)
    if grid.min_exponent < carrier.format.min_exponent:
        code = code if grid.has_zero else code + u(1)
        two = u(2 << grid.mantissa_bits)
        low, high = code << (up - u(1)), (code - u(1 << grid.mantissa_bits)) << up
        return jnp.where(code < two, low, high)
    rebias = (carrier.format.bias - grid.bias) << grid.mantissa_bits
    normal = (code + u(rebias)) << up
    if grid.min_exponent == carrier.format.min_exponent:
        return normal
    fraction = code.astype(carrier.dtype)
    small = fraction * np.asarray(grid.smallest_subnormal, carrier.dtype)
    subnormal = lax.bitcast_convert_type(small, carrier.uint)
    is_subnormal = (code < u(1 << grid.mantissa_bits)) & grid.has_zero
    return jnp.where(is_subnormal, subnormal, normal)
