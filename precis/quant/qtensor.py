"""`QTensor`: an array in few bits, and what can be done with it as it is."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from precis.formats import Blocks, ScaledFormat, cast_to, from_blocks
from precis.quant import layout
from precis.quant.storage import codes_of, elements_of
from precis.tree import nbytes


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["values", "scale", "zero_point", "tensor_scale"],
    meta_fields=["format", "axes", "packed", "dtype"],
)
@dataclass(frozen=True, slots=True)
class QTensor:
    """An array as codes of a grid and scales; a pytree node.

    With `element(c)` the number that code c stands for, and S, Z, T the scale, zero point and
    tensor scale of the group that an entry belongs to:

        dequantize(q)[i] = (element(codes[i]) - Z) · S · T        (float32, then `q.dtype`)

    Z is 0 and T is 1 where there is none. Groups run along `axes`: all of them together, or so
    many neighbors along the only one if the format has blocks. A scale of NaN marks a group that
    held a NaN or an Inf.

    The algebra, bit for bit, where d is `dequantize`:

        d(q.transpose(p)) == d(q).transpose(p)        d(q[i]) == d(q)[i]
        d(q.reshape(s)) == d(q).reshape(s)            d(q.take(rows, a)) == take(d(q), rows, a)

    What would part a group or a byte raises an error instead: `dequantize` first. All axes are
    counted from the end and every array has all leading axes, so that `scan`, `vmap` and
    `tree.map(lambda x: x[i], q)` over an axis in front of the groups give QTensors of what
    remains.

    Attributes:
        values: The codes: int8 for int8, fp8 for OCP's fp8, otherwise bit codes in unsigned
            integers, several to a uint8 along `packed` if they have fewer than 8 bits.
        scale: One for each group: shaped as the array, but with 1 along `axes`, or with the
            number of blocks. float32, or stored as codes of the format's scales.
        zero_point: Integers in the shape of `scale`; None if the grid's 0 is 0.
        tensor_scale: float32 that multiplies all scales of a tensor, 1 along its axes, or None.
        format: The scaled format.
        axes: What groups run along, counted from the end.
        packed: The axis along which codes share bytes, from the end, and how many there are.
        dtype: Floating dtype of the array that it stands for.
    """

    values: Array
    scale: Array
    zero_point: Array | None
    tensor_scale: Array | None
    format: ScaledFormat
    axes: tuple[int, ...]
    packed: tuple[int, int] | None
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array that it stands for."""
        shape = list(self.values.shape)
        if self.packed is not None:
            shape[self.packed[0]] = self.packed[1]
        return tuple(shape)

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self.values.shape)

    @property
    def size(self) -> int:
        """How many numbers it stands for."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that codes and scales take."""
        return nbytes(self)

    @property
    def codes(self) -> Array:
        """[...] one code for each number: signed integers as such, others as in `values`."""
        return codes_of(self.values, self.format.grid, self.packed)

    @property
    def elements(self) -> Array:
        """[...] float32: the number that each code stands for, before zero point and scales."""
        return elements_of(self.codes, self.format.grid)

    @property
    def scales(self) -> Array:
        """`scale` in float32, without the tensor's."""
        return (
            self.scale if self.format.scale is None else elements_of(self.scale, self.format.scale)
        )

    @property
    def static_facts(self) -> dict[str, Any]:
        """What it takes to read the arrays, as JSON; a checkpoint compares it."""
        return {
            "format": str(self.format),
            "axes": list(self.axes),
            "packed": None if self.packed is None else list(self.packed),
            "dtype": str(self.dtype),
        }

    @property
    def T(self) -> QTensor:  # noqa: N802
        """All axes in reverse."""
        return self.transpose()

    def transpose(self, *axes: int | Sequence[int]) -> QTensor:
        """The axes in another order, as NumPy's."""
        return layout.transpose(self, *axes)

    def reshape(self, *shape: int | Sequence[int]) -> QTensor:
        """Another shape, where no group and no byte is parted.

        Axes that are merged or split are either all in front of and behind the groups, or all
        axes that groups run along; blocks and packed axes stay as they are.

        Raises:
            ValueError: It is not so, or the sizes do not match.
        """
        return layout.reshape(self, *shape)

    def __getitem__(self, index: Any) -> QTensor:
        """Entries by integers and slices; along blocks only whole blocks, along bytes all.

        Raises:
            ValueError: A block or a byte would be parted.
            TypeError: An index of another kind; `take` gathers.
        """
        return layout.index(self, index)

    def take(self, indices: Array, axis: int) -> QTensor:
        """Rows by an integer array, such as those of an embedding.

        The axes of `indices` replace `axis`. As from `jnp.take`, what is beyond the end is NaN.

        Raises:
            ValueError: `axis` is one that groups or bytes run along.
        """
        return layout.take(self, indices, axis)

    def __jax_array__(self) -> NoReturn:
        raise TypeError(_not_an_array(self))

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(_not_an_array(self))


def _not_an_array(q: QTensor) -> str:
    return (
        f"a QTensor ({q.format}, {q.dtype}{list(q.shape)}) is not an array: dequantize(q) makes "
        "it one"
    )


@jax.jit
def dequantize_array(q: QTensor) -> Array:
    """[...] of `q.dtype`: the array that `q` stands for.

    Products are taken in float32, from left to right, and rounded to `q.dtype` once. With scales
    that are powers of two they are exact, subnormals included. A group that held a NaN or an Inf
    is NaN.
    """
    elements = q.elements
    if q.zero_point is not None:
        elements = elements - layout.spread(q.zero_point.astype(np.float32), q)
    wide = from_blocks(Blocks(elements, q.scales, None, q.format, q.axes))
    wide = wide if q.tensor_scale is None else wide * q.tensor_scale
    return cast_to(wide, jnp.dtype(q.dtype).name)
