"""Matrix ops with a format for every role, forward and backward.

The casts happen inside the op's own differentiation rule. So a parameter is saved for the
backward pass as it is stored, never as a second copy in the compute format, and the forward
product, the input gradient and the weight gradient each get formats of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array, lax
from jax.extend import core as jex_core

from precis.formats import FloatFormat, cast_to, wide_dtype


class MatrixOp(NamedTuple):
    """A bilinear primitive and its parameters: `dot_general` or `conv_general_dilated`."""

    primitive: jex_core.Primitive
    params: dict[str, Any]


class Operand(NamedTuple):
    """How one operand takes part.

    Attributes:
        format: What it is cast to before the product.
        grad: What its cotangent is rounded to; it is returned in the operand's own dtype.
        is_weight: Whether the backward pass keeps it as stored and casts it once more.
    """

    format: FloatFormat
    grad: FloatFormat
    is_weight: bool


class Roles(NamedTuple):
    """The formats of one matrix op.

    Attributes:
        lhs: First operand.
        rhs: Second operand.
        accum: What the product is rounded to when it leaves the accumulator.
        out: What the op hands over after that.
        grad: The output's cotangent as an operand of the backward products.
    """

    lhs: Operand
    rhs: Operand
    accum: FloatFormat
    out: FloatFormat
    grad: FloatFormat


def matrix_op(
    op: MatrixOp, lhs: Array, rhs: Array, *, roles: Roles, forward_mode: bool = False
) -> Array:
    """The product of `lhs` and `rhs` under `roles`, in `roles.out`'s carrier dtype.

    16-bit operands always accumulate in float32 (float64 operands in float64). Formats without
    a dtype are computed in float32 on rounded operands and rounded once at the output.

    Args:
        op: The primitive; its own precision and preferred type are replaced.
        lhs: Float array in any float dtype, shaped as the primitive wants.
        rhs: Likewise.
        roles: The formats.
        forward_mode: Leave out the custom rule, so that `jax.jvp` works. The gradients are then
            JAX's own, and `grad` in roles and operands has no effect.
    """

    def forward(lhs: Array, rhs: Array) -> tuple[Array, tuple[Array, Array]]:
        low = cast_to(lhs, roles.lhs.format), cast_to(rhs, roles.rhs.format)
        product = _product(op, *low)
        out = cast_to(cast_to(product, roles.accum), roles.out)
        saved = lhs if roles.lhs.is_weight else low[0], rhs if roles.rhs.is_weight else low[1]
        return out, saved

    if forward_mode:
        return forward(lhs, rhs)[0]
    dtypes = lhs.dtype, rhs.dtype

    def backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
        low = cast_to(saved[0], roles.lhs.format), cast_to(saved[1], roles.rhs.format)
        g = cast_to(cotangent, roles.grad)
        grads = []
        for side, operand in enumerate((roles.lhs, roles.rhs)):
            grad = cast_to(_transposed(op, side, low, g), roles.accum)
            grads.append(cast_to(grad, operand.grad).astype(dtypes[side]))
        return grads[0], grads[1]

    call = jax.custom_vjp(lambda lhs, rhs: forward(lhs, rhs)[0])
    call.defvjp(forward, backward)
    return call(lhs, rhs)


def _product(op: MatrixOp, lhs: Array, rhs: Array) -> Array:
    """The exact-input product in float32, or float64 if an operand is."""
    wide = wide_dtype(lhs.dtype, rhs.dtype)

    def widened(lhs: Array, rhs: Array) -> Array:
        return _bind(op, lhs.astype(wide), rhs.astype(wide), wide)

    if lhs.dtype != rhs.dtype or lhs.dtype == wide:
        return widened(lhs, rhs)
    # XLA's CPU backend crashes at run time on some layouts of bf16×bf16→f32, and has no fast
    # f16 product at all. Products of 16-bit operands are exact in float32, so widening first
    # gives the same numbers up to the order of summation.
    native = lambda lhs, rhs: _bind(op, lhs, rhs, wide)  # noqa: E731
    return lax.platform_dependent(lhs, rhs, cpu=widened, default=native)


def _bind(op: MatrixOp, lhs: Array, rhs: Array, accum: Any) -> Array:
    # Without HIGHEST, float32 means bfloat16 on TPU and TF32 on recent GPUs.
    is_wide = lhs.dtype == accum
    precision = (lax.Precision.HIGHEST,) * 2 if is_wide else None
    params = op.params | {"preferred_element_type": np.dtype(accum), "precision": precision}
    return op.primitive.bind(lhs, rhs, **params)


def _transposed(op: MatrixOp, side: int, operands: tuple[Array, Array], g: Array) -> Array:
    """The cotangent of operand `side`, given the output's, without any index algebra.

    JAX transposes the op at the accumulator's dtype; its matrix ops are then bound again with
    the operands as they are.
    """
    wide = wide_dtype(operands[0].dtype, operands[1].dtype)
    shapes = [jax.ShapeDtypeStruct(x.shape, wide) for x in (*operands, g)]
    other = operands[1 - side]

    def pull(g: Array, other: Array) -> Array:
        def push(operand: Array) -> Array:
            pair = (operand, other) if side == 0 else (other, operand)
            return _bind(op, *pair, wide)

        return jax.linear_transpose(push, shapes[side])(g)[0]

    jaxpr = jax.make_jaxpr(pull)(shapes[2], shapes[1 - side])
    return _evaluate(jaxpr, g, other)


def _evaluate(jaxpr: Any, *args: Array) -> Array:
    """Runs a straight-line jaxpr on arrays of other dtypes, its matrix ops as products."""
    env: dict[Any, Any] = dict(zip(jaxpr.jaxpr.invars, args, strict=True))
    read: Callable[[Any], Any] = lambda a: a.val if isinstance(a, jex_core.Literal) else env[a]  # noqa: E731
    for eqn in jaxpr.eqns:
        values = [read(atom) for atom in eqn.invars]
        if eqn.primitive.name in MATRIX_OPS:
            out = _product(MatrixOp(eqn.primitive, dict(eqn.params)), *values)
        else:
            out = eqn.primitive.bind(*values, **eqn.params)
        env[eqn.outvars[0]] = out
    return read(jaxpr.jaxpr.outvars[0])


MATRIX_OPS = frozenset({"dot_general", "conv_general_dilated"})
