"""The product of two operands as they are stored: exact inputs, a wide accumulator, real integers.

| operands | product |
|---|---|
| int8 codes × int8 codes | int8×int8→int32 |
| bf16 × bf16, f16 × f16 | the backend's own, summed in float32 |
| e4m3fn × e4m3fn, e4m3fn × e5m2 | float8 in dots on CUDA; elsewhere bf16, which holds them |
| anything else | widened to float32 (float64), which is exact |
"""

from __future__ import annotations

import functools
from math import prod
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend import core as jex_core

from precis.formats import Format, wide_dtype
from precis.ops.cpu import HAS_FAST_PRODUCTS, dot_on_cpu
from precis.ops.epilogue import scaled_result
from precis.ops.float8 import Float8, float8_product, in_float8
from precis.ops.operand import Coded, carrier_of, is_scaled

# Beyond so many products of two int8 codes, 128² each, an int32 may overflow.
_MOST_PRODUCTS = 131071


MATRIX_OPS = frozenset({"dot_general", "conv_general_dilated", "ragged_dot_general"})


class MatrixOp(NamedTuple):
    """A bilinear primitive, its parameters, and what else it takes.

    Attributes:
        primitive: `dot_general`, `conv_general_dilated` or `ragged_dot_general`.
        params: As the equation has them.
        group_sizes: [groups] integers, the third operand of a ragged dot; None for the others.
        is_tf32: Whether its operands have no more bits than TF32, so that a GPU may use it.
    """

    primitive: jex_core.Primitive
    params: dict[str, Any]
    group_sizes: Array | None = None
    is_tf32: bool = False

    @property
    def is_dot(self) -> bool:
        """Whether it is a `dot_general`."""
        return self.primitive.name == "dot_general"


class Dtypes(NamedTuple):
    """What a product multiplies and what it sums in."""

    lhs: np.dtype
    rhs: np.dtype
    accum: np.dtype


def product_dtypes(lhs: Format, rhs: Format, *, has_float8: bool = False) -> Dtypes:
    """The dtypes of the product of operands in these formats, on a backend that has them all.

    Args:
        lhs: Format of the first operand.
        rhs: Of the second.
        has_float8: Whether float8 is among them, as it is for dots on CUDA.
    """
    if has_float8 and (pair := float8_product(lhs, rhs)):
        return Dtypes(*pair, np.dtype(np.float32))
    return _dtypes(carrier_of(lhs), carrier_of(rhs))


def backward_dtypes(grad: Format, other: Format, *, has_float8: bool = False) -> Dtypes:
    """Likewise of a product of the backward pass: a cotangent in `grad`, and an operand.

    A scaled operand is brought onto its grid anew only if the cotangent is scaled as well; else
    it comes as the forward product had it, with its scales multiplied in, in float32.
    """
    if is_scaled(other) and not is_scaled(grad):
        return _dtypes(carrier_of(grad), np.dtype(np.float32))
    return product_dtypes(grad, other, has_float8=has_float8)


def _dtypes(lhs: np.dtype, rhs: np.dtype) -> Dtypes:
    left, right = _met(lhs, rhs)
    if left == right == np.int8:
        return Dtypes(left, right, np.dtype(np.int32))
    wide = wide_dtype(left, right)
    return Dtypes(left, right, wide) if left == right else Dtypes(wide, wide, wide)


def product(
    op: MatrixOp,
    lhs: Array | Coded,
    rhs: Array | Coded,
    *,
    formats: tuple[Format | None, Format | None] = (None, None),
) -> Array:
    """What `op` makes of its operands, scales applied to the result, once.

    Args:
        op: The primitive; its own precision and preferred type are replaced.
        lhs: [...] floats, or codes with scales.
        rhs: Likewise.
        formats: What the operands were brought to, where that is known: bfloat16 alone does not
            tell what fits in float8.

    Returns:
        [...] float32, or float64 if an operand is.
    """
    left, right = (x.codes if isinstance(x, Coded) else x for x in (lhs, rhs))
    out = _multiply(op, left, right, float8_product(*formats))
    for side, operand in enumerate((lhs, rhs)):
        if isinstance(operand, Coded):
            out = scaled_result(op.primitive.name, op.params, out, operand.scales, side)
    return out


def bind(
    op: MatrixOp,
    lhs: Array,
    rhs: Array,
    accum: Any,
    wide: lax.Precision | None = lax.Precision.HIGHEST,
) -> Array:
    """`op` itself, summed in `accum`; operands of that dtype, or float8, in precision `wide`."""
    # Without HIGHEST, float32 means bfloat16 on TPU and TF32 on recent GPUs, and sums of float8
    # keep about 14 bits on Hopper (`float8`).
    is_asked = lhs.dtype == accum or lhs.dtype.itemsize == 1
    precision = (wide,) * 2 if wide is not None and is_asked else None
    params = op.params | {"preferred_element_type": np.dtype(accum), "precision": precision}
    others = () if op.group_sizes is None else (op.group_sizes,)
    return op.primitive.bind(lhs, rhs, *others, **params)


