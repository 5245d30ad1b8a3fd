"""Puts arrays onto a grid: rounds their magnitude, then sees to what is no ordinary number."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from precis.formats.bits import CARRIERS, Carrier, split, times_power_of_two
from precis.formats.float_format import FloatFormat
from precis.formats.lookup import round_to_values
from precis.formats.round_bits import round_magnitude, steps_of
from precis.formats.scaled import Rounded
from precis.formats.spec import Codebook, IntFormat


@functools.partial(jax.jit, static_argnums=1)
def round_values(
    x: Array, how: Rounded, *, random: Array | None = None, shift: Array | None = None
) -> Array:
    """`x` on the grid of `how`: `round_to` without its checks and without a gradient.

    Args:
        x: [...] float32 or float64.
        how: The grid and the way onto it.
        random: [...] random bits of the carrier's width, for stochastic rounding.
        shift: int32 that broadcasts against x: the grid is taken times `2**shift`.

    Returns:
        [...] in the dtype of `x`.
    """
    grid = how.grid
    if isinstance(grid, Codebook):
        return round_to_values(x, grid, how.rounding, random)
    carrier = CARRIERS[x.dtype]
    if how == Rounded(carrier.format) and shift is None:
        return x
    if isinstance(grid, IntFormat) and _rounds_in_one_op(grid, how, shift):
        return _nearest_integer(x, grid)
    sign, magnitude = split(x)
    rounding = how.rounding
    if isinstance(grid, FloatFormat) and not grid.is_signed and rounding == "nearest_even":
        rounding, magnitude = "nearest_away", _as_xla_casts_to_e8m0(magnitude, carrier)
    rounded = round_magnitude(
        magnitude,
        steps_of(grid, carrier),
        rounding,
        negative=sign != 0,
        shift=0 if shift is None else shift,
        random=random,
    )
    limit = _limit(grid, carrier, sign != 0, shift)
    infinity = np.asarray(carrier.infinity, carrier.uint)
    beyond = _beyond(how, carrier, limit, sign != 0, magnitude == infinity)
    rounded = jnp.where(rounded > limit, beyond, rounded)
    if how.subnormals == "flush" and isinstance(grid, FloatFormat):
        normal = _bits(grid.smallest_normal, carrier, shift)
        rounded = jnp.where(rounded < normal, np.asarray(0, carrier.uint), rounded)
    return _special_values(grid, carrier, sign, magnitude, rounded)


def _rounds_in_one_op(grid: IntFormat, how: Rounded, shift: Array | None) -> bool:
    return how.rounding == "nearest_even" and shift is None and grid.bits <= 16


def _nearest_integer(x: Array, grid: IntFormat) -> Array:
    """The same by the backends' own op for integers, which no compiler drops: twice as fast."""
    low, high, unit, zero, half = (
        np.asarray(v, x.dtype)
        for v in (grid.min / grid.unit, grid.max / grid.unit, grid.unit, 0, 0.5)
    )
    steps = x if grid.unit == 1 else x * (1 / unit)
    rounded = lax.round(lax.clamp(low, steps, high), lax.RoundingMethod.TO_NEAREST_EVEN)
    # Neither NaN nor -0 is an integer; neither is beyond a half, as all is that does not become 0.
    rounded = jnp.where(jnp.abs(steps) > half, rounded, zero)
    return rounded if grid.unit == 1 else rounded * unit


def _limit(
    grid: FloatFormat | IntFormat, carrier: Carrier, negative: Array, shift: Array | None
) -> Array:
    """Bits of the largest magnitude that the grid has on the side of zero where x lies."""
    limit = _bits(grid.max, carrier, shift)
    if isinstance(grid, IntFormat):
        limit = jnp.where(negative, _bits(abs(grid.min), carrier, shift), limit)
    if shift is None:
        return limit
    # A grid may be shifted beyond the carrier's range: its largest value there is one step below.
    m = carrier.format.mantissa_bits
    if isinstance(grid, IntFormat):
        top = shift - grid.fraction_bits + m - carrier.format.max_exponent
        place = jnp.clip(top, 0, m).astype(carrier.uint)
    else:
        place = np.asarray(m - grid.mantissa_bits, carrier.uint)
    infinity, one = (np.asarray(bits, carrier.uint) for bits in (carrier.infinity, 1))
    return jnp.minimum(limit, infinity - (one << place))


def _bits(value: float, carrier: Carrier, shift: Array | None) -> Array:
    """The bits of `value * 2**shift`."""
    if shift is None:
        return jnp.asarray(carrier.bits_of(value), carrier.uint)
    shifted = times_power_of_two(jnp.asarray(value, carrier.dtype), shift)
    return lax.bitcast_convert_type(shifted, carrier.uint)


def _beyond(
    how: Rounded, carrier: Carrier, limit: Array, negative: Array, infinite: Array
) -> Array:
    """Bits of the magnitude that an overflow becomes."""
    grid, overflow = how.grid, how.overflow or "ieee"
    if not isinstance(grid, FloatFormat) or not grid.has_nan or overflow == "saturate":
        return limit
    infinity = np.asarray(carrier.infinity, carrier.uint)
    nan = np.asarray(carrier.nan, carrier.uint)
    top = infinity if grid.has_inf else nan
    if overflow == "inf":
        return jnp.broadcast_to(infinity, limit.shape)
    if overflow == "nan":
        return jnp.where(infinite, top, nan)
    toward_zero = {"toward_zero": True, "up": negative, "down": ~negative}.get(how.rounding, False)
    return jnp.where(toward_zero & ~infinite, limit, top)


def _as_xla_casts_to_e8m0(magnitude: Array, carrier: Carrier) -> Array:
    """XLA and ml_dtypes round ties up, and all between the two smallest values to the larger."""
    low, high = (np.asarray(carrier.bits_of(2.0**e), carrier.uint) for e in (-127, -126))
    return jnp.where((magnitude > low) & (magnitude < high), high, magnitude)


def _special_values(
    grid: FloatFormat | IntFormat, carrier: Carrier, sign: Array, magnitude: Array, rounded: Array
) -> Array:
    """Puts the sign back, and sees to NaN, to zero, and to formats that lack one of the two."""
    zero = np.asarray(0, carrier.uint)
    is_nan = magnitude > np.asarray(carrier.infinity, carrier.uint)
    if isinstance(grid, FloatFormat) and grid.has_nan:
        rounded = jnp.where(is_nan, magnitude, rounded)  # NaN keeps its payload
    else:
        rounded = jnp.where(is_nan, zero, rounded)
    if isinstance(grid, FloatFormat) and not grid.is_signed:
        smallest = np.asarray(carrier.bits_of(grid.smallest_subnormal), carrier.uint)
        invalid = is_nan | (sign != 0) | (magnitude == 0)
        rounded = jnp.where(
            invalid, np.asarray(carrier.nan, carrier.uint), jnp.maximum(rounded, smallest)
        )
        sign = jnp.zeros_like(sign)
    elif isinstance(grid, IntFormat) or not grid.has_negative_zero:
        sign = jnp.where(rounded == 0, zero, sign)
    elif not grid.has_nan:
        # XLA's cast of either NaN to a finite format.
        sign = jnp.where(is_nan, np.asarray(carrier.sign_bit, carrier.uint), sign)
    return lax.bitcast_convert_type(sign | rounded, carrier.dtype)
