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

from typing import Any, NamedTuple

import jax
from jax import Array

from precis.formats import FloatFormat, Format, cast_to
from precis.ops.cotangents import Tagged, bring_coded_for, bring_for, cotangent_of
from precis.ops.operand import Coded, is_scaled
from precis.ops.product import MatrixOp, product


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
        low = bring_for(op, lhs, roles.lhs.format, 0), bring_for(op, rhs, roles.rhs.format, 1)
        return handed_over(product(op, *low))

    def forward(
        lhs: Array, rhs: Array, sizes: Array | None
    ) -> tuple[Array, tuple[Array | Coded | None, ...]]:
        own = op._replace(group_sizes=sizes)
        formats = roles.lhs.format, roles.rhs.format
        low = [bring_coded_for(own, x, formats[i], i) for i, x in enumerate((lhs, rhs))]
        saved = [x if keep else y for x, y, keep in zip((lhs, rhs), low, keeps, strict=True)]
        return handed_over(product(own, *low)), (*saved, sizes)

    dtypes = lhs.dtype, rhs.dtype

    def backward(saved: tuple[Any, ...], cotangent: Array) -> tuple[Array, Array, None]:
        own = op._replace(group_sizes=saved[2])

        def tagged(x: Array, fmt: Format, side: int) -> Tagged:
            waits = anew and is_scaled(fmt)
            return Tagged(x, fmt) if waits else Tagged(bring_for(own, x, fmt, side), None)

        operands = [tagged(saved[0], roles.lhs.format, 0), tagged(saved[1], roles.rhs.format, 1)]
        g = tagged(cotangent, roles.grad, 0)
        grads = []
        for side, operand in enumerate((roles.lhs, roles.rhs)):
            grad = cast_to(cotangent_of(own, side, operands, g), roles.accum)
            grads.append(cast_to(grad, operand.grad).astype(dtypes[side]))
        return grads[0], grads[1], None

    call = jax.custom_vjp(lambda lhs, rhs, sizes: forward(lhs, rhs, sizes)[0])
    call.defvjp(forward, backward)
    return call(lhs, rhs, op.group_sizes)