def _multiply(op: MatrixOp, lhs: Array, rhs: Array, float8: Float8 | None = None) -> Array:
    left, right = _met(lhs.dtype, rhs.dtype)
    is_carried = op.is_dot and lhs.dtype == rhs.dtype == jnp.bfloat16
    lhs, rhs = lhs.astype(left), rhs.astype(right)
    if left == right == np.int8:
        return _integers(op, lhs, rhs)
    wide = wide_dtype(left, right)

    def widened(lhs: Array, rhs: Array) -> Array:
        return bind(op, lhs.astype(wide), rhs.astype(wide), wide)

    def on_cpu(lhs: Array, rhs: Array) -> Array:
        if lhs.dtype == jnp.bfloat16 and op.is_dot and HAS_FAST_PRODUCTS:
            return dot_on_cpu(lhs, rhs, op.params["dimension_numbers"], wide)
        # Products of 16-bit operands are exact in float32.
        return widened(lhs, rhs)

    if op.is_tf32 and wide == np.float32 and np.float32 in (left, right):
        # The default precision is TF32 on GPUs that have it, and float32 on others.
        default = lambda lhs, rhs: bind(op, lhs.astype(wide), rhs.astype(wide), wide, None)  # noqa: E731
        return lax.platform_dependent(lhs, rhs, cuda=default, default=widened)
    if lhs.dtype != rhs.dtype or lhs.dtype == wide:
        return widened(lhs, rhs)
    native = lambda lhs, rhs: bind(op, lhs, rhs, wide)  # noqa: E731
    on_cuda = {"cuda": in_float8(native, float8)} if float8 is not None and is_carried else {}
    return lax.platform_dependent(lhs, rhs, cpu=on_cpu, **on_cuda, default=native)


def _met(lhs: np.dtype, rhs: np.dtype) -> tuple[np.dtype, np.dtype]:
    """Integer codes that meet bfloat16 become it, which holds them."""
    if {lhs, rhs} == {np.dtype(np.int8), np.dtype(jnp.bfloat16)}:
        return np.dtype(jnp.bfloat16), np.dtype(jnp.bfloat16)
    return lhs, rhs


def _integers(op: MatrixOp, lhs: Array, rhs: Array) -> Array:
    """float32: sums of products of int8 codes, exact in int32."""
    if not op.is_dot:
        return _integer_convolution(op, lhs, rhs)
    summed = op.params["dimension_numbers"][0]
    if prod(lhs.shape[axis] for axis in summed[0]) > _MOST_PRODUCTS:
        return _in_parts(op, lhs, rhs)

    def on_cpu(lhs: Array, rhs: Array) -> Array:
        if HAS_FAST_PRODUCTS:
            return dot_on_cpu(lhs, rhs, op.params["dimension_numbers"], np.int32)
        return native(lhs, rhs)

    def native(lhs: Array, rhs: Array) -> Array:
        params = op.params | {"preferred_element_type": np.dtype(np.int32), "precision": None}
        return op.primitive.bind(lhs, rhs, **params)

    return lax.platform_dependent(lhs, rhs, cpu=on_cpu, default=native).astype(np.float32)


def _in_parts(op: MatrixOp, lhs: Array, rhs: Array) -> Array:
    """A dot too long for an int32: cut along its longest summed axis, parts added in float32."""
    left, right = op.params["dimension_numbers"][0]
    longest = max(range(len(left)), key=lambda i: lhs.shape[left[i]])
    length = lhs.shape[left[longest]]
    others = prod(lhs.shape[axis] for axis in left) // length
    step = max(_MOST_PRODUCTS // others, 1)

    def part(x: Array, axis: int, start: int) -> Array:
        return lax.slice_in_dim(x, start, min(start + step, length), axis=axis)

    starts = range(0, length, step)
    pairs = ((part(lhs, left[longest], i), part(rhs, right[longest], i)) for i in starts)
    return functools.reduce(jnp.add, (_integers(op, *pair) for pair in pairs))


def _integer_convolution(op: MatrixOp, lhs: Array, rhs: Array) -> Array:
    """Integers on CPU where that is fast; elsewhere in floats that hold the codes.

    Sums beyond 2^24 are then rounded, as in any float32 accumulator.
    """
    is_dilated = any(step != 1 for step in op.params["lhs_dilation"])

    def on_cpu(lhs: Array, rhs: Array) -> Array:
        if HAS_FAST_PRODUCTS and not is_dilated and _window(op, rhs) <= _MOST_PRODUCTS:
            params = op.params | {"preferred_element_type": np.dtype(np.int32), "precision": None}
            return op.primitive.bind(lhs, rhs, **params).astype(np.float32)
        return bind(op, lhs.astype(np.float32), rhs.astype(np.float32), np.float32)

    def in_floats(lhs: Array, rhs: Array) -> Array:
        return bind(op, lhs.astype(jnp.bfloat16), rhs.astype(jnp.bfloat16), np.float32)

    return lax.platform_dependent(lhs, rhs, cpu=on_cpu, default=in_floats)


def _window(op: MatrixOp, kernel: Array) -> int:
    """How many products a convolution sums for one of its results."""
    outputs = op.params["dimension_numbers"].rhs_spec[0]
    return kernel.size // max(kernel.shape[outputs], 1)
