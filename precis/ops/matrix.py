"""Matrix ops with a format for every role, forward and backward.

The casts happen inside the op's own differentiation rule. So a parameter is saved for the
backward pass as it is stored, never as a second copy in the compute format, and the forward
product, the input gradient and the weight gradient each get formats of their own.

A scaled format has its groups along what a product sums over. The backward products sum over
other axes, so what runs on a scaled grid there is brought onto it anew, from unrounded values.
Where the cotangent's format is not scaled, they take the operands as the forward product had
them: the gradient is then that of the product of rounded operands, straight through the rounding.
Each of the two products has a format for the cotangent, and goes by it alone.

What is rounded by chance follows the same lines. What was drawn for the forward product is drawn
again, the same, where the backward products take what it had; and what is brought onto a scaled
grid anew is drawn anew, for each product by itself.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.extend import core as jex_core

from precis.formats import cast_to
from precis.ops.backward import backward_product, kept_of
from precis.ops.cotangents import bring_coded_for, bring_for
from precis.ops.noise import key_of
from precis.ops.operand import Coded
from precis.ops.product import MatrixOp, product
from precis.ops.roles import Roles
from precis.ops.stored import stored_op
from precis.ops.tangent import cast_with_tangent
from precis.quant import Kernel, QTensor, Stored


class _Saved(NamedTuple):
    """What the backward pass needs: parameters as stored, the rest as it was multiplied."""

    lhs: Any
    rhs: Any
    sizes: Array | None
    noise: Array | None


def matrix_op(
    op: MatrixOp,
    lhs: Array | Stored,
    rhs: Array | Stored,
    *,
    roles: Roles,
    noise: Array | None = None,
    forward_mode: bool = False,
) -> Array:
    """The product of `lhs` and `rhs` under `roles`, in `roles.out`'s carrier dtype.

    Integers are multiplied as integers, 16-bit operands summed in float32 (float64 operands in
    float64). Formats without a dtype take the product of the narrowest dtype that holds them, on
    rounded operands, and are rounded once at the output. One scale for all that is summed is
    applied to the sum.

    Args:
        op: The primitive; its own precision and preferred type are replaced.
        lhs: Float array in any float dtype, shaped as the primitive wants; or, if the other is an
            array, a weight in few bits.
        rhs: Likewise.
        roles: The formats.
        noise: [] random key, which stochastic roles need: one for each op of a program.
        forward_mode: Leave out the custom rule, so that `jax.jvp` works. The gradients are then
            JAX's own, and `grad` in roles and operands has no effect.
    """
    how: dict[str, Any] = {"roles": roles, "noise": noise, "forward_mode": forward_mode}
    if isinstance(lhs, QTensor | Kernel):
        assert not isinstance(rhs, QTensor | Kernel)
        return stored_op(op, rhs, lhs, 0, **how)
    if isinstance(rhs, QTensor | Kernel):
        return stored_op(op, lhs, rhs, 1, **how)
    dtypes = lhs.dtype, rhs.dtype
    key = _Key(op.primitive, tuple(sorted(op.params.items())), roles, dtypes)
    run = _plain_once if forward_mode else _product_once
    return run(lhs, rhs, op.group_sizes, noise, key)


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


def _plain(lhs: Array, rhs: Array, sizes: Array | None, noise: Array | None, key: _Key) -> Array:
    op, formats = key.op(sizes), (key.roles.lhs.format, key.roles.rhs.format)
    sides = enumerate(zip((lhs, rhs), formats, strict=True))
    low = (bring_for(op, x, fmt, i, key_of(noise, fmt, x, i)) for i, (x, fmt) in sides)
    out = cast_with_tangent(product(op, *low, formats=formats), key.roles.accum)
    return cast_with_tangent(out, key.roles.out)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _product(lhs: Array, rhs: Array, sizes: Array | None, noise: Array | None, key: _Key) -> Array:
    return _forward(lhs, rhs, sizes, noise, key)[0]


def _forward(
    lhs: Array, rhs: Array, sizes: Array | None, noise: Array | None, key: _Key
) -> tuple[Array, _Saved]:
    op, formats = key.op(sizes), (key.roles.lhs.format, key.roles.rhs.format)
    sides = enumerate(zip((lhs, rhs), formats, strict=True))
    low = [bring_coded_for(op, x, fmt, i, key_of(noise, fmt, x, i)) for i, (x, fmt) in sides]
    out = product(op, *low, formats=formats)
    operands, grads = (key.roles.lhs, key.roles.rhs), key.roles.grads
    # Each operand is a factor of the other's cotangent.
    sides = zip((lhs, rhs), low, operands, grads[::-1], strict=True)
    left, right = (kept_of(*side) for side in sides)
    return key.handed_over(out), _Saved(left, right, sizes, noise)


@functools.partial(jax.jit, static_argnums=0, inline=True)
def _backward(key: _Key, saved: _Saved, cotangent: Array) -> tuple[Array, Array, None, None]:
    op, kept = key.op(saved.sizes), (saved.lhs, saved.rhs)

    def grad(side: int) -> Array:
        shape = kept[side].codes.shape if isinstance(kept[side], Coded) else kept[side].shape
        how: Any = {"shape": shape, "noise": saved.noise}
        out = backward_product(op, side, key.roles, kept[1 - side], cotangent, **how)
        return out.astype(key.dtypes[side])

    return grad(0), grad(1), None, None


_product.defvjp(_forward, _backward)

# Layers that are alike are traced once; nothing of it is left in the program.
_once = functools.partial(jax.jit, static_argnums=4, inline=True)
_plain_once, _product_once = _once(_plain), _once(_product)
