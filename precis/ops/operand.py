"""Brings the operands of a matrix op to their formats, scales and all."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from precis.formats import (
    BFLOAT16,
    FLOAT16,
    FloatFormat,
    Format,
    IntFormat,
    Rounded,
    ScaledFormat,
    as_integers,
    cast_to,
    quantize_dequantize,
    round_to,
    to_blocks,
    wide_dtype,
)


class Summed(NamedTuple):
    """The axes of an operand that its matrix op sums over.

    An outer product sums over nothing; its operands have one scale per tensor, since with one per
    value nothing would be rounded.

    Attributes:
        all: What shares one scale per channel: a row of activations, an output's weights.
        blocks: What blocks run along, as if it were one axis, in this order.
    """

    all: tuple[int, ...]
    blocks: tuple[int, ...]


def summed_axes(primitive: str, params: dict[str, Any], ndim: int, side: int) -> Summed:
    """What `primitive` sums over in its operand `side`, which has `ndim` axes.

    A convolution sums over features and window; its blocks run along the features.
    """
    if primitive != "conv_general_dilated":
        numbers = params.get("dimension_numbers") or params["ragged_dot_dimension_numbers"]
        numbers = getattr(numbers, "dot_dimension_numbers", numbers)
        # Pairs in the order of the first operand's axes, so that blocks run along memory there.
        axes = tuple(pair[side] for pair in sorted(zip(*numbers[0], strict=True)))
        return Summed(axes, axes)
    spec = params["dimension_numbers"][side]
    # Both specs name the other axis first: examples of the activation, outputs of the kernel.
    return Summed(tuple(spec[1:]), (spec[1],)) if ndim else Summed((), ())


def as_operand(fmt: Format) -> Format:
    """`fmt` as an operand: a bare integer has one float32 scale per channel."""
    match fmt:
        case IntFormat() | Rounded(grid=IntFormat()):
            return ScaledFormat(fmt, "channel")
        case _:
            return fmt


def is_scaled(fmt: Format) -> bool:
    """Whether values depend on their neighbors, so that it matters what an op sums over."""
    return isinstance(as_operand(fmt), ScaledFormat)


class Coded(NamedTuple):
    """An operand whose scales wait until its products are summed.

    Attributes:
        codes: [...] int8, bfloat16, float16 or float32: the narrowest that holds the grid.
        scales: float32, as `codes` but with 1 along what the op sums over.
    """

    codes: Array
    scales: Array


def carrier_of(fmt: Format) -> np.dtype:
    """In what dtype an operand in `fmt` enters the product: its own, or the one that emulates it.

    >>> from precis.formats import parse
    >>> [str(carrier_of(parse(name))) for name in ("bf16", "e5m7", "int8", "nvfp4", "tf32")]
    ['bfloat16', 'bfloat16', 'int8', 'float32', 'float32']
    """
    match as_operand(fmt):
        case ScaledFormat(granularity="block"):
            return np.dtype(np.float32)
        case ScaledFormat(grid=IntFormat() as grid) if _is_code(grid):
            return np.dtype(np.int8)
        case FloatFormat() as grid:
            return _narrowest(grid)
        case (
            Rounded(grid=FloatFormat() as grid)
            | ScaledFormat(scale=None, grid=FloatFormat() as grid)
        ):
            return _narrowest(grid)
        case _:
            return np.dtype(np.float32)


def bring(x: Array, fmt: Format, summed: Summed, key: Array | None = None) -> Array:
    """`x` as an operand in `fmt`, scales multiplied in.

    Args:
        x: [...] floating point.
        fmt: Any format; without a gradient of its own.
        summed: What the op sums over; groups of a scaled format run along it.
        key: A random key, if the format is stochastic.

    Returns:
        [...] in the narrowest dtype that holds the format's values: its own, if it has one;
        float32 for scaled ones; float64 where a format wants it.
    """
    match as_operand(fmt):
        case FloatFormat() as plain:
            return _narrowed(cast_to(x, plain), plain)
        case Rounded(grid=FloatFormat() as grid) as rounded:
            wide = x.astype(wide_dtype(x.dtype, grid.carrier))
            low = round_to(wide, rounded, key=key)
            return _narrowed(jnp.where(jnp.isnan(wide), wide, low), grid)
        case ScaledFormat() as scaled:
            return _scaled(x.astype(np.float32), scaled, summed, key)
        case other:
            raise TypeError(f"no operand can be {other}")


def bring_coded(x: Array, fmt: Format, summed: Summed, key: Array | None = None) -> Array | Coded:
    """Likewise, but with its scales apart where every product that is summed has the same."""
    scaled = as_operand(fmt)
    if not isinstance(scaled, ScaledFormat) or scaled.granularity == "block" or scaled.scale:
        return bring(x, fmt, summed, key)
    if not summed.all:
        scaled = replace(scaled, granularity="tensor")
    parts = to_blocks(x.astype(np.float32), scaled, axis=summed.all, key=key)
    match scaled.grid:
        case IntFormat() as grid if _is_code(grid):
            codes = as_integers(parts.elements * np.float32(1 / grid.unit), np.dtype(np.int8))
            return Coded(codes, parts.scales * np.float32(grid.unit))
        case FloatFormat() as grid:
            return Coded(_narrowed(parts.elements, grid), parts.scales)
        case _:
            return Coded(parts.elements, parts.scales)


def _is_code(grid: IntFormat) -> bool:
    return grid.signed and grid.bits <= 8


def _narrowed(x: Array, grid: FloatFormat) -> Array:
    """`x`, which lies on `grid`, in the narrowest dtype that holds all of it.

    So an emulated format takes the very products that its native neighbor does.
    """
    dtype = _narrowest(grid)
    return x.astype(dtype) if dtype.itemsize < x.dtype.itemsize else x


def _narrowest(grid: FloatFormat) -> np.dtype:
    fits = (native.carrier for native in (BFLOAT16, FLOAT16) if grid.fits_in(native))
    return np.dtype(next(fits, grid.carrier))


def _scaled(x: Array, fmt: ScaledFormat, summed: Summed, key: Array | None) -> Array:
    if fmt.granularity == "tensor":
        return quantize_dequantize(x, fmt, key=key)
    if not summed.all:
        return quantize_dequantize(x, ScaledFormat(fmt.element, "tensor"), key=key)
    if fmt.granularity == "channel":
        return quantize_dequantize(x, fmt, axis=summed.all, key=key)
    if len(summed.blocks) == 1:
        return quantize_dequantize(x, fmt, axis=summed.blocks[0], key=key)
    last = tuple(range(-len(summed.blocks), 0))
    moved = jnp.moveaxis(x, summed.blocks, last)
    flat = moved.reshape(*moved.shape[: last[0]], math.prod(moved.shape[last[0] :]))
    low = quantize_dequantize(flat, fmt, key=key).reshape(moved.shape)
    return jnp.moveaxis(low, last, summed.blocks)
