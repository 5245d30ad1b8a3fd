"""Which values share a scale: an array's shape, seen as groups.

Blocks divide their axis in two, so many blocks of so many values; the last one is filled up with
zeros, which change no maximum. Everything else leaves the shape as it is.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array

from precis.formats.scaled import ScaledFormat


def checked_axes(fmt: ScaledFormat, ndim: int, axis: int | Sequence[int]) -> tuple[int, ...]:
    """The axes that groups run along, counted from the end; of a tensor, all of them.

    Raises:
        ValueError: An axis that there is not, or for blocks not exactly one.
    """
    if fmt.granularity == "tensor":
        return tuple(range(-ndim, 0))
    given = tuple(axis) if isinstance(axis, Sequence) else (operator.index(axis),)
    if wrong := [a for a in given if not -ndim <= a < ndim]:
        raise ValueError(f"{fmt}: axis {wrong[0]} is none of an array with {ndim} axes")
    axes = tuple(sorted({a - ndim if a >= 0 else a for a in given}))
    if fmt.granularity == "block" and len(axes) != 1:
        raise ValueError(f"{fmt}: blocks run along one axis, got axis={axis}")
    return axes


def grouped(x: Array, fmt: ScaledFormat, axes: tuple[int, ...]) -> Array:
    """`x` with an axis of blocks in front of the axis within them, if there are blocks.

    Counted from the end, the axes within a group are the same as before.
    """
    if fmt.block is None:
        return x
    (axis,) = axes
    size = min(fmt.block, max(x.shape[axis], 1))
    missing = -x.shape[axis] % size
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, missing)
    filled = jnp.pad(x, widths) if missing else x
    before, after = filled.shape[: x.ndim + axis], filled.shape[x.ndim + axis + 1 :]
    return filled.reshape(*before, filled.shape[axis] // size, size, *after)


def ungrouped(
    view: Array, shape: tuple[int, ...], fmt: ScaledFormat, axes: tuple[int, ...]
) -> Array:
    """Undoes `grouped` for an array that had `shape`."""
    if fmt.block is None:
        return view
    start = len(shape) + axes[0]
    length = view.shape[start] * view.shape[start + 1]
    filled = view.reshape(*shape[:start], length, *shape[start + 1 :])
    return filled[(slice(None),) * start + (slice(0, shape[start]),)]


def without_groups(scales: Array, fmt: ScaledFormat, axes: tuple[int, ...]) -> Array:
    """Scales of `grouped(x)`, with size 1 along groups, in the shape that users see."""
    return scales if fmt.block is None else jnp.squeeze(scales, axes[0])


def against_groups(scales: Array, fmt: ScaledFormat, axes: tuple[int, ...]) -> Array:
    """Undoes `without_groups`: scales that broadcast against `grouped(x)`."""
    return scales if fmt.block is None else jnp.expand_dims(scales, axes[0])
