"""Rounds a value and its tangent, the tangent by a linear op, so that JAX can transpose it."""

from __future__ import annotations

import functools

import jax
import numpy as np
from jax import Array, lax

from precis.formats import BFLOAT16, FLOAT16, FLOAT32, FloatFormat, cast_to


def settled(x: Array, fmt: FloatFormat = BFLOAT16) -> Array:
    """`x`, on float32, rounded to `fmt`; its tangent and its cotangent likewise.

    XLA's CPU may sum what was there before a convert to bfloat16, with excess precision allowed or
    not, but keeps this op.

    Args:
        x: [...] float32.
        fmt: With the exponents of float32: of others this op flushes subnormals.
    """
    return lax.reduce_precision(x, fmt.exponent_bits, fmt.mantissa_bits)


def cast_with_tangent(x: Array, fmt: FloatFormat) -> Array:
    """`cast_to(x, fmt)`, its tangent rounded to `fmt` too, as it is where `fmt` has a dtype.

    So tangents in `e8m7` are those in bfloat16. Of formats with fewer exponents than float32's
    that no dtype stands for, no linear op rounds the subnormals: their tangents stay unrounded.
    """
    if x.dtype != np.float32 or fmt.dtype is not None or not _is_linear(fmt):
        return cast_to(x, fmt)
    return _cast(x, fmt)


def _is_linear(fmt: FloatFormat) -> bool:
    return _has_exponents_of_float32(fmt) or _is_half(fmt)


def _has_exponents_of_float32(fmt: FloatFormat) -> bool:
    same = (fmt.specials, fmt.exponent_bits, fmt.bias)
    return same == (FLOAT32.specials, FLOAT32.exponent_bits, FLOAT32.bias)


def _is_half(fmt: FloatFormat) -> bool:
    return fmt.specials == FLOAT16.specials and fmt.fits_in(FLOAT16) and FLOAT16.fits_in(fmt)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _cast(x: Array, fmt: FloatFormat) -> Array:
    return cast_to(x, fmt)


@_cast.defjvp
def _(fmt: FloatFormat, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (tangent,) = tangents
    if _is_half(fmt):
        return _cast(primals[0], fmt), tangent.astype(np.float16).astype(np.float32)
    return _cast(primals[0], fmt), settled(tangent, fmt)
