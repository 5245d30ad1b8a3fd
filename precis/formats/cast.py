"""From one storage to another: rounding onto a format, then into its dtype."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from precis.formats.parse import Format, parse_float
from precis.formats.round import round_to


def wide_dtype(*dtypes: np.dtype) -> np.dtype:
    """float64 if one of the float `dtypes` is, else float32: it holds all their values.

    >>> import jax.numpy as jnp
    >>> wide_dtype(jnp.dtype("bfloat16"), jnp.dtype("float16"))
    dtype('float32')
    """
    return np.dtype(np.float64 if np.dtype(np.float64) in dtypes else np.float32)


def cast_to(x: Array, fmt: Format | str, *, key: Array | None = None) -> Array:
    """`x` in `fmt`: in its dtype, or on its float32 carrier if it has none.

    Narrowing rounds first, so that the compiler cannot keep more bits than the format has (XLA
    may drop a bare pair of converts). Special values as in `round_to`, but for NaN, which stays
    NaN on the carrier even of a format that has none: an emulation must not hide that a
    computation went wrong. The cotangent comes back cast to the dtype of `x`.

    >>> import jax.numpy as jnp
    >>> cast_to(jnp.float32(0.1), "bf16").dtype
    dtype(bfloat16)
    >>> cast_to(jnp.float32(0.1), "e5m3").dtype
    dtype('float32')

    Args:
        x: [...] floating point.
        fmt: A float format or its name.
        key: A random key; narrowing then rounds up or down at random, so that the mean is `x`.

    Returns:
        [...] of dtype `fmt.carrier`.
    """
    fmt = parse_float(fmt)
    # NumPy holds float64 equal to None.
    if fmt.dtype is not None and x.dtype == fmt.dtype:
        return x
    wide = x.astype(wide_dtype(x.dtype))
    if fmt.dtype is not None and wide_dtype(wide.dtype, fmt.dtype) == fmt.dtype:
        return wide.astype(fmt.dtype)
    if fmt.dtype == jnp.bfloat16 and wide.dtype == np.float32 and key is None:
        # One op, and exact: bfloat16 has float32's exponents. Of float16's subnormals it makes 0.
        kept = lax.reduce_precision(wide, fmt.exponent_bits, fmt.mantissa_bits)
        return kept.astype(fmt.dtype)
    rounding = None if key is None else "stochastic"
    rounded = round_to(wide, fmt, rounding=rounding, key=key, carrier=fmt.carrier)
    if fmt.has_nan:
        return rounded
    return jnp.where(jnp.isnan(wide), jnp.full_like(rounded, jnp.nan), rounded)
