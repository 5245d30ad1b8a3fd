"""What a group of values is divided by, so that it fits a grid."""

from __future__ import annotations

import functools
import math

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from precis.formats.bits import CARRIERS, exponent_of, split, times_power_of_two
from precis.formats.catalogue import FLOAT32
from precis.formats.float_format import FloatFormat
from precis.formats.scaled import Rounded, ScaledFormat, ScaleRule
from precis.formats.spec import Grid
from precis.formats.values import round_values

_F32 = CARRIERS[np.dtype(np.float32)]
# Slices that are compared at once, and the size of an array from which on that pays.
_SLICES, _LARGE = 32, 1 << 18
_SMALLEST_NORMAL = np.float32(FLOAT32.smallest_normal)


def amax(x: Array, axes: tuple[int, ...]) -> Array:
    """The largest |x| over `axes`, which are kept with size 1; Inf if any x is NaN.

    XLA's CPU backend drops NaN from the maximum of a large float array; so NaN becomes Inf
    before. Subnormals count as 0 where the backend flushes them.

    Args:
        x: [...] float32.
        axes: What to reduce over; over an empty axis the maximum is 0.
    """
    magnitude, left = _folded(x, axes)
    finite = jnp.minimum(magnitude, np.asarray(_F32.infinity, np.uint32))
    largest = jnp.max(lax.bitcast_convert_type(finite, np.float32), left, initial=0)
    return jnp.expand_dims(largest, axes)


def exact_amax(x: Array, axes: tuple[int, ...]) -> Array:
    """Likewise, but NaN if any x is, and subnormals count: taken on the bits as integers.

    Args:
        x: [...] float32.
        axes: What to reduce over; over an empty axis the maximum is 0.
    """
    magnitude, left = _folded(x, axes)
    largest = jnp.max(magnitude.astype(np.int32), left, initial=0)
    return jnp.expand_dims(lax.bitcast_convert_type(largest, np.float32), axes)


