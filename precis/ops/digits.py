"""Floats times int8 codes as integer products: each float is written in two digits of base 256.

On CPU a product of int8 is fast and one of mixed dtypes is not: XLA would widen the whole weight,
on each call, before it multiplies. So the other operand is narrowed instead. With s the smallest
power of two that brings a row within 127 steps:

    h = floor(x/s + 1/2)        l = min(round((x/s - h) · 256), 127)        x ≈ s · (h + l/256)

exactly where x/s has at most 8 bits behind the point; else the error is below s/256, and s is at
most 2/127 of the row's largest magnitude: about 14 bits of it. Both digits are rows of one operand,
so the codes are read once, and a single row makes two, which is what CPUs need to be fast. That is
enough for 16-bit floats, of which bfloat16 has 8 significant bits and float16 11; float32 would
take a third digit.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from precis.formats import amax, parse_grid, scale_exponents
from precis.ops.operand import Coded, summed_axes
from precis.ops.product import MatrixOp, product

_INT8 = parse_grid("int8")
# Beyond, powers of two would overflow, or be flushed to zero when divided by 256.
_LEAST, _MOST = -118, 118


def in_digits(op: MatrixOp, x: Array, codes: Array, side: int) -> Array:
    """float32: what `op` makes of floats and int8 codes, by one product of integers.

    A row with a NaN or an Inf gives NaN.

    Args:
        op: A `dot_general`.
        x: [...] bfloat16, float16 or float32.
        codes: [...] int8.
        side: Which operand `x` is: 0 for the first.
    """
    wide = x.astype(np.float32)
    summed = summed_axes(op.primitive.name, op.params, x.ndim, side).all
    scale, inverse = _powers(amax(wide, summed))
    steps = wide * inverse
    high = jnp.floor(steps + np.float32(0.5))
    # A rest of one half has no digit of its own; one below it is as near as can be.
    low = jnp.minimum(jnp.round((steps - high) * np.float32(256)), np.float32(127))
    digits = jnp.stack([high.astype(np.int8), low.astype(np.int8)])
    stacked, axis = _stacked(op, side, codes.ndim)
    pair = Coded(digits, jnp.stack([scale, scale * np.float32(1 / 256)])), codes
    sums = product(stacked, *(pair if side == 0 else pair[::-1]))
    first, second = (lax.index_in_dim(sums, i, axis, keepdims=False) for i in (0, 1))
    return first + second


def _powers(largest: Array) -> tuple[Array, Array]:
    """float32 powers of two that bring magnitudes up to `largest` within 127, and their inverses.

    The inverse is NaN where `largest` is not finite.
    """
    exponent = jnp.clip(scale_exponents(largest, _INT8, "rceil"), _LEAST, _MOST)
    finite = jnp.isfinite(largest)
    bias, bits = np.int32(127), np.int32(23)
    scale, inverse = (
        lax.bitcast_convert_type((e + bias) << bits, np.float32) for e in (exponent, -exponent)
    )
    return jnp.where(finite, scale, np.float32(np.nan)), jnp.where(finite, inverse, np.float32(0))


def _stacked(op: MatrixOp, side: int, other_ndim: int) -> tuple[MatrixOp, int]:
    """The dot whose operand `side` has one more axis in front, and where its result has that."""
    summed, batch = op.params["dimension_numbers"]
    moved = [list(axes) for axes in (*summed, *batch)]
    for which in (side, 2 + side):
        moved[which] = [axis + 1 for axis in moved[which]]
    numbers = (tuple(map(tuple, moved[:2])), tuple(map(tuple, moved[2:])))
    before = 0 if side == 0 else other_ndim - len(summed[0]) - len(batch[0])
    return op._replace(params=op.params | {"dimension_numbers": numbers}), len(batch[0]) + before
