"""The places of a small grid's values in ascending order, and which one a float32 is nearest to.

A few operations round to integers and to floats; the values of a codebook lie anywhere, and which
is nearest is found in a table, which takes twice as long.
"""

from __future__ import annotations

import functools
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from precis.formats.bits import CARRIERS, split
from precis.formats.ladder import ends, number_at
from precis.formats.lookup import places_in_order
from precis.formats.spec import Codebook, FloatFormat, Grid, IntFormat
from precis.formats.table import count_below

_F32 = CARRIERS[np.dtype(np.float32)]
_M = _F32.format.mantissa_bits


@functools.cache
def values_of(grid: Grid) -> np.ndarray:
    """All values of `grid`, ascending: [n] float32."""
    first, last = ends(grid)
    return np.array([float(number_at(rung, grid)) for rung in range(first, last + 1)], np.float32)


def nearest_places(x: Array, grid: Grid) -> Array:
    """[...] uint8: where in `values_of(grid)` the value stands that each of `x` is nearest to.

    Ties go to the even code, or in a codebook to the smaller value. What lies beyond the ends
    becomes the end; of a NaN nothing is said.

    Args:
        x: [...] float32.
        grid: Of at most 8 bits.
    """
    match grid:
        case IntFormat():
            return _integers(x, grid)
        case FloatFormat() if grid.is_signed:
            return _floats(x, grid)
        case _:
            return count_below(x, _thresholds(grid)).astype(np.uint8)


def _integers(x: Array, grid: IntFormat) -> Array:
    first, last = ends(grid)
    steps = lax.round(x * np.float32(1 / grid.unit), lax.RoundingMethod.TO_NEAREST_EVEN)
    return (jnp.clip(steps, first, last).astype(np.int32) - first).astype(np.uint8)


def _floats(x: Array, grid: FloatFormat) -> Array:
    """By the code without its sign, into whose exponent a carry from the fraction may go."""
    sign, magnitude = split(x)
    drop = np.uint32(_M - grid.mantissa_bits)
    # With the grid's bias, before its lowest bit is asked whether it is even.
    biased = magnitude - np.uint32((_F32.format.bias - grid.bias) << _M)
    almost_half, is_odd = np.uint32((1 << int(drop - 1)) - 1), biased >> drop & np.uint32(1)
    normal = (biased + almost_half + is_odd) >> drop
    # A sum of which the smallest subnormal is one ulp: the adder rounds to it.
    base = np.float32(grid.smallest_subnormal * 2.0**_M)
    total = lax.bitcast_convert_type(magnitude, np.float32) + base
    subnormal = lax.bitcast_convert_type(total, np.uint32) - base.view(np.uint32)
    smallest_normal = np.uint32(_F32.bits_of(grid.smallest_normal))
    code = jnp.where(magnitude < smallest_normal, subnormal, normal)
    top = np.uint32(grid.max_code)
    code = jnp.minimum(code, top)
    return jnp.where(sign != 0, top - code, top + code).astype(np.uint8)


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
