"""Blocks as bytes: arrays that are kept or sent as 8-bit codes, with a float32 scale for each row.

What `quantize_dequantize` gives, in the storage that it promises, and fast: a code is the place of
a value among those of the grid, in ascending order, so that one table serves every grid.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from precis.formats.places import nearest_places, values_of
from precis.formats.scaled import ScaledFormat
from precis.formats.scales import amax, float_scales, times_inverse
from precis.formats.spec import Grid


class Compact(NamedTuple):
    """Rows of values as codes and scales; a pytree of arrays.

    Attributes:
        codes: [rows, block] uint8: places in the grid, counted from its smallest value.
        scales: [rows] float32 that multiply them; NaN for a row that held a NaN or an Inf.
    """

    codes: Array
    scales: Array


def compress(x: Array, fmt: ScaledFormat) -> Compact:
    """Each row of `x` as one block of `fmt`.

    Invariant: `decompress(compress(x, fmt), fmt) == quantize_dequantize(x, fmt)`, but that -0
    becomes 0.

    Args:
        x: [rows, fmt.block] float32.
        fmt: From `compact_format`.
    """
    largest = amax(x, (-1,))
    scales = float_scales(largest, fmt, None)
    codes = nearest_places(times_inverse(x, scales), fmt.grid)
    return Compact(codes, jnp.where(jnp.isfinite(largest), scales, np.float32(np.nan))[:, 0])


def decompress(compact: Compact, fmt: ScaledFormat) -> Array:
    """[rows, fmt.block] float32: what `compact` stands for."""
    values = jnp.asarray(values_of(fmt.grid))[compact.codes.astype(np.int32)]
    return values * compact.scales[:, None]


def compact_zeros(rows: int, fmt: ScaledFormat) -> Compact:
    """The same as `compress` of zeros."""
    place = np.uint8(_place_of_zero(fmt.grid))
    return Compact(jnp.full((rows, fmt.block or 1), place), jnp.ones(rows, np.float32))


def _place_of_zero(grid: Grid) -> int:
    return int(np.abs(values_of(grid)).argmin())
