"""An array quantized a piece at a time, for one that is read from elsewhere and may be large."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from precis.formats import Format
from precis.quant.calibration import Calibration, Mse, read_calibration
from precis.quant.leaf import quantize_array
from precis.quant.qtensor import QTensor

Fill: TypeAlias = Callable[[np.ndarray, int, int], None]
"""`fill(out, axis, start)`: reads into `out` what an array has along an axis from `start` on, in
as many entries as `out` has there."""

# Floats that are in memory at a time: 4 MiB of float32. XLA widens a copy of 16-bit ones, and
# fewer are slower where what is read of a row is short.
_AT_ONCE = 1 << 20


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
    fill: Fill,
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
        fill: Reads a piece of it, into the same memory every time.
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
    if x.dtype == np.float64:  # which tracing without x64 would not see
        raise TypeError("float32, float16 or bfloat16 is quantized, got float64: cast it first")

    def one(piece: Any) -> QTensor:
        return quantize_array(piece, fmt, axis=axis, calibrate=how)

    if not math.prod(x.shape):  # nothing is read, but it has scales
        return jax.tree.map(np.asarray, one(jax.device_put(np.zeros(x.shape, x.dtype))))
    whole = jax.eval_shape(one, x)
    out: QTensor = jax.tree.map(lambda part: np.empty(part.shape, part.dtype), whole)
    split = None if isinstance(how, Mse) else split_of(whole)
    at, step = _steps(x.shape, split, at_once)
    length = x.shape[at] if x.shape else 1
    others = math.prod(x.shape) // max(length, 1)
    memory = _memory(others * step * np.dtype(x.dtype).itemsize)
    for start in range(0, length, step):
        size = min(step, length - start)
        shape = [*x.shape[:at], size, *x.shape[at + 1 :]] if x.shape else []
        piece = np.frombuffer(memory, x.dtype, others * size).reshape(shape)
        fill(piece, at, start)
        # On a CPU nothing is copied: jax reads where the next piece will be.
        made = jax.block_until_ready(one(jax.device_put(piece)))
        _put(out, made, at, start)
        del made
    return out


def _memory(size: int) -> Any:
    """Pages that go back to the system at once, and begin where jax' arrays may."""
    return mmap.mmap(-1, max(size, 1))


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


def _steps(shape: tuple[int, ...], split: Split | None, at_once: int) -> tuple[int, int]:
    """Along which axis to go, and so many entries at a time.

    Equal pieces, which are compiled once, if there are such of at least half of what is asked for.
    """
    if split is None:
        return 0, max(shape[0] if shape else 1, 1)
    length = shape[split.axis]
    most = max(at_once * length // max(math.prod(shape) * split.unit, 1), 1)
    units = -(-length // split.unit)
    if length % split.unit == 0:
        best = max(n for n in range(1, min(most, units) + 1) if units % n == 0)
        most = best if best * 2 > most else most
    return split.axis, split.unit * most


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
        if whole is not None and whole.ndim:
            index = [slice(None)] * whole.ndim
            index[axis] = slice(first, first + part.shape[axis])
            whole[tuple(index)] = np.asarray(part)
        elif whole is not None:
            whole[...] = np.asarray(part)
