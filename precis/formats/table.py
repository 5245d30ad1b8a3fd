"""Counts thresholds below a float32 through a table of its upper half, and one comparison.

A grid of 8 bits has up to 255 thresholds, the points where rounding moves on to the next value. A
binary search takes eight steps for each element. But float32 values that agree in their upper 16
bits lie so close together that at most one threshold of such a grid is among them: the table says
how many lie below all of them, and one comparison whether another one does.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

_HALF = 1 << 16
# Above every float32's place in their order, and so never reached.
_NEVER = np.iinfo(np.int32).max


class Table(NamedTuple):
    """What a search among thresholds is replaced by.

    Attributes:
        first: [65536] uint8: thresholds at or below all numbers with these upper 16 bits, which
            are counted from -2^15.
        next: [256] int32: the threshold after so many.
    """

    first: np.ndarray
    next: np.ndarray


def count_below(order: Array, thresholds: np.ndarray) -> Array:
    """[...] int32: how many of the ascending `thresholds` lie at or below each of `order`.

    Args:
        order: [...] integers in the order of the floats that they stand for.
        thresholds: Integers likewise.
    """
    table = _table(thresholds.tobytes()) if order.dtype == np.int32 else None
    if table is None:
        return jnp.searchsorted(jnp.asarray(thresholds), order, side="right").astype(jnp.int32)
    # Arithmetic shifts keep the order of what they shift.
    upper = (order >> np.int32(16)) + np.int32(_HALF // 2)
    place = jnp.asarray(table.first)[upper].astype(jnp.int32)
    return place + (order >= jnp.asarray(table.next)[place]).astype(jnp.int32)


@functools.lru_cache(maxsize=64)
def _table(thresholds: bytes) -> Table | None:
    """The table for ascending int32 thresholds; None where they are too many or too close."""
    found = np.frombuffer(thresholds, np.int32)
    if len(found) > 255:
        return None
    lowest = (np.arange(_HALF, dtype=np.int64) - _HALF // 2) << 16
    first = np.searchsorted(found, lowest, side="right")
    crossed = np.searchsorted(found, lowest + (_HALF - 1), side="right") - first
    if crossed.max(initial=0) > 1:
        return None
    following = np.full(256, _NEVER, np.int32)
    following[: len(found)] = found
    return Table(first.astype(np.uint8), following)
