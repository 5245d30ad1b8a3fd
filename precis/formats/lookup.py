"""Rounds onto a list of values, and names them by their places in it."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
from jax import Array

from precis.formats.bits import CARRIERS
from precis.formats.scaled import Rounding
from precis.formats.spec import Codebook
from precis.formats.table import count_below, in_order


def round_to_values(
    x: Array, book: Codebook, rounding: Rounding, random: Array | None = None
) -> Array:
    """`x` with every value replaced by one of the codebook's.

    A tie goes to the smaller value, unless `nearest_away`; beyond the ends lie the ends; NaN
    becomes 0, or the value nearest to it.

    Args:
        x: [...] float32 or float64.
        book: The values.
        rounding: See `round_to`.
        random: [...] uint32 or uint64 random bits, for stochastic rounding.
    """
    return values_at(places_of(x, book, rounding, random), book, x.dtype)


def values_at(places: Array, book: Codebook, dtype: np.dtype) -> Array:
    """The values at `places`: [...] integer."""
    return jnp.take(jnp.asarray(book.values, dtype), places, mode="clip")


def places_of(
    x: Array, book: Codebook, rounding: Rounding = "nearest_even", random: Array | None = None
) -> Array:
    """[...] int32: the place in the list of the value that each of `x` rounds to."""
    x = jnp.where(jnp.isnan(x), np.asarray(0, x.dtype), x)
    order = in_order(x)
    if rounding in ("nearest_even", "nearest_away"):
        below = count_below(x, _thresholds(book, x.dtype))
        if rounding == "nearest_even":
            return below
        # The mirrored book turns ties below zero the other way.
        above = count_below(x, _thresholds(book, x.dtype, strictly=False))
        return jnp.where(order < 0, below, above)
    places = places_in_order(book.values, x.dtype)
    lower = jnp.clip(count_below(x, places) - 1, 0)
    upper = jnp.minimum(lower + 1, len(book.values) - 1)
    between = order > jnp.take(jnp.asarray(places), lower)
    match rounding:
        case "toward_zero":
            up = between & (order < 0)
        case "up":
            up = between
        case "down":
            up = jnp.zeros(x.shape, bool)
        case _:
            assert random is not None
            low, high = values_at(lower, book, x.dtype), values_at(upper, book, x.dtype)
            clipped = jnp.clip(x, book.min, book.max)
            gap = jnp.where(high > low, high - low, 1)
            # As many random bits as the significand has are uniform in [0, 1) exactly.
            m = CARRIERS[x.dtype].format.mantissa_bits + 1
            drop = np.asarray(random.dtype.itemsize * 8 - m, random.dtype)
            uniform = (random >> drop).astype(x.dtype) * np.asarray(2.0**-m, x.dtype)
            up = uniform < (clipped - low) / gap
    return jnp.where(up, upper, lower)


def places_in_order(values: Iterable[float], dtype: np.dtype) -> np.ndarray:
    """Where values that `dtype` has stand in the order of its floats."""
    carrier = CARRIERS[dtype]
    signed = (-carrier.bits_of(-v) if v < 0 else carrier.bits_of(abs(v)) for v in values)
    return np.fromiter(signed, carrier.int)


@functools.cache
def _thresholds(book: Codebook, dtype: np.dtype, strictly: bool = True) -> np.ndarray:
    """The smallest numbers of `dtype` that belong to the upper of two neighbors, in order.

    Midpoints of float32 values need not be float32 values: they are compared with exactly.
    """
    found = []
    for low, high in zip(book.values, book.values[1:], strict=False):
        middle = (Fraction(low) + Fraction(high)) / 2
        nearest = np.asarray(float(middle), dtype)
        too_low = (
            Fraction(float(nearest)) <= middle if strictly else Fraction(float(nearest)) < middle
        )
        found.append(np.nextafter(nearest, np.asarray(np.inf, dtype)) if too_low else nearest)
    return places_in_order(map(float, found), dtype)
