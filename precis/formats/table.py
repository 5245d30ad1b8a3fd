"""Counts the thresholds below a float32 by one look at a table, and one addition.

A grid of 8 bits has up to 255 thresholds, the points where rounding moves on to the next value. A
binary search takes eight steps for each element. But float32 values that agree in their upper 16
bits lie so close together that at most one threshold of such a grid is among them. So the table
has, for each upper half, the count below all of these values, shifted up, and what must be added
to the lower half of the first one beyond the threshold to carry into it. An entry is used but
once: otherwise XLA keeps the gather in a loop of its own, over an array that has lost its shape.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

_HALF = 1 << 16
_INFINITY = 0x7F80_0000


def in_order(x: Array) -> Array:
    """[...] integers in the order of the floats x: both zeros and NaN are 0."""
    int_dtype = np.dtype(f"int{x.dtype.itemsize * 8}")
    bits = lax.bitcast_convert_type(x, int_dtype)
    magnitude = bits & np.asarray(np.iinfo(int_dtype).max, int_dtype)
    magnitude = jnp.where(jnp.isnan(x), 0, magnitude)
    return jnp.where(bits < 0, -magnitude, magnitude)


def count_below(x: Array, thresholds: np.ndarray) -> Array:
    """[...] int32: how many of the ascending `thresholds` lie at or below each of `x`, no NaN.

    Args:
        x: [...] float32 or float64.
        thresholds: Places in the order of the floats, as `in_order` gives them.
    """
    table = _table(thresholds.tobytes()) if x.dtype == np.float32 else None
    if table is None:
        order = in_order(x)
        return jnp.searchsorted(jnp.asarray(thresholds), order, side="right").astype(np.int32)
    bits = turned = lax.bitcast_convert_type(x, np.uint32)
    if (thresholds <= 0).any():
        # Of negative floats those with the larger bits come first.
        turned = bits ^ (lax.bitcast_convert_type(bits, np.int32) >> 31).astype(np.uint32)
    entry = jnp.asarray(table)[(bits >> np.uint32(16)).astype(np.int32)]
    return ((entry + (turned & np.uint32(_HALF - 1))) >> np.uint32(16)).astype(np.int32)


@functools.lru_cache(maxsize=64)
def _table(thresholds: bytes) -> np.ndarray | None:
    """[65536] uint32 by a float's upper half; None where thresholds are too many or too close."""
    found = np.frombuffer(thresholds, np.int32).astype(np.int64)
    if len(found) >= _HALF:
        return None
    upper = np.arange(_HALF, dtype=np.int64)
    is_negative, start = upper >= _HALF // 2, (upper % (_HALF // 2)) << 16
    lowest = np.where(is_negative, -start - (_HALF - 1), start)
    low, high = (np.searchsorted(found, x, side="right") for x in (lowest, lowest + _HALF - 1))
    # Among what starts like Inf or NaN only Inf is asked for, and nothing lies beyond it.
    high = np.where(start >= _INFINITY, low, high)
    if (high - low > 1).any():
        return None
    # How far into its stretch the threshold lies.
    depth = np.append(found, 0)[low] - lowest
    return ((low << 16) + np.where(high > low, _HALF - depth, 0)).astype(np.uint32)
