"""Rounds the bits of |x| onto a grid whose steps are powers of two.

All is done on integers. Floating-point tricks do not survive compilation: XLA folds
`(x + c) - c` to `x`, may drop a pair of converts, flushes subnormals on CPU, and
`lax.reduce_precision` flushes those of the target.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from precis.formats.bits import Carrier, carrier_of, exponent_of
from precis.formats.float_format import FloatFormat
from precis.formats.scaled import Rounding
from precis.formats.spec import IntFormat


class Steps(NamedTuple):
    """The distance between neighbors: `2**(max(exponent of x, min_exponent) - mantissa_bits)`.

    Attributes:
        mantissa_bits: Bits behind the leading one.
        min_exponent: Below this exponent the distance stays what it is.
    """

    mantissa_bits: int
    min_exponent: int


def steps_of(grid: FloatFormat | IntFormat, carrier: Carrier) -> Steps:
    """The steps of a float or integer grid."""
    if isinstance(grid, IntFormat):
        # No more bits behind the leading one than the carrier has: the step stays fixed as far
        # as the carrier can tell.
        m = carrier.format.mantissa_bits
        return Steps(m, m - grid.fraction_bits)
    return Steps(grid.mantissa_bits, grid.min_exponent)


def round_magnitude(
    magnitude: Array,
    steps: Steps,
    rounding: Rounding,
    *,
    negative: Array,
    shift: Array | int = 0,
    random: Array | None = None,
) -> Array:
    """Bits of |x| rounded to `steps`, with unlimited range above.

    Args:
        magnitude: [...] uint32 or uint64: the bits of |x| in float32 or float64, finite.
        steps: The grid.
        rounding: What to do between two neighbors.
        negative: [...] bool: whether x is.
        shift: Exponents that are added to the grid's, int32 that broadcasts against x: the grid
            times `2**shift`.
        random: [...] uniform random bits of the same dtype, for stochastic rounding.

    Returns:
        [...] bits of the carrier.
    """
    carrier = carrier_of(magnitude)
    m, bias = carrier.format.mantissa_bits, carrier.format.bias
    lowest = steps.min_exponent + bias + shift
    fixed = isinstance(lowest, int)
    if fixed and lowest <= 1 and carrier.format.min_exponent <= steps.min_exponent:
        # Everywhere the same number of bits goes, subnormals of the carrier included.
        drop = np.asarray(m - steps.mantissa_bits, carrier.uint)
        count = _increment(rounding, drop, magnitude >> drop, negative, random)
        return ((magnitude + count) >> drop) << drop

    # Bits are `(field - 1) << m` plus the significand as an integer, for subnormals too.
    field = jnp.maximum((magnitude >> np.asarray(m, carrier.uint)).astype(carrier.int), 1)
    base = (field - 1).astype(carrier.uint) << np.asarray(m, carrier.uint)
    significand = magnitude - base
    exponent = field if fixed and lowest >= 1 else exponent_of(magnitude, carrier)
    coarse = m - steps.mantissa_bits + jnp.maximum(exponent, lowest) - field
    # m + 2 places leave nothing, not even a tie: the significand has m + 1 bits.
    drop = jnp.clip(coarse, 0, m + 2).astype(carrier.uint)
    odd = significand >> drop
    if steps.mantissa_bits == 0:
        # Between powers of two it is the exponent's field that makes one of them even.
        odd = odd & (exponent - lowest + 1).astype(carrier.uint)
    count = (significand + _increment(rounding, drop, odd, negative, random)) >> drop
    if fixed and lowest > m:
        # A count of smallest steps times a power of two is exact, and nowhere subnormal.
        step = np.asarray(2.0 ** (steps.min_exponent - steps.mantissa_bits), carrier.dtype)
        below = lax.bitcast_convert_type(count.astype(carrier.dtype) * step, carrier.uint)
        normal = np.asarray(lowest << m, carrier.uint)
        rounded = jnp.where(magnitude < normal, below, base + (count << drop))
    else:
        rounded = jnp.where(count == 0, np.asarray(0, carrier.uint), base + (count << drop))
    if rounding in ("nearest_even", "nearest_away", "toward_zero"):
        return rounded
    # Far below the smallest step, the one neighbor that is not zero is that step.
    away = _goes_up_from_below(significand, coarse, rounding, negative, random)
    smallest = _bits_of_power(lowest - bias - steps.mantissa_bits, carrier)
    tiny = jnp.where(away, smallest, np.asarray(0, carrier.uint))
    return jnp.where(drop > np.asarray(m + 1, carrier.uint), tiny, rounded)


def _increment(
    rounding: Rounding,
    drop: Array | np.ndarray,
    odd: Array,
    negative: Array,
    random: Array | None,
) -> Array:
    """What to add to bits, so that cutting off the low `drop` ones rounds them.

    A carry out of the fraction raises the exponent, which is right in the carrier's encoding.
    The lowest bit of `odd` says whether the value below has an odd code.
    """
    one = np.asarray(1, odd.dtype)
    ones = jnp.asarray((one << drop) - one)
    match rounding:
        case "nearest_even":
            # Half less one, and one more where the lowest bit kept is set; nothing if none goes.
            return (ones >> one) + (odd & ones & one)
        case "nearest_away":
            return (ones >> one) + (ones & one)
        case "toward_zero":
            return jnp.zeros_like(odd)
        case "up":
            return jnp.where(negative, np.asarray(0, odd.dtype), ones)
        case "down":
            return jnp.where(negative, ones, np.asarray(0, odd.dtype))
        case "stochastic":
            assert random is not None
            return random & ones


def _goes_up_from_below(
    significand: Array, drop: Array, rounding: Rounding, negative: Array, random: Array | None
) -> Array:
    """Whether |x|, smaller than half of the smallest step, leaves zero; `drop` ≥ m + 2."""
    if rounding == "up":
        return ~negative & (significand > 0)
    if rounding == "down":
        return negative & (significand > 0)
    assert random is not None
    # Up with a probability of significand / 2^drop, to the last bit of the random number.
    width = random.dtype.itemsize * 8
    left = jnp.clip(width - drop, 0, width - 1).astype(random.dtype)
    right = jnp.clip(drop - width, 0, width - 1).astype(random.dtype)
    return random < (significand << left) >> right


def _bits_of_power(exponent: Array | int, carrier: Carrier) -> Array:
    """The bits of 2^exponent, subnormal ones included."""
    m, bias = carrier.format.mantissa_bits, carrier.format.bias
    one = np.asarray(1, carrier.uint)
    field = jnp.asarray(exponent + bias, carrier.int)
    normal = jnp.maximum(field, 0).astype(carrier.uint) << np.asarray(m, carrier.uint)
    subnormal = one << jnp.clip(field + m - 1, 0, m).astype(carrier.uint)
    return jnp.where(field > 0, normal, subnormal)