def _folded(x: Array, axes: tuple[int, ...]) -> tuple[Array, tuple[int, ...]]:
    """uint32: bits of |x|, of a large array few but the largest over `axes`; and what these are.

    XLA's CPU backend reduces a copy of the array. The larger of many slices, element by element,
    is one loop that reads the array once and copies nothing.
    """
    if x.size < _LARGE or not axes:
        return split(x)[1], axes
    x, axes = _with_one(x, axes)
    axis = max(axes, key=lambda a: x.shape[a])
    if x.shape[axis] < 4:
        return split(x)[1], axes
    length = x.shape[axis]
    # What is left must still be reduced: without, its consumers would compute it for each value.
    size = max(-(-length // _SLICES), 2)
    starts = (min(start, length - size) for start in range(0, length, size))
    slices = (lax.slice_in_dim(x, start, start + size, axis=axis) for start in starts)
    return functools.reduce(jnp.maximum, (split(part)[1] for part in slices)), axes


def _with_one(x: Array, axes: tuple[int, ...]) -> tuple[Array, tuple[int, ...]]:
    """`x` with one axis in place of `axes`, if these are neighbors: slices of it are longer."""
    own = sorted(axis % x.ndim for axis in axes)
    first, last = own[0], own[-1]
    if last - first >= len(own):
        return x, axes
    return x.reshape(*x.shape[:first], -1, *x.shape[last + 1 :]), (first,)


def scale_exponents(amax: Array, grid: Grid, rule: ScaleRule = "floor") -> Array:
    """Exponents of power-of-two scales for groups whose largest magnitude is `amax`.

    With e the exponent of `grid.max`:

    * `floor`: `floor(log2(amax)) - e`, OCP's. Values beyond `max` times the scale saturate.
    * `ceil`: `ceil(log2(amax)) - e`. Nothing saturates, half of the range may lie idle.
    * `even`: `floor(log2(amax rounded to the grid's mantissa bits, ties away)) - e`.
    * `rceil`: the smallest power of two by which `amax` comes to lie within `max`.

    All of them are read from bits, exactly, and clipped to e8m0's -127 … 127.

    >>> from precis.formats import parse
    >>> scale_exponents(jnp.float32([500.0, 0.0]), parse("e4m3fn"), "rceil")
    Array([   1, -127], dtype=int32)

    Args:
        amax: [...] float32, finite and not negative.
        grid: What the scaled values are rounded to.
        rule: Which power of two.

    Returns:
        [...] int32.

    Source: OCP Microscaling Formats specification 1.0, section 6.3 (floor); NVIDIA,
    arXiv:2506.08027 (rceil); Microsoft's microxcaling library (even).
    """
    significand, exponent = math.frexp(grid.max)  # significand in [0.5, 1)
    m = FLOAT32.mantissa_bits
    _, magnitude = split(amax)
    if rule == "even":
        half = (1 << (m - 1)) >> _mantissa_bits(grid)
        magnitude = magnitude + np.asarray(half, np.uint32)
    found = exponent_of(magnitude, _F32) - np.int32(FLOAT32.bias)
    if rule in ("ceil", "rceil"):
        # More than a power of two; more than the significand of the largest element.
        threshold = 1.0 if rule == "ceil" else 2 * significand
        found = found + _exceeds(magnitude, found, threshold).astype(np.int32)
    return jnp.clip(found - np.int32(exponent - 1), -127, 127)


def _exceeds(magnitude: Array, exponent: Array, threshold: float) -> Array:
    """Whether |x| / 2^exponent, in [1, 2), is larger than `threshold`."""
    m = FLOAT32.mantissa_bits
    lift = jnp.clip(np.int32(FLOAT32.min_exponent) - exponent, 0, m).astype(np.uint32)
    fraction = (magnitude << lift) & np.asarray((1 << m) - 1, np.uint32)
    return fraction > np.asarray(int((threshold - 1) * 2**m), np.uint32)


def _mantissa_bits(grid: Grid) -> int:
    if isinstance(grid, FloatFormat):
        return grid.mantissa_bits
    # An integer has as many significant bits as its largest value, all but one behind the first.
    return math.frexp(grid.max)[1] - 1 + getattr(grid, "fraction_bits", 0)


def float_scales(largest: Array, fmt: ScaledFormat, tensor_scale: Array | None) -> Array:
    """Scales `amax * (1 / max)`, rounded to the scale's format, for groups with maxima `largest`.

    A group that is zero gets the scale 1 in float32. Others are at least the smallest normal
    float32, since backends flush what is below. Narrow scales saturate, and may become zero,
    which makes the whole group zero.

    Args:
        largest: [...] float32, finite.
        fmt: The format.
        tensor_scale: [] float32 that the scales are relative to, or None.
    """
    relative = _over(largest, fmt.grid.max)
    if fmt.scale is None:
        scale = jnp.clip(relative, _SMALLEST_NORMAL, np.float32(FLOAT32.max))
        return jnp.where(largest == 0, np.float32(1), scale)
    relative = relative if tensor_scale is None else times_inverse(relative, tensor_scale)
    return round_values(relative, Rounded(fmt.scale, overflow="saturate"))


def tensor_scale(largest: Array, fmt: ScaledFormat) -> Array:
    """The float32 that brings the largest scale of a tensor to the largest of its format.

    Args:
        largest: [] float32: the largest magnitude of the tensor.
        fmt: A format with scales of scales.
    """
    assert fmt.scale is not None
    scale = _over(largest, fmt.grid.max * fmt.scale.max)
    return jnp.where(largest == 0, np.float32(1), jnp.maximum(scale, _SMALLEST_NORMAL))


def _over(x: Array, constant: float) -> Array:
    """The product x · (1 / constant), where the inverse may be too small to be a float32."""
    inverse = 1 / constant
    if inverse >= FLOAT32.smallest_normal:
        return x * np.float32(inverse)
    # XLA would join two constant factors to one that is flushed.
    significand, exponent = math.frexp(inverse)
    return times_power_of_two(x * np.float32(significand), jnp.int32(exponent))


def times_inverse(x: Array, scale: Array, *, most: float = math.inf) -> Array:
    """The product x · (1 / scale), each rounded to float32; 0 where `scale` is 0.

    XLA turns a division by what is broadcast into this product, on some backends and in some
    programs. Written out, it is the same in all of them.

    Args:
        x: [...] float32.
        scale: float32 that broadcasts against x, finite and not negative.
        most: What no scale is beyond. Up to 2^125 saves a multiplication of each value.
    """
    # XLA's CPU backend computes a quotient once for a group, what costs less for each value anew.
    one = np.float32(1)
    if most > 2.0**125:
        # The inverse of a scale beyond 2^126 is subnormal, and flushed: take both 2^8 times
        # smaller. Where it is not, what that makes of x is 0 on any grid, or the same.
        shrink = one / jnp.where(scale > np.float32(2.0**100), np.float32(2.0**8), one)
        x, scale = x * shrink, scale * shrink
    inverse = one / scale
    return jnp.where(inverse == np.float32(np.inf), np.float32(0), x * inverse)
