"""Arrays as elements and scales, and back."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from precis.formats.bits import CARRIERS, exponent_of, split, times_power_of_two
from precis.formats.groups import against_groups, checked_axes, grouped, ungrouped, without_groups
from precis.formats.noise import random_bits
from precis.formats.parse import Format, parse
from precis.formats.round import check_key, straight_through
from precis.formats.scaled import ScaledFormat
from precis.formats.scales import (
    amax,
    exact_amax,
    float_scales,
    scale_exponents,
    tensor_scale,
    times_inverse,
)
from precis.formats.values import round_values

_F32 = CARRIERS[np.dtype(np.float32)]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["elements", "scales", "tensor_scale"],
    meta_fields=["format", "axes"],
)
@dataclass(frozen=True, slots=True)
class Blocks:
    """A scaled array in its parts; a pytree node. `from_blocks` puts them together.

    Attributes:
        elements: [...] float32: values of the format's grid.
        scales: float32, one for each group: as `elements`, but with 1 in place of each of
            `axes`, or with the number of blocks. The power of two 2^-127 is a float32 subnormal,
            which some backends flush in arithmetic. NaN where the group held a NaN or an Inf.
        tensor_scale: [] float32 that multiplies all scales, or None.
        format: The scaled format.
        axes: What a group runs along, counted from the end.
    """

    elements: Array
    scales: Array
    tensor_scale: Array | None
    format: ScaledFormat
    axes: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all codes and scales when packed."""
        scale_bits = 32 if self.format.scale is None else self.format.scale.bits
        bits = self.elements.size * self.format.bits + self.scales.size * scale_bits
        return math.ceil(bits / 8) + (4 if self.tensor_scale is not None else 0)


def to_blocks(
    x: Array,
    fmt: Format | str,
    *,
    axis: int | Sequence[int] = -1,
    key: Array | None = None,
    largest: Array | None = None,
) -> Blocks:
    """`x` as elements of a grid and the scales that they are multiplied by.

    A group is the whole array (`@tensor`), all along `axis` (`@channel`), or so many neighbors
    along it (`@block32`), the last one of which may be shorter. Elements are `x / scale` on the
    grid, saturating: with power-of-two scales exactly, subnormals included, otherwise
    `x * (1 / scale)` in float32 and subnormals as the backend has them. A group with a NaN or an
    Inf has the scale NaN and elements 0: it comes back as NaN.

    Invariant: `from_blocks(to_blocks(x, fmt)) == quantize_dequantize(x, fmt)`.

    >>> blocks = to_blocks(jnp.float32([1.0, -3.0, 0.1]), "int8@tensor")
    >>> blocks.elements, blocks.scales
    (Array([  42., -127.,    4.], dtype=float32), Array([0.02362205], dtype=float32))

    Args:
        x: [...] float32 or narrower.
        fmt: A scaled format or its name.
        axis: What groups run along: one axis for blocks, one or several for channels.
        key: A random key, which stochastic rounding needs and nothing else takes.
        largest: float32 in the shape of the scales: the magnitude that each group is scaled by
            instead of its largest one. What lies beyond saturates; where it is not finite, the
            group comes back as NaN.

    Raises:
        TypeError: `x` is not floating point, or is float64.
        ValueError: `fmt` is not scaled; blocks along more than one axis, or along none; an axis
            that `x` lacks; stochastic without key, or a key without it.

    Source: OCP Microscaling Formats specification 1.0, section 6.3; NVIDIA, arXiv:2509.25149,
    appendix C (NVFP4).
    """
    fmt = _parse_scaled(fmt)
    x, axes = _checked(x, fmt, axis, key)
    return _to_blocks(x, fmt, axes, key, largest)


@jax.jit
def from_blocks(blocks: Blocks) -> Array:
    """The array that `blocks` stand for: `elements * scales`, [...] float32."""
    fmt, axes = blocks.format, blocks.axes
    view = grouped(blocks.elements, fmt, axes)
    scales = against_groups(blocks.scales, fmt, axes)
    if fmt.has_power_of_two_scales:
        _, magnitude = split(scales)
        exponent = exponent_of(magnitude, _F32) - np.int32(_F32.format.bias)
        values = jnp.where(
            jnp.isnan(scales), np.float32(np.nan), times_power_of_two(view, exponent)
        )
    else:
        values = view * scales
        values = values if blocks.tensor_scale is None else values * blocks.tensor_scale
    return ungrouped(values, blocks.elements.shape, fmt, axes)


