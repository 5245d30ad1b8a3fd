"""`round_to`: the one place where a bit changes."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from precis.formats.bits import CARRIERS, to_float32
from precis.formats.catalogue import CATALOGUE, FLOAT64
from precis.formats.float_format import FloatFormat
from precis.formats.noise import random_bits
from precis.formats.options import check_option, check_rounding
from precis.formats.parse import Format, parse
from precis.formats.scaled import Overflow, Rounded, Rounding, ScaledFormat, Subnormals
from precis.formats.spec import held_by
from precis.formats.values import round_values


def round_to(
    x: Array,
    fmt: Format | str,
    *,
    rounding: Rounding | None = None,
    overflow: Overflow | None = None,
    subnormals: Subnormals | None = None,
    key: Array | None = None,
    carrier: Any = None,
    gradient_beyond_max: bool = True,
    cotangent: Format | str | None = None,
) -> Array:
    """`x` with every value replaced by one of `fmt`: by default the nearest, ties to even.

    The values come back on a wide carrier: float64 for float64 input, else float32 (narrower
    floats are first widened, which is exact). Bit-exact on every backend, also for subnormal
    input. What becomes of special values:

    * NaN stays NaN where `fmt` has one. Where it has none, NaN becomes zero as in XLA's cast:
      -0 in the finite floats, 0 in integers and codebooks.
    * ±0 and ±Inf stay as they are where `fmt` has them. Formats without negative zero give 0,
      formats without Inf treat it as overflow.
    * e8m0, without zero or sign, gives NaN for ±0 and for negative values; smaller values become
      2^-127. Nearest is there as in XLA's cast: ties go up, and so does all that lies between
      the two smallest values, 2^-127 and 2^-126.
    * Overflow is a value that rounds beyond `max` with an unlimited exponent (for e8m0, too).
      `ieee`: Inf, or NaN where there is no Inf, or `max` where there is neither; but `max` for
      finite values whose rounding is directed toward it. `saturate`: `max`, for Inf as well.
      `inf` and `nan`: that. Integers and codebooks always saturate.
    * `subnormals="flush"`: a result below the smallest normal value becomes zero.

    Invariants: `round_to(round_to(x)) == round_to(x)`; monotone unless stochastic; and in floats
    with a sign `round_to(-x) == -round_to(x)` for the nearest modes and toward zero.

    >>> round_to(jnp.float32(0.1), "bf16")
    Array(0.10009766, dtype=float32)
    >>> round_to(jnp.float32([1e-8, 3e-8, 7e4]), "f16")
    Array([0.0000000e+00, 5.9604645e-08,           inf], dtype=float32)
    >>> round_to(jnp.float32([0.3, 500.0]), "e4m3fn", rounding="up", overflow="saturate")
    Array([3.125e-01, 4.480e+02], dtype=float32)

    Args:
        x: [...] floating point.
        fmt: A float, integer or codebook format, or its name, with or without options.
        rounding: `nearest_even`, `nearest_away` (ties), `toward_zero`, `up` (to +Inf), `down`, or
            `stochastic`: up with a probability proportional to the distance from below, so that
            the mean is `x`. By default the format's own, `nearest_even` if it has none. In a
            codebook, whose codes have no parity, a tie goes to the smaller value.
        overflow: `ieee`, `saturate`, `inf` or `nan`; by default the format's own, then `ieee`.
        subnormals: `keep` or `flush`; by default the format's own, then `keep`.
        key: A random key; stochastic rounding needs one, and nothing else takes one.
        carrier: The dtype of the result; it must have all values of `fmt`.
        gradient_beyond_max: The gradient is straight-through: 1. If False, it is 0 where `x`
            lies outside `[fmt.min, fmt.max]`.
        cotangent: A format that the cotangent is rounded to on its way back; by default it
            passes untouched. `jax.jvp` does not go through if one is given.

    Returns:
        [...] float32, or float64 if `x` is; or `carrier`.

    Raises:
        TypeError: `x` is not floating point.
        ValueError: `fmt` is scaled or has values that the carrier lacks; an option is unknown or
            asks for a code that `fmt` has not; stochastic without key, or a key without it; a
            stochastic `cotangent`.

    Source: IEEE 754-2019, section 4.3 (rounding) and 7.4 (overflow); OCP OFP8 1.0, section 5.2.
    """
    how = resolve(parse(fmt), rounding, overflow, subnormals)
    check_key(how, key)
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"round_to wants a floating-point array, got {x.dtype}: cast it first")
    if x.dtype not in CARRIERS:
        x = x.astype(jnp.float32)
    _check_held(how, CARRIERS[x.dtype].format)
    if cotangent is not None:
        back = resolve(parse(cotangent), None, None, None)
        if back.rounding == "stochastic":
            raise ValueError(f"a cotangent has no key of its own to be stochastic with, got {back}")
        _check_held(back, CARRIERS[x.dtype].format)
        x = _with_cotangent(x, back)
    bits = None
    if key is not None:
        bits = random_bits(key, x.shape, CARRIERS[x.dtype].uint)
    result = straight_through(x, round_values(lax.stop_gradient(x), how, random=bits))
    if not gradient_beyond_max:
        inside = (x >= how.grid.min) & (x <= how.grid.max)
        result = jnp.where(inside, result, lax.stop_gradient(result))
    if carrier is None:
        return result
    return _carried(result, _checked_carrier(carrier, how))


def resolve(
    fmt: Format,
    rounding: Rounding | None,
    overflow: Overflow | None,
    subnormals: Subnormals | None,
) -> Rounded:
    """`fmt` with the options that are not None in place of its own.

    Raises:
        ValueError: `fmt` is scaled, or an option is unknown or asks for a code it has not.
    """
    if isinstance(fmt, ScaledFormat):
        raise ValueError(
            f"round_to puts values onto a grid, and {fmt} scales them first: use "
            f"quantize_dequantize, or round to {fmt.grid}"
        )
    own = fmt if isinstance(fmt, Rounded) else Rounded(fmt)
    for name, value in (("rounding", rounding), ("overflow", overflow), ("subnormals", subnormals)):
        check_option(name, value)
    how = Rounded(
        own.grid,
        rounding or own.rounding,
        overflow or own.overflow,
        subnormals or own.subnormals,
    )
    check_rounding(how)
    return how


def check_key(how: Rounded, key: Array | None) -> None:
    """Refuses stochastic rounding without a key, and a key without it.

    Raises:
        ValueError: One of the two.
    """
    if how.rounding == "stochastic" and key is None:
        raise ValueError(f"{how} is stochastic and wants a random key: pass key=jax.random.key(0)")
    if how.rounding != "stochastic" and key is not None:
        raise ValueError(f"{how} is not stochastic and takes no key, got one")


def _check_held(how: Rounded, carrier: FloatFormat, advice: str = "") -> None:
    if not held_by(how.grid, carrier):
        wider = how.grid if isinstance(how.grid, FloatFormat) else FLOAT64
        raise ValueError(
            f"{how.grid} has values that {carrier} lacks: {advice or f'pass a {wider} array'}"
        )


def _checked_carrier(carrier: Any, how: Rounded) -> np.dtype:
    dtype = jnp.dtype(carrier)
    native = (fmt for fmt in CATALOGUE.values() if isinstance(fmt, FloatFormat) and fmt.is_native)
    held = next((fmt for fmt in native if fmt.dtype == dtype), None)
    if held is None:
        raise ValueError(f"a carrier is float16, bfloat16, float32 or float64, got {dtype}")
    _check_held(how, held, "take a wider carrier")
    return dtype


@jax.custom_jvp
def straight_through(x: Array, rounded: Array) -> Array:
    """`rounded`, with the gradient of `x`."""
    del x
    return rounded


@straight_through.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return primals[1], tangents[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _carried(x: Array, dtype: np.dtype) -> Array:
    """`x` in `dtype`, which has all its values."""
    narrow = x.dtype == np.float64 and dtype != np.float64
    return (to_float32(x) if narrow else x).astype(dtype)


@_carried.defjvp
def _(dtype: np.dtype, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _carried(primals[0], dtype), tangents[0].astype(dtype)


def _with_cotangent(x: Array, fmt: Rounded) -> Array:
    """`x`, its cotangent rounded to `fmt` on its way back."""
    identity = jax.custom_vjp(lambda x: x)
    identity.defvjp(lambda x: (x, None), lambda _, ct: (round_values(ct, fmt),))
    return identity(x)
