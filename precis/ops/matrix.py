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

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.extend import core as jex_core

from precis.formats import TF32, FloatFormat, Format, cast_to
from precis.ops.cotangents import Tagged, bring_coded_for, bring_for, cotangent_of
from precis.ops.operand import is_scaled
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

    @property
    def is_tf32(self) -> bool:
        """Whether no operand has more bits than TF32, so that a GPU may multiply in that."""
        formats = (self.lhs.format, self.rhs.format, self.grad)
        return all(isinstance(fmt, FloatFormat) and fmt.fits_in(TF32) for fmt in formats)


class _Saved(NamedTuple):
    """What the backward pass needs: parameters as stored, the rest as it was multiplied."""

    lhs: Any
    rhs: Any
    sizes: Array | None


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
    dtypes = lhs.dtype, rhs.dtype
    key = _Key(op.primitive, tuple(sorted(op.params.items())), roles, dtypes)
    run = _plain_once if forward_mode else _product_once
    return run(lhs, rhs, op.group_sizes, key)


class _Key(NamedTuple):
    """What a product is but for its arrays: those of equal layers are traced once."""

    primitive: jex_core.Primitive
    params: tuple[tuple[str, Any], ...]
    roles: Roles
    dtypes: tuple[np.dtype, np.dtype]

    def op(self, sizes: Array | None) -> MatrixOp:
        return MatrixOp(self.primitive, dict(self.params), sizes, self.roles.is_tf32)

    def handed_over(self, out: Array) -> Array:
        return cast_to(cast_to(out, self.roles.accum), self.roles.out)


def _plain(lhs: Array, rhs: Array, sizes: Array | None, key: _Key) -> Array:
    op, roles = key.op(sizes), key.roles
    low = bring_for(op, lhs, roles.lhs.format, 0), bring_for(op, rhs, roles.rhs.format, 1)
    return key.handed_over(product(op, *low))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _product(lhs: Array, rhs: Array, sizes: Array | None, key: _Key) -> Array:
    return _forward(lhs, rhs, sizes, key)[0]


def _forward(lhs: Array, rhs: Array, sizes: Array | None, key: _Key) -> tuple[Array, _Saved]:
    op, formats = key.op(sizes), (key.roles.lhs.format, key.roles.rhs.format)
    low = [bring_coded_for(op, x, formats[i], i) for i, x in enumerate((lhs, rhs))]
    keeps = [o.is_weight or is_scaled(o.format) for o in (key.roles.lhs, key.roles.rhs)]
    left, right = (x if keep else y for x, y, keep in zip((lhs, rhs), low, keeps, strict=True))
    return key.handed_over(product(op, *low)), _Saved(left, right, sizes)


@functools.partial(jax.jit, static_argnums=0, inline=True)
def _backward(key: _Key, saved: _Saved, cotangent: Array) -> tuple[Array, Array, None]:
    op, roles = key.op(saved.sizes), key.roles

    def tagged(x: Array, fmt: Format, side: int) -> Tagged:
        waits = is_scaled(roles.grad) and is_scaled(fmt)
        return Tagged(x, fmt) if waits else Tagged(bring_for(op, x, fmt, side), None)

    operands = [tagged(saved.lhs, roles.lhs.format, 0), tagged(saved.rhs, roles.rhs.format, 1)]
    g = tagged(cotangent, roles.grad, 0)

    def grad(side: int, operand: Operand) -> Array:
        own = cast_to(cotangent_of(op, side, operands, g), roles.accum)
        return cast_to(own, operand.grad).astype(key.dtypes[side])

    return grad(0, roles.lhs), grad(1, roles.rhs), None


_product.defvjp(_forward, _backward)

# Layers that are alike are traced once; nothing of it is left in the program.
_once = functools.partial(jax.jit, static_argnums=3, inline=True)
_plain_once, _product_once = _once(_plain), _once(_product)