def quantize_dequantize(
    x: Array, fmt: Format | str, *, axis: int | Sequence[int] = -1, key: Array | None = None
) -> Array:
    """`x` brought onto the values that `fmt` can give it: `from_blocks(to_blocks(x, fmt))`.

    The gradient is straight-through: 1 everywhere.

    >>> quantize_dequantize(jnp.float32([1.0, -3.0, 0.1]), "mxfp4")
    Array([ 1., -3.,  0.], dtype=float32)

    Args, raises, source: As `to_blocks`.

    Returns:
        [...] float32.
    """
    fmt = _parse_scaled(fmt)
    x, axes = _checked(x, fmt, axis, key)
    return straight_through(x, _quantize_dequantize(lax.stop_gradient(x), fmt, axes, key))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _quantize_dequantize(
    x: Array, fmt: ScaledFormat, axes: tuple[int, ...], key: Array | None
) -> Array:
    if not fmt.has_power_of_two_scales:
        return from_blocks(_to_blocks(x, fmt, axes, key))
    view = grouped(x, fmt, axes)
    values, scales = _onto_shifted_grid(view, fmt, axes, key)
    values = jnp.where(jnp.isnan(scales), scales, values)
    return ungrouped(values, x.shape, fmt, axes)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _to_blocks(
    x: Array,
    fmt: ScaledFormat,
    axes: tuple[int, ...],
    key: Array | None,
    largest: Array | None = None,
) -> Blocks:
    x = lax.stop_gradient(x)
    view = grouped(x, fmt, axes)
    largest = largest if largest is None else against_groups(largest, fmt, axes)
    whole = None
    if fmt.has_power_of_two_scales:
        values, scales = _onto_shifted_grid(view, fmt, axes, key, largest)
        _, magnitude = split(scales)
        exponent = exponent_of(magnitude, _F32) - np.int32(_F32.format.bias)
        elements = times_power_of_two(values, -exponent)
    else:
        largest = amax(view, axes) if largest is None else largest
        whole = tensor_scale(_largest_finite(largest), fmt) if fmt.tensor_scale else None
        scales = float_scales(largest, fmt, whole)
        divisor = scales if whole is None else scales * whole
        scaled = times_inverse(view, divisor, most=_F32.format.max / fmt.grid.max)
        elements = round_values(scaled, fmt.rounding, random=_random(key, view))
        scales = jnp.where(jnp.isfinite(largest), scales, np.float32(np.nan))
    elements = jnp.where(jnp.isnan(scales), np.float32(0), elements)
    return Blocks(
        ungrouped(elements, x.shape, fmt, axes), without_groups(scales, fmt, axes), whole, fmt, axes
    )


def _onto_shifted_grid(
    view: Array,
    fmt: ScaledFormat,
    axes: tuple[int, ...],
    key: Array | None,
    largest: Array | None = None,
) -> tuple[Array, Array]:
    """Values of a grid times a power of two, and that power of two, for each group of `view`.

    A power of two as a scale is a shift of the grid's exponents. Nothing is multiplied, so that
    nothing is flushed, rounded twice or overflows.
    """
    largest = exact_amax(view, axes) if largest is None else largest
    exponent = scale_exponents(largest, fmt.grid, fmt.rule)
    values = round_values(view, fmt.rounding, random=_random(key, view), shift=exponent)
    power = times_power_of_two(jnp.ones_like(largest), exponent)
    return values, jnp.where(jnp.isfinite(largest), power, np.float32(np.nan))


def _largest_finite(largest: Array) -> Array:
    """[] float32: the largest of the groups' maxima, but for groups that hold NaN or Inf."""
    return jnp.max(jnp.where(jnp.isfinite(largest), largest, np.float32(0)), initial=0)


def _random(key: Array | None, x: Array) -> Array | None:
    return None if key is None else random_bits(key, x.shape, np.uint32)


def _parse_scaled(fmt: Format | str) -> ScaledFormat:
    fmt = parse(fmt)
    if not isinstance(fmt, ScaledFormat):
        raise ValueError(f"a scaled format is wanted, such as {fmt}@channel; got {fmt}")
    return fmt


def _checked(
    x: Array, fmt: ScaledFormat, axis: int | Sequence[int], key: Array | None
) -> tuple[Array, tuple[int, ...]]:
    check_key(fmt.rounding, key)
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"a floating-point array is wanted, got {x.dtype}: cast it first")
    if x.dtype == np.float64:
        raise TypeError(f"{fmt} has float32 scales, got float64 values: cast them to float32 first")
    return x.astype(np.float32), checked_axes(fmt, x.ndim, axis)
