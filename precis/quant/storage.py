"""Values of a grid as they are stored: integers as integers, fp8 as fp8, the rest as bit codes."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from precis.formats import (
    FloatFormat,
    Grid,
    IntFormat,
    Packed,
    as_integers,
    decode,
    encode,
    pack,
    unpack,
)

# Formats that matrix units multiply and that every checkpoint library knows. Others of 8 bits are
# kept as bit codes: orbax cannot save e4m3, and restores e8m0 wrongly into another dtype.
_NATIVE = {"float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"}


def storage_dtype(grid: Grid) -> np.dtype:
    """What one value of `grid` is stored in, unless it is packed."""
    match grid:
        case FloatFormat() if grid.name in _NATIVE or grid.is_native:
            return grid.storage_dtype
        case IntFormat(signed=True):
            return np.dtype(f"int{_width(grid)}")
        case _:
            return np.dtype(f"uint{_width(grid)}")


def is_packed(grid: Grid) -> bool:
    """Whether values of `grid` share bytes: those of fewer than 8 bits."""
    return grid.bits < 8


def stored(elements: Array, grid: Grid) -> Array:
    """Values of `grid` as bytes hold them.

    Args:
        elements: [..., n] float32 on the grid.
        grid: The grid.

    Returns:
        [..., n] of `storage_dtype(grid)`; where values share bytes, [..., ⌈n · bits / 8⌉] uint8.
    """
    dtype = storage_dtype(grid)
    if is_packed(grid):
        return pack(encode(elements, grid), grid).data
    if isinstance(grid, IntFormat) and grid.signed:
        return as_integers(elements * np.float32(1 / grid.unit), dtype)
    if isinstance(grid, FloatFormat) and grid.is_native:
        return elements.astype(dtype)
    return _same_bits(encode(elements, grid), dtype)


def codes_of(values: Array, grid: Grid, packed: tuple[int, int] | None) -> Array:
    """What `stored` gave, one code for each value: [..., n] of `storage_dtype(grid)`.

    Args:
        values: As stored; `packed` may name another axis than the last.
        grid: The grid.
        packed: The axis along which codes are packed, from the end, and how many there are.
    """
    if packed is None:
        return values
    axis, length = packed
    codes = unpack(Packed(jnp.moveaxis(values, axis, -1), grid, length))
    codes = jnp.moveaxis(codes, -1, axis)
    if not (isinstance(grid, IntFormat) and grid.signed):
        return codes
    # An arithmetic shift spreads the sign.
    spare = 8 - grid.bits
    return _same_bits(codes << np.uint8(spare), np.dtype(np.int8)) >> np.int8(spare)


def elements_of(codes: Array, grid: Grid) -> Array:
    """[...] float32: the values of `grid` that `codes`, as `codes_of` gives them, stand for."""
    if isinstance(grid, IntFormat):
        return codes.astype(np.float32) * np.float32(grid.unit)
    if isinstance(grid, FloatFormat) and grid.is_native:
        return codes.astype(np.float32)
    return decode(_same_bits(codes, np.dtype(f"uint{_width(grid)}")), grid)


def _width(grid: Grid) -> int:
    return next(width for width in (8, 16, 32) if grid.bits <= width)


def _same_bits(x: Array, dtype: np.dtype) -> Array:
    return x if x.dtype == dtype else lax.bitcast_convert_type(x, dtype)
