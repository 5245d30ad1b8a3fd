"""One array in few bits: along which axes its groups run, its scales and its codes."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from precis.formats import (
    FLOAT32,
    Codebook,
    Format,
    IntFormat,
    ScaledFormat,
    amax,
    checked_axes,
    grouped,
    round_to,
    times_inverse,
    to_blocks,
    ungrouped,
    without_groups,
)
from precis.quant.calibration import AbsMax, Calibration, MinMax, read_calibration
from precis.quant.formats import quantized_format
from precis.quant.magnitudes import largest_of
from precis.quant.qtensor import QTensor
from precis.quant.storage import is_packed, storage_dtype, stored

# Entries of a codebook that are found at a time: what that takes stays in a cache.
_AT_ONCE = 1 << 19


def quantize_array(
    x: Array,
    fmt: Format | str,
    *,
    axis: int | Sequence[int] | None = None,
    calibrate: Calibration | str = "absmax",
    key: Array | None = None,
) -> QTensor:
    """`x` as codes and scales.

    Symmetric: a group is scaled by its largest magnitude, or what `calibrate` says, to the largest
    value of the grid, in float32: `S = amax · (1 / max)`, `element = round(x · (1 / S))`, ties to
    even, saturating. With `minmax`, on a grid from lo to hi in steps of 1:

        S = (max(x, 0) - min(x, 0)) / (hi - lo)
        Z = lo - round(min(x, 0) / S)
        code = round(x / S) + Z, saturating

    so that 0 is exact. In both, the error is at most S/2, and an ulp of float32, where nothing was
    clipped and S is no narrow format.

    * A group with a NaN or an Inf has a scale of NaN, and dequantizes to NaN.
    * A group of zeros has the scale 1, so has one of float32 subnormals where the backend flushes
      them (CPU): it dequantizes to 0. Power-of-two scales keep subnormals.
    * float16 and bfloat16 are widened first, so that their scales are float32.
    * An array without entries has codes without entries. A scalar is one group.

    >>> q = quantize_array(jnp.float32([[1.0, -8.0], [0.5, 4.0]]), "int8")
    >>> q.values
    Array([[ 127, -127], [  64,   64]], dtype=int8)
    >>> q.shape, q.axes, q.nbytes
    ((2, 2), (-2,), 12)

    Args:
        x: [...] float32 or narrower.
        fmt: See `quantized_format`.
        axis: What groups run along; by default the axis before the last, where a kernel has its
            inputs, and for channels of 4 axes or more (a convolution's) all but the last. The
            only axis of a vector. For `@tensor`, and the tensor scale of nvfp4, a tensor is all
            from the first of these axes on; by default all axes, but that an array of 3 is a
            stack of matrices.
        calibrate: See `read_calibration`.
        key: A random key, which stochastic formats need.

    Raises:
        TypeError: `x` is not floating point, or is float64.
        ValueError: `fmt` is not one that arrays are kept in; it lacks negative values, or is no
            integer with a float32 scale for `minmax`; an axis that there is not; a scalar of
            fewer than 8 bits.
    """
    scaled, how = quantized_format(fmt), read_calibration(calibrate)
    if not jnp.issubdtype(x.dtype, jnp.floating) or x.dtype == np.float64:
        raise TypeError(f"float32, float16 or bfloat16 is quantized, got {x.dtype}: cast it first")
    _check_range(scaled, how)
    if not x.ndim and is_packed(scaled.grid):
        raise ValueError(f"{scaled}: a scalar has no axis to pack codes along; keep it in float")
    axes, depth = _axes(x.ndim, scaled, axis)
    return _quantize(x, scaled, axes, depth, how, key)


def _check_range(fmt: ScaledFormat, how: Calibration) -> None:
    if isinstance(how, MinMax):
        grid = fmt.element
        if not isinstance(grid, IntFormat) or grid.fraction_bits or fmt.scale is not None:
            raise ValueError(f"{fmt}: a zero point goes with integers and float32 scales")
    elif fmt.grid.min >= 0:
        raise ValueError(f"{fmt} has no negative values: calibrate='minmax' gives it a zero point")


def _axes(
    ndim: int, fmt: ScaledFormat, axis: int | Sequence[int] | None
) -> tuple[tuple[int, ...], int]:
    """What groups run along, from the end, and how many axes in front only stack tensors."""
    if axis is None:
        tensor = 2 if ndim == 3 else ndim
        is_window = fmt.granularity == "channel" and ndim >= 4
        given = tuple(range(-ndim, -1)) if is_window else (-min(ndim, 2),) if ndim else ()
    else:
        given = tuple(axis) if isinstance(axis, Sequence) else (operator.index(axis),)
        given = checked_axes(ScaledFormat(fmt.element, "channel"), ndim, given)
        tensor = min(max(2, -min(given, default=0)), ndim)
        tensor = -min(given, default=0) if fmt.granularity == "tensor" else tensor
    if fmt.granularity == "tensor":
        return tuple(range(-tensor, 0)), ndim - tensor
    if not ndim:
        return (), 0
    return checked_axes(fmt, ndim, given), ndim - tensor


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _quantize(
    x: Array,
    fmt: ScaledFormat,
    axes: tuple[int, ...],
    depth: int,
    how: Calibration,
    key: Array | None,
) -> QTensor:
    one = _asymmetric if isinstance(how, MinMax) else _symmetric

    def tensor(x: Array, key: Array | None) -> QTensor:
        rows = _rows_at_once(x, fmt, axes, key)
        if rows is None:
            return one(x, fmt, axes, how, key)
        parts = jax.lax.map(
            lambda part: one(part, fmt, axes, how, None), x.reshape(-1, rows, x.shape[-1])
        )
        return jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), parts)

    for _ in range(depth):
        tensor = jax.vmap(tensor, in_axes=(0, None if key is None else 0))
    return tensor(x, key if key is None else jax.random.split(key, x.shape[:depth]))


def _rows_at_once(
    x: Array, fmt: ScaledFormat, axes: tuple[int, ...], key: Array | None
) -> int | None:
    """How many rows of a large matrix to quantize at a time; None for all.

    A codebook is a table, and XLA keeps all that it was asked, three times the floats. Rows that
    are whole blocks can be taken one after the other.
    """
    if not isinstance(fmt.grid, Codebook) or fmt.block is None or x.ndim != 2 or key is not None:
        return None
    unit = fmt.block if axes == (-2,) else 1
    if fmt.tensor_scale or x.size <= _AT_ONCE or x.shape[0] % unit:
        return None
    units = x.shape[0] // unit
    most = max(_AT_ONCE // (unit * x.shape[1]), 1)
    return unit * max(n for n in range(1, most + 1) if units % n == 0)


def _symmetric(
    x: Array, fmt: ScaledFormat, axes: tuple[int, ...], how: Calibration, key: Array | None
) -> QTensor:
    wide = x.astype(np.float32)
    if not axes:  # a scalar
        fmt = ScaledFormat(fmt.element, "tensor", None, fmt.scale, fmt.rule, fmt.tensor_scale)
    largest = None if isinstance(how, AbsMax) else largest_of(wide, fmt, axes, how)
    blocks = to_blocks(wide, fmt, axis=axes or -1, key=key, largest=largest)
    whole = blocks.tensor_scale
    return QTensor(
        values=stored(blocks.elements, fmt.grid),
        scale=blocks.scales if fmt.scale is None else stored(blocks.scales, fmt.scale),
        zero_point=None,
        tensor_scale=None if whole is None else whole.reshape([1] * x.ndim),
        format=fmt,
        axes=axes,
        packed=(-1, x.shape[-1]) if is_packed(fmt.grid) else None,
        dtype=np.dtype(x.dtype),
    )


def _asymmetric(
    x: Array, fmt: ScaledFormat, axes: tuple[int, ...], how: Calibration, key: Array | None
) -> QTensor:
    del how, key
    grid = fmt.grid
    assert isinstance(grid, IntFormat)
    view = grouped(x.astype(np.float32), fmt, axes)
    above, below = (amax(jnp.maximum(side, np.float32(0)), axes) for side in (view, -view))
    # Half of each: their sum may be beyond float32.
    half = above * np.float32(0.5) + below * np.float32(0.5)
    scale = half * np.float32(2 / (grid.max - grid.min))
    scale = jnp.where(half == 0, np.float32(1), jnp.maximum(scale, FLOAT32.smallest_normal))
    scale = jnp.where(jnp.isfinite(half), scale, np.float32(np.nan))

    # Wide enough for what is rounded before a zero point is added, and clipped after.
    wide = IntFormat(16 if grid.bits < 16 else 18)

    def steps(x: Array) -> Array:
        return round_to(times_inverse(x, scale), wide)

    low, high = np.float32(grid.min), np.float32(grid.max)
    zero = jnp.clip(low + steps(below), low, high)
    codes = jnp.clip(steps(view) + zero, low, high)
    codes = jnp.where(jnp.isnan(scale), zero, codes)
    return QTensor(
        values=stored(ungrouped(codes, x.shape, fmt, axes), grid),
        scale=without_groups(scale, fmt, axes),
        zero_point=without_groups(zero, fmt, axes).astype(storage_dtype(grid)),
        tensor_scale=None,
        format=fmt,
        axes=axes,
        packed=(-1, x.shape[-1]) if is_packed(grid) else None,
        dtype=np.dtype(x.dtype),
    )
