"""`Kernel`: a quantized weight, and what its matrix op has to know of the inputs that it meets."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn, TypeAlias, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from precis.formats import cast_to
from precis.quant.qtensor import QTensor, dequantize_array
from precis.tree import nbytes

OUTLIER_THRESHOLD = 6.0
"""From where on a column of inputs is an outlier. Source: LLM.int8(), arXiv:2208.07339."""


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["weight", "input_amax", "smoothing", "tangent"],
    meta_fields=["outliers", "threshold"],
)
@dataclass(frozen=True, slots=True)
class Kernel:
    """A weight in few bits with facts about its inputs; a pytree node, used like a `QTensor`.

    It stands for `dequantize(weight) / smoothing + tangent`. Its arrays have all the weight's axes,
    with 1 where they do not vary, so that `scan`, `vmap` and the algebra of `QTensor` carry them
    along.

    Attributes:
        weight: The codes and scales.
        input_amax: float32, 1 along the axes of one matrix: the largest magnitude that inputs
            were seen to have, once divided by `smoothing`. They are brought to int8 by it, larger
            ones saturate. None scales each row of inputs by its own, or whatever the policy says.
        smoothing: float32, as the weight but 1 along its outputs: what columns of inputs are
            divided by, and rows of the weight were multiplied by before they were quantized
            (SmoothQuant, arXiv:2211.10438). None is 1.
        outliers: How many columns of inputs, at most, are multiplied in float: those with the
            largest magnitudes, if these are above `threshold` (LLM.int8()).
        threshold: From which magnitude on.
        tangent: float32 zeros in the weight's shape, to differentiate by: the gradient with
            respect to them is that with respect to the weight, straight through its rounding.
            Nobody reads them, so that a compiled program has none. None is for a weight that
            stays as it is.
    """

    weight: QTensor
    input_amax: Array | None = None
    smoothing: Array | None = None
    outliers: int = 0
    threshold: float = OUTLIER_THRESHOLD
    tangent: Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array that it stands for."""
        return self.weight.shape

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return self.weight.ndim

    @property
    def dtype(self) -> np.dtype:
        """Floating dtype of the array that it stands for."""
        return self.weight.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of all its arrays."""
        return nbytes(self)

    @property
    def static_facts(self) -> dict[str, Any]:
        """What it takes to read the arrays, as JSON; a checkpoint compares it."""
        own = {"outliers": self.outliers, "threshold": self.threshold}
        return {**self.weight.static_facts, **own}

    def transpose(self, *axes: int | Sequence[int]) -> Kernel:
        """The axes in another order, as `QTensor.transpose`."""
        return self._each(operator.methodcaller("transpose", *axes))

    def reshape(self, *shape: int | Sequence[int]) -> Kernel:
        """Another shape, as `QTensor.reshape`."""
        return self._each(operator.methodcaller("reshape", *shape))

    def __getitem__(self, index: Any) -> Kernel:
        """Entries by integers and slices, as of a `QTensor`."""
        return self._each(operator.itemgetter(index))

    def take(self, indices: Array, axis: int) -> Kernel:
        """Rows by an integer array, as `QTensor.take`."""
        return self._each(operator.methodcaller("take", indices, axis))

    def _each(self, fn: Callable[[Any], Any]) -> Kernel:
        def along(x: Array | None) -> Array | None:
            # It has the axes of a zero point, and goes where one would go.
            return x if x is None else fn(replace(self.weight, zero_point=x)).zero_point

        return replace(
            self,
            weight=fn(self.weight),
            input_amax=along(self.input_amax),
            smoothing=along(self.smoothing),
            tangent=self.tangent if self.tangent is None else fn(self.tangent),
        )

    def __jax_array__(self) -> NoReturn:
        raise TypeError("a Kernel is not an array: dequantize(kernel) makes it one")

    __array__ = __jax_array__


Stored: TypeAlias = QTensor | Kernel


def is_stored(x: Any) -> TypeGuard[Stored]:
    """Whether `x` is a weight in few bits: a `QTensor` or a `Kernel`."""
    return isinstance(x, QTensor | Kernel)


def as_kernel(x: Stored) -> Kernel:
    """`x`, or a bare `QTensor` as a kernel about whose inputs nothing is known."""
    return x if isinstance(x, Kernel) else Kernel(x)


def recast(x: Stored, dtype: Any) -> Stored:
    """`x` standing for an array of another floating dtype; codes and scales stay as they are."""
    if isinstance(x, Kernel):
        return replace(x, weight=replace(x.weight, dtype=np.dtype(dtype)))
    return replace(x, dtype=np.dtype(dtype))


def open_stored(x: Stored) -> Array:
    """[...] of `x.dtype`: the array that `x` stands for."""
    if isinstance(x, QTensor):
        return dequantize_array(x)
    if x.tangent is not None:
        return _straight_through(replace(x, tangent=None), x.tangent)
    if x.smoothing is None:
        return dequantize_array(x.weight)
    wide = dequantize_array(replace(x.weight, dtype=np.dtype(np.float32)))
    return cast_to(wide / x.smoothing, jnp.dtype(x.dtype).name)


@jax.custom_vjp
def _straight_through(x: Kernel, tangent: Array) -> Array:
    """The array that `x` stands for; its cotangent is the tangent's."""
    del tangent
    return open_stored(x)


_straight_through.defvjp(
    lambda x, tangent: (open_stored(x), None), lambda _, g: (None, g.astype(np.float32))
)
