"""From one storage to another: rounding onto a format, then into its dtype."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from precis.formats.parse import Format, parse_float
from precis.formats.round import round_to


def cast_to(x: Array, fmt: Format | str) -> Array:
    """`x` in `fmt`: in its dtype, or on its float32 carrier if it has none.

    Narrowing goes through `round_to`, so that the compiler cannot keep more bits than the
    format has (XLA may drop a bare pair of converts). Special values as in `round_to`; the
    cotangent comes back cast to the dtype of `x`.

    >>> cast_to(jnp.float32(0.1), "bf16").dtype
    dtype(bfloat16)
    >>> cast_to(jnp.float32(0.1), "e5m3").dtype
    dtype('float32')

    Args:
        x: [...] floating point.
        fmt: A float format or its name.

    Returns:
        [...] of dtype `fmt.carrier`.
    """
    fmt = parse_float(fmt)
    if x.dtype == fmt.dtype:
        return x
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if fmt.dtype is not None and jnp.promote_types(wide.dtype, fmt.dtype) == fmt.dtype:
        return wide.astype(fmt.dtype)
    return round_to(wide, fmt).astype(fmt.carrier)
