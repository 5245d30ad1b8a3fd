"""Matrix ops with a format for every role, forward and backward.

The casts happen inside the op's own differentiation rule. So a parameter is saved for the
backward pass as it is stored, never as a second copy in the compute format, and the forward
product, the input gradient and the weight gradient each get formats of their own.

A scaled format has its groups along what a product sums over. The backward products sum over
other axes, so what runs on a scaled grid there is brought onto it anew, from unrounded values.
Where the cotangent's format is not scaled, they take the operands as the forward product had
them: the gradient is then that of the product of rounded operands, straight through the rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax import Array
from jax.extend import core as jex_core

from precis.formats import FloatFormat, Format, cast_to, wide_dtype
from precis.ops.operand import Coded, bring, bring_coded, is_scaled, summed_axes
from precis.ops.product import MatrixOp, bind, product


class Operand(NamedTuple):
    """How one operand takes part.

    Attributes:
        format: What it is cast to before the product.
        grad: What its cotangent is rounded to; it is returned in the operand's own dtype.
        is_weight: Whether the backward pass keeps it as stored and casts it once more.
    """

    format: Format
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
    grad: Format


def matrix_op(
    op: MatrixOp, lhs: Array, rhs: Array, *, roles: Roles, forward_mode: bool = False
) -> Array:
    """The product of `lhs` and `rhs` under `roles`, in `roles.out`'s carrier dtype.

    Integers are multiplied as integers, 16-bit operands summed in float32 (float64 operands in
    float64). Formats without a dtype take the product of the narrowest dtype that holds them, on
    rounded operands, and are rounded once at the output. One scale for all that is summed is
    applied to the sum.

    Args:
        op: The primitive; its own precision and preferred type are replaced.
        lhs: Float array in any float dtype, shaped as the primitive wants.
        rhs: Likewise.
        roles: The formats.
        forward_mode: Leave out the custom rule, so that `jax.jvp` works. The gradients are then
            JAX's own, and `grad` in roles and operands has no effect.
    """
    anew = is_scaled(roles.grad)
    keeps = [o.is_weight or is_scaled(o.format) for o in (roles.lhs, roles.rhs)]

    def handed_over(out: Array) -> Array:
        return cast_to(cast_to(out, roles.accum), roles.out)

    if forward_mode:
        low = _bring(op, lhs, roles.lhs.format, 0), _bring(op, rhs, roles.rhs.format, 1)
        return handed_over(product(op, *low))

    def forward(lhs: Array, rhs: Array) -> tuple[Array, tuple[Array | Coded, ...]]:
        formats = roles.lhs.format, roles.rhs.format
        low = [_bring_coded(op, x, formats[i], i) for i, x in enumerate((lhs, rhs))]
        saved = [x if keep else y for x, y, keep in zip((lhs, rhs), low, keeps, strict=True)]
        return handed_over(product(op, *low)), tuple(saved)

    dtypes = lhs.dtype, rhs.dtype

    def backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
        def tagged(x: Array, fmt: Format, side: int) -> _Tagged:
            waits = anew and is_scaled(fmt)
            return _Tagged(x, fmt) if waits else _Tagged(_bring(op, x, fmt, side), None)

        operands = [tagged(saved[0], roles.lhs.format, 0), tagged(saved[1], roles.rhs.format, 1)]
        g = tagged(cotangent, roles.grad, 0)
        grads = []
        for side, operand in enumerate((roles.lhs, roles.rhs)):
            grad = cast_to(_transposed(op, side, operands, g), roles.accum)
            grads.append(cast_to(grad, operand.grad).astype(dtypes[side]))
        return grads[0], grads[1]

    call = jax.custom_vjp(lambda lhs, rhs: forward(lhs, rhs)[0])
    call.defvjp(forward, backward)
    return call(lhs, rhs)


class _Tagged(NamedTuple):
    """An array, and the scaled format that it is still to be brought to, if any."""

    array: Array
    format: Format | None


def _bring(op: MatrixOp, x: Array, fmt: Format, side: int) -> Array:
    return bring(x, fmt, summed_axes(op.primitive.name, op.params, x.ndim, side))


def _bring_coded(op: MatrixOp, x: Array, fmt: Format, side: int) -> Array | Coded:
    return bring_coded(x, fmt, summed_axes(op.primitive.name, op.params, x.ndim, side))


def _transposed(op: MatrixOp, side: int, operands: Sequence[_Tagged], g: _Tagged) -> Array:
    """The cotangent of operand `side`, given the output's, without any index algebra.

    JAX transposes the op at the accumulator's dtype; its matrix ops are then bound again with
    the operands as they are.
    """
    arrays = [*(operand.array for operand in operands), g.array]
    wide = wide_dtype(*(x.dtype for x in arrays[:2]))
    shapes = [jax.ShapeDtypeStruct(x.shape, wide) for x in arrays]

    def pull(g: Array, other: Array) -> Array:
        def push(operand: Array) -> Array:
            pair = (operand, other) if side == 0 else (other, operand)
            return bind(op, *pair, wide)

        return jax.linear_transpose(push, shapes[side])(g)[0]

    jaxpr = jax.make_jaxpr(pull)(shapes[2], shapes[1 - side])
    return _evaluate(jaxpr, g, operands[1 - side])


def _evaluate(jaxpr: Any, *args: _Tagged) -> Array:
    """Runs a straight-line jaxpr on arrays of other dtypes, its matrix ops as products.

    Layout ops pass on what an array is still to be brought to, up to the product that sums it.
    """
    env: dict[Any, _Tagged] = dict(zip(jaxpr.jaxpr.invars, args, strict=True))

    def read(atom: Any) -> _Tagged:
        return _Tagged(atom.val, None) if isinstance(atom, jex_core.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        values = [read(atom) for atom in eqn.invars]
        if eqn.primitive.name in MATRIX_OPS:
            op = MatrixOp(eqn.primitive, dict(eqn.params))
            brought = (
                x if fmt is None else _bring_coded(op, x, fmt, side)
                for side, (x, fmt) in enumerate(values)
            )
            out = _Tagged(product(op, *brought), None)
        else:
            arrays = [value.array for value in values]
            out = _Tagged(eqn.primitive.bind(*arrays, **eqn.params), values[0].format)
        env[eqn.outvars[0]] = out
    return read(jaxpr.jaxpr.outvars[0]).array


MATRIX_OPS = frozenset({"dot_general", "conv_general_dilated"})
