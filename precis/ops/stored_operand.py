"""What of a weight in few bits an op multiplies: its codes with their scales, or its values.

Codes take part as they are where every product that is summed has the same scale. A weight in
blocks, of a codebook or with a zero point is dequantized.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jax import Array, lax

from precis.formats import FLOAT32, FloatFormat, Format, IntFormat
from precis.ops.cotangents import bring_for
from precis.ops.float8 import float8_of
from precis.ops.operand import Coded, carrier_of, summed_axes
from precis.ops.product import MatrixOp
from precis.quant import QTensor, Stored, as_kernel, open_stored, recast


def multiplied_as(
    primitive: str, params: dict[str, Any], weight: Stored, side: int, other: Format
) -> Format:
    """The format in which `weight`, or one of its shape, takes part in a matrix op.

    Args:
        primitive: The op's name.
        params: Its parameters.
        weight: The weight; arrays may be shapes alone.
        side: Which operand it is.
        other: The format of the other operand.
    """
    q = as_kernel(weight).weight
    if _is_coded(primitive, params, q, side):
        return q.format
    return other if isinstance(other, FloatFormat) else FLOAT32


def operand_of(op: MatrixOp, q: QTensor, side: int, fmt: Format) -> Array | Coded:
    """A weight's codes and scales, or all of it in `fmt`, as operand `side` of `op`."""
    if _is_coded(op.primitive.name, op.params, q, side):
        return _coded(q)
    return bring_for(op, open_stored(recast(q, np.float32)), fmt, side)


def held_as(op: MatrixOp, q: QTensor, side: int, fmt: Format) -> Format:
    """The format that the codes, or the values, of `operand_of` are in."""
    return q.format if _is_coded(op.primitive.name, op.params, q, side) else fmt


def _is_coded(primitive: str, params: dict[str, Any], q: QTensor, side: int) -> bool:
    """Whether products that are summed share a scale, and codes are integers or floats."""
    grid = q.format.grid
    has_codes = grid.signed if isinstance(grid, IntFormat) else isinstance(grid, FloatFormat)
    if primitive == "ragged_dot_general" or q.zero_point is not None or q.format.block:
        return False
    axes = summed_axes(primitive, params, q.ndim, side).all
    return has_codes and grid.bits <= 8 and all(q.scale.shape[axis] == 1 for axis in axes)


def _coded(q: QTensor) -> Coded:
    scales = q.scales if q.tensor_scale is None else q.scales * q.tensor_scale
    grid = q.format.grid
    if isinstance(grid, IntFormat):
        return Coded(q.codes.astype(np.int8), scales * np.float32(grid.unit))
    carrier = carrier_of(grid)
    decoded = lambda q: q.elements.astype(carrier)  # noqa: E731
    if q.codes.dtype != float8_of(grid):
        return Coded(decoded(q), scales)
    # XLA drops a convert that a dot's operand is converted back from; decoding by bits it cannot.
    as_stored = lambda q: q.codes.astype(carrier)  # noqa: E731
    return Coded(lax.platform_dependent(q, cuda=as_stored, default=decoded), scales)
