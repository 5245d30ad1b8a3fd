"""An array quantized a piece at a time, for one that is read from elsewhere and may be large."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from precis.formats import Format
from precis.quant.calibration import Calibration, Mse, read_calibration
from precis.quant.leaf import quantize_array
from precis.quant.qtensor import QTensor

Read: TypeAlias = Callable[[int, int, int], Any]
"""`read(axis, start, stop)`: entries start … stop of an array along an axis, from the front."""

# Floats that are in memory at a time: 16 MiB of float32, which two cores have in their caches.
_AT_ONCE = 1 << 22


class Split(NamedTuple):
    """How an array can be parted so that no group and no byte is.

    Attributes:
        axis: Along which axis, from the front.
        unit: In multiples of how many entries.
    """

    axis: int
    unit: int


def quantize_pieces(
    x: jax.ShapeDtypeStruct,
    read: Read,
    fmt: Format | str,
    *,
    axis: int | Sequence[int] | None = None,
    calibrate: Calibration | str = "absmax",
    at_once: int = _AT_ONCE,
) -> QTensor:
    """What `quantize_array` makes of an array, bit for bit, of which only pieces are in memory.

    It is parted where no group is; one that has no such place, as under `@tensor`, is read whole.
    So it is for `calibrate="mse"`, whose sums depend on how they are parted.

    Args:
        x: Shape and dtype of the array.
        read: Reads a piece of it.
        fmt: As of `quantize_array`; not stochastic.
        axis: Likewise.
        calibrate: Likewise.
        at_once: About how many entries are read at a time.

    Returns:
        A `QTensor` whose arrays are NumPy's.

    Raises:
        TypeError: As `quantize_array`.
        ValueError: Likewise.
    """
    how = read_calibration(calibrate)

    def one(piece: Any) -> QTensor:
        return quantize_array(piece, fmt, axis=axis, calibrate=how)

    whole = jax.eval_shape(one, x)
    split = None if isinstance(how, Mse) else split_of(whole)
    size = math.prod(x.shape)
    if split is None or size <= at_once:
        return jax.device_get(one(jnp.asarray(read(0, 0, x.shape[0] if x.shape else 1))))
    out: QTensor = jax.tree.map(lambda part: np.empty(part.shape, part.dtype), whole)
    length = x.shape[split.axis]
    step = _step(length, split.unit, size // length, at_once)
    for start in range(0, length, step):
        stop = min(start + step, length)
        piece = one(jnp.asarray(read(split.axis, start, stop)))
        _put(out, piece, split.axis, start)
        del piece
    return out


def split_of(q: QTensor) -> Split | None:
    """Where the array that `q` stands for can be parted; the first axis that can be, or none."""
    for at, length in enumerate(q.shape):
        axis = at - q.ndim
        is_scaled = q.tensor_scale is None or q.tensor_scale.shape[at] == length
        unit = 1
        if axis in q.axes:
            unit = q.format.block or length
        if q.packed is not None and q.packed[0] == axis:
            unit = math.lcm(unit, 8)
        if is_scaled and unit < length:
            return Split(at, unit)
    return None


def _step(length: int, unit: int, others: int, at_once: int) -> int:
    """Entries along an axis to take at a time: equal pieces if there are such, compiled once."""
    most = max(at_once // max(others * unit, 1), 1)
    units = -(-length // unit)
    if length % unit == 0:
        best = max(n for n in range(1, most + 1) if units % n == 0)
        most = best if best * 2 > most else most
    return unit * most


def _put(out: QTensor, piece: QTensor, axis: int, start: int) -> None:
    """Writes the arrays of a piece, which begins at entry `start`, where they belong."""
    is_packed = out.packed is not None and out.packed[0] + out.ndim == axis
    codes = start * out.format.grid.bits // 8 if is_packed else start
    is_grouped = axis - out.ndim in out.axes
    groups = start // (out.format.block or 1) if is_grouped else start
    for name, first in (
        ("values", codes),
        ("scale", groups),
        ("zero_point", groups),
        ("tensor_scale", start),
    ):
        whole, part = getattr(out, name), getattr(piece, name)
        if whole is not None:
            index = [slice(None)] * whole.ndim
            index[axis] = slice(first, first + part.shape[axis])
            whole[tuple(index)] = np.asarray(part)
