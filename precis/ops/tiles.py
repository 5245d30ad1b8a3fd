"""Floats times int8 codes, codes widened a part at a time, so that no copy of a weight is made.

XLA's CPU backend has no product of mixed dtypes: it would widen all codes first, which for a large
weight is a trip through memory and as much of it as the float model takes. A part of them stays in
cache, and its product is that of the whole.
"""

from __future__ import annotations

from math import prod

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from precis.ops.product import MatrixOp, product

# Widened codes at a time: 2^21 bfloat16 are 4 MiB.
_PART = 1 << 21


def in_tiles(op: MatrixOp, x: Array, codes: Array, side: int, *, part: int = _PART) -> Array:
    """float32: what `op` makes of floats and int8 codes, exact products summed in float32.

    Args:
        op: A dot.
        x: [...] floats of a dtype that holds all codes.
        codes: [...] int8.
        side: Which operand `x` is: 0 for the first.
        part: About how many codes are widened at a time.
    """

    def whole(x: Array, codes: Array) -> Array:
        wide = codes.astype(x.dtype)
        return product(op, *((x, wide) if side == 0 else (wide, x)))

    axis = _longest_free(op, codes, 1 - side)
    if axis is None or codes.size <= part:
        return whole(x, codes)
    length = codes.shape[axis]
    size = max(part * length // codes.size, 1)
    place = _place_in_result(op, x, codes, side, axis)
    shape = list(_result_shape(op, x, codes, side))

    def step(i: Array, out: Array) -> Array:
        # The last part starts early enough to be whole, and some of it is computed once more.
        start = jnp.minimum(i * np.int32(size), np.int32(length - size))
        own = lax.dynamic_slice_in_dim(codes, start, size, axis)
        return lax.dynamic_update_slice_in_dim(out, whole(x, own), start, place)

    return lax.fori_loop(0, -(-length // size), step, jnp.zeros(shape, np.float32))


def rows_of(op: MatrixOp, x: Array, side: int) -> int:
    """How many rows a weight is multiplied with: all of operand `side` that is not summed."""
    summed, _ = op.params["dimension_numbers"]
    return x.size // max(prod(x.shape[axis] for axis in summed[side]), 1)


def _free(op: MatrixOp, ndim: int, side: int) -> list[int]:
    summed, batch = op.params["dimension_numbers"]
    return [axis for axis in range(ndim) if axis not in (*summed[side], *batch[side])]


def _longest_free(op: MatrixOp, x: Array, side: int) -> int | None:
    return max(_free(op, x.ndim, side), key=lambda axis: x.shape[axis], default=None)


def _place_in_result(op: MatrixOp, x: Array, codes: Array, side: int, axis: int) -> int:
    """Where the result has `axis` of the codes."""
    batch = len(op.params["dimension_numbers"][1][0])
    before = len(_free(op, x.ndim, side)) if side == 0 else 0
    return batch + before + _free(op, codes.ndim, 1 - side).index(axis)


def _result_shape(op: MatrixOp, x: Array, codes: Array, side: int) -> tuple[int, ...]:
    batch = [x.shape[axis] for axis in op.params["dimension_numbers"][1][side]]
    pair = ((x, side), (codes, 1 - side)) if side == 0 else ((codes, 0), (x, 1))
    return (*batch, *(own.shape[a] for own, which in pair for a in _free(op, own.ndim, which)))
