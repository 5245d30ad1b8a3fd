"""Blocks as bytes: arrays that are kept or sent as 8-bit codes, with a float32 scale for each row.

What `quantize_dequantize` gives, in the storage that it promises, and fast: a code is the place of
a value among those of the grid, in ascending order, so that one table serves every grid.
"""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from precis.formats.ladder import ends, number_at
from precis.formats.lookup import places_in_order
from precis.formats.scaled import ScaledFormat
from precis.formats.scales import amax, float_scales, times_inverse
from precis.formats.spec import Codebook, Grid
from precis.formats.table import count_below


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
    codes = count_below(times_inverse(x, scales), _thresholds(fmt.grid)).astype(np.uint8)
    return Compact(codes, jnp.where(jnp.isfinite(largest), scales, np.float32(np.nan))[:, 0])


def decompress(compact: Compact, fmt: ScaledFormat) -> Array:
    """[rows, fmt.block] float32: what `compact` stands for."""
    values = jnp.asarray(_values(fmt.grid))[compact.codes.astype(np.int32)]
    return values * compact.scales[:, None]


def compact_zeros(rows: int, fmt: ScaledFormat) -> Compact:
    """The same as `compress` of zeros."""
    place = np.uint8(_place_of_zero(fmt.grid))
    return Compact(jnp.full((rows, fmt.block or 1), place), jnp.ones(rows, np.float32))


@functools.cache
def _values(grid: Grid) -> np.ndarray:
    first, last = ends(grid)
    return np.array([float(number_at(rung, grid)) for rung in range(first, last + 1)], np.float32)


@functools.cache
def _place_of_zero(grid: Grid) -> int:
    return int(np.abs(_values(grid)).argmin())


@functools.cache
def _thresholds(grid: Grid) -> np.ndarray:
    """The smallest float32 that belong to the upper of two neighbors, in order."""
    first, last = ends(grid)
    found = []
    for rung in range(first, last):
        middle = (number_at(rung, grid) + number_at(rung + 1, grid)) / 2
        nearest = np.float32(float(middle))
        # Ties go to the even rung, in a codebook, which has no parity, to the smaller value.
        is_tie_up = not isinstance(grid, Codebook) and rung % 2 == 1
        is_above = Fraction(float(nearest)) > middle
        is_at = Fraction(float(nearest)) == middle and is_tie_up
        found.append(nearest if is_above or is_at else np.nextafter(nearest, np.float32(np.inf)))
    return places_in_order(map(float, found), np.dtype(np.float32))
